"""One contract, passed by every type of destination, through the whole service."""

from urllib.parse import urlsplit

import pytest

from app.domain.faults import Fault
from app.domain.verification import Step
from tests.contract.conftest import VERIFY_SECONDS
from tests.stack import Answer, Api
from tests.types.base import Backend

# What a machine that is busy with everything else may add to a refusal that waits for nothing: less than the bound of
# a verification there.
PROMPT_SECONDS = 15.0


def stored(api: Api) -> int:
    return int(api.list().json["usage"]["used"])


def is_told(answer: Answer, backend: Backend, case: str) -> None:
    """The refusal says which step failed, why, and where to look, and shows no secret."""
    code, step = backend.verdict(case)
    assert answer.status == (503 if code == Fault.EGRESS_UNAVAILABLE else 400), answer.text
    assert (answer.error["code"], answer.report["code"]) == (code, code), answer.text
    assert answer.json["request_info"] == {"success": False, "message": answer.report["message"]}
    assert [each["step"] for each in answer.report["steps"]] == list(Step)
    # A website's success says nothing of the file: the delete is tried, and is answered in the same way.
    steps = [step, "delete"] if case == "html" else [step]
    assert [each["step"] for each in answer.report["steps"] if each["outcome"] == "failed"] == steps, answer.text
    assert answer.step(step)["code"] == code
    assert all(each["reason"] for each in answer.report["steps"] if each["outcome"] == "skipped")
    assert not [secret for secret in backend.secrets if secret in answer.text]


class TestContract:
    def test_right_credentials_leave_the_bucket_as_it_was(self, service: Api, backend: Backend) -> None:
        objects = backend.objects()
        answer = service.create(backend.right)
        assert answer.status == 200, answer.text
        report = answer.report
        assert report["ok"] and not report["left_behind"] and "code" not in report
        assert {step["step"]: step["outcome"] for step in report["steps"]}["upload"] == "passed"
        assert {step["step"]: step["outcome"] for step in report["steps"]}["delete"] == "passed"
        assert "dropoff-verify-" in report["object"]
        assert backend.objects() == objects
        assert not [secret for secret in backend.secrets if secret in answer.text]
        found = service.call("GET", f"/destinations/{answer.json['destination']['id']}")
        assert found.json["destination"] == answer.json["destination"]

    @pytest.mark.parametrize("case", ["wrong_secret", "unknown_key", "missing_bucket", "write_refused"])
    def test_what_cannot_be_written_to_is_refused(self, service: Api, backend: Backend, case: str) -> None:
        objects, before = backend.objects(), stored(service)
        answer = service.create(backend.body(case))
        is_told(answer, backend, case)
        assert answer.error["parameter"] == backend.blames[case]
        assert not answer.report["left_behind"]
        assert answer.seconds < PROMPT_SECONDS
        assert backend.objects() == objects
        assert stored(service) == before

    def test_what_cannot_be_deleted_is_refused_and_named(self, service: Api, backend: Backend) -> None:
        objects, before = backend.objects(), stored(service)
        answer = service.create(backend.body("delete_refused"))
        is_told(answer, backend, "delete_refused")
        assert answer.error["parameter"] == backend.blames["delete_refused"]
        assert answer.report["left_behind"]
        assert answer.report["object"] in answer.report["message"]
        (left,) = set(backend.objects()) - set(objects)
        assert left.partition("#")[0] == answer.report["object"]
        assert answer.seconds < PROMPT_SECONDS
        assert stored(service) == before

    def test_a_dead_host_is_refused_at_once(self, dead: tuple[Api, str], backend: Backend) -> None:
        api, url = dead
        answer = api.create(backend.at(url))
        is_told(answer, backend, "dead")
        assert urlsplit(url).netloc in answer.report["host"]
        assert answer.seconds < PROMPT_SECONDS
        assert stored(api) == 0

    def test_a_silent_host_is_refused_at_the_bound(self, mute: tuple[Api, str], backend: Backend) -> None:
        api, url = mute
        answer = api.create(backend.at(url))
        code, step = backend.verdict("silent")
        assert (answer.status, answer.error["code"]) == (400, code), answer.text
        assert answer.step(step)["code"] == code
        # The request had left, so that the file may be there: what is not known is said.
        if step == "upload":
            assert answer.step("delete")["code"] == code
            assert answer.report["left_behind"]
            assert answer.report["object"] in answer.report["message"]
        assert VERIFY_SECONDS * 0.7 < answer.seconds < VERIFY_SECONDS + PROMPT_SECONDS
        assert urlsplit(url).netloc in answer.report["host"]
        assert stored(api) == 0

    def test_a_website_is_no_storage(self, website: tuple[Api, str], backend: Backend) -> None:
        api, url = website
        answer = api.create(backend.at(url))
        is_told(answer, backend, "html")
        assert answer.report["left_behind"]
        assert answer.report["object"] in answer.report["message"]
        assert answer.seconds < PROMPT_SECONDS
        assert stored(api) == 0
