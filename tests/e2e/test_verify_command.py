"""`dropoff verify` as somebody on call runs it: in a terminal, in a script, with no service behind it."""

import base64
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping

import psutil
import pytest

from app.domain.types import SPECS
from demo.seaweedfs import SeaweedFS
from tests.servers.gcs import GcsServer
from tests.servers.odd import STORED, gated
from tests.stack import clean_environment, until
from tests.types import gcs as by_gcs
from tests.types import s3compatible

DROPOFF = (sys.executable, "-m", "app.cli", "verify")
LOCAL = {"DROPOFF_ALLOW_HTTP": "1", "DROPOFF_EGRESS_ALLOW": "127.0.0.0/8"}
SECRET = "SENTINEL-a-secret"


def command(parameters: Mapping[str, str]) -> list[str]:
    """The command with every parameter that is no secret."""
    credentials = SPECS[parameters["type"]].credentials()
    public = {name: value for name, value in parameters.items() if name not in credentials}
    return [*DROPOFF, *(part for name, value in public.items() for part in (f"--{name.replace('_', '-')}", value))]


def environment(parameters: Mapping[str, str], **more: str) -> dict[str, str]:
    """The environment with every parameter that is a secret."""
    credentials = SPECS[parameters["type"]].credentials() & set(parameters)
    return clean_environment(**LOCAL, **{name.upper(): parameters[name] for name in credentials}, **more)


def run(arguments: list[str], variables: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        arguments,
        env=dict(variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def right(seaweedfs: SeaweedFS) -> dict[str, str]:
    return dict(s3compatible.backend(seaweedfs, seaweedfs.url).right)


def at(url: str) -> dict[str, str]:
    return {
        "type": "s3compatible", "s3_endpoint": url, "s3_bucket_name": "results",
        "s3_access_key_id": "SENTINEL-key-id", "s3_secret_access_key": SECRET,
    }  # fmt: skip


def test_what_works_is_told_so_with_every_step(right: dict[str, str], seaweedfs: SeaweedFS) -> None:
    objects = seaweedfs.objects("results")
    done = run(command(right), environment(right))
    assert (done.returncode, done.stderr) == (0, "")
    verdict, message, what, *steps = done.stdout.splitlines()
    assert (verdict, message) == ("Passed", "The test file was uploaded and deleted.")
    assert what.startswith("Test file deep/20")
    assert [line.split()[:2] for line in steps] == [
        ["locate", "skipped"], ["resolve", "passed"], ["connect", "passed"], ["upload", "passed"], ["delete", "passed"],
        ["multipart", "skipped"],
    ]  # fmt: skip
    assert seaweedfs.objects("results") == objects


def test_a_wrong_secret_is_told_with_the_providers_words_and_what_to_do(right: dict[str, str]) -> None:
    wrong = {**right, "s3_secret_access_key": SECRET}
    done = run(command(wrong), environment(wrong))
    assert (done.returncode, done.stderr) == (1, "")
    verdict, message, *_ = done.stdout.splitlines()
    assert verdict == "Refused: secret_mismatch  (look at s3_secret_access_key)"
    assert "copy s3_secret_access_key again" in message
    (upload,) = [line for line in done.stdout.splitlines() if line.startswith("  upload")]
    # The host is the customer's, so that its request id is not repeated.
    assert upload.endswith(" ms  secret_mismatch, SignatureDoesNotMatch, HTTP 403")
    assert SECRET not in done.stdout


def test_what_is_left_behind_is_named(right: dict[str, str], seaweedfs: SeaweedFS) -> None:
    wrong = {**right, **s3compatible.backend(seaweedfs, seaweedfs.url).changes["delete_refused"]}
    done = run([*command(wrong), "--json"], environment(wrong))
    report = json.loads(done.stdout)
    assert (done.returncode, report["code"], report["left_behind"]) == (1, "delete_denied", True)
    again = run(command(wrong), environment(wrong))
    left = again.stdout.splitlines()[-1]
    assert left.startswith("Left behind: deep/20")
    assert left.split()[2] in seaweedfs.objects("results")


@pytest.mark.parametrize("changes", [{}, {"s3_secret_access_key": SECRET}])
def test_the_report_as_json_is_the_one_that_the_service_gives(right: dict[str, str], changes: dict[str, str]) -> None:
    parameters = {**right, **changes}
    done = run([*command(parameters), "--json"], environment(parameters))
    report = json.loads(done.stdout)
    assert report["ok"] is not bool(changes)
    assert done.returncode == (1 if changes else 0)
    assert {"host", "object", "duration_ms", "steps", "message"} <= set(report)


def test_gcs_takes_either_kind_of_key(seaweedfs: SeaweedFS, gcs: GcsServer) -> None:
    google = {"DROPOFF_GCS_ENDPOINT": gcs.url, "DROPOFF_GCS_TOKEN_ENDPOINT": gcs.token_url}
    for backend in (by_gcs.by_hmac(seaweedfs), by_gcs.by_service_account(gcs)):
        done = run(command(backend.right), environment(backend.right, **google))
        assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_everything_that_is_wrong_is_told_at_once_with_the_variable_to_set() -> None:
    done = run(
        [*DROPOFF, "--type", "s3", "--s3-bucket-name", "B!", "--gcs-bucket-name", "x"],
        clean_environment(S3_ACCESS_KEY_ID="SENTINEL-of-no-shape"),
    )
    assert (done.returncode, done.stdout) == (2, "")
    told = done.stderr.splitlines()
    assert all(line.startswith("dropoff verify: ") for line in told)
    for words in (
        "s3_bucket_name must be a bucket's name",
        "gcs_bucket_name does not belong to type=s3",
        "s3_access_key_id must be an access key id",
        "s3_secret_access_key is required when type=s3. Set S3_SECRET_ACCESS_KEY in the environment.",
    ):
        assert [line for line in told if words in line]
    assert "SENTINEL" not in done.stderr


def test_the_two_ways_of_gcs_are_named_where_none_is_given() -> None:
    done = run([*DROPOFF, "--type", "gcs", "--gcs-bucket-name", "results"], clean_environment())
    assert done.returncode == 2
    assert "unless gcs_service_account_key is sent. Set GCS_ACCESS_KEY in the environment." in done.stderr


@pytest.mark.parametrize(
    "given", [["--s3-secret-access-key", SECRET], [f"--s3-secret-access-key={SECRET}"], ["--", SECRET], [SECRET]]
)
def test_a_secret_is_no_argument_and_not_repeated(right: dict[str, str], given: list[str]) -> None:
    done = run([*command(right), *given], environment(right))
    assert (done.returncode, done.stdout) == (2, "")
    assert SECRET not in done.stderr
    if given[0].startswith("--s3"):
        assert "set S3_SECRET_ACCESS_KEY in the environment" in done.stderr


@pytest.mark.parametrize("variable", ["DROPOFF_VERIFY_SECONDS", "DROPOFF_EGRESS_ALLOW"])
def test_a_setting_that_makes_no_sense_is_named(variable: str, right: dict[str, str]) -> None:
    done = run(command(right), {**environment(right), variable: "nonsense"})
    assert done.returncode == 2
    assert variable in done.stderr


def test_the_guard_holds_here_too(right: dict[str, str]) -> None:
    done = run(command(right), {**environment(right), "DROPOFF_EGRESS_ALLOW": ""})
    assert (done.returncode, done.stdout.splitlines()[0].split()[1]) == (1, "endpoint_not_allowed")
    assert "DROPOFF_EGRESS_ALLOW" in done.stderr and "DROPOFF_EGRESS_ALLOW" not in done.stdout
    done = run(command(right), {**environment(right), "DROPOFF_ALLOW_HTTP": "no"})
    assert (done.returncode, "s3_endpoint must begin with https://" in done.stderr) == (2, True)
    assert "DROPOFF_ALLOW_HTTP" in done.stderr


def test_no_secret_is_in_the_arguments_of_the_process_and_an_interrupt_names_the_file() -> None:
    with gated(STORED) as store:
        parameters = at(store.url)
        process = subprocess.Popen(
            command(parameters), env=environment(parameters), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        until(lambda: store.requests, "the store is called")
        shown = psutil.Process(process.pid).cmdline()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert "verify" in shown
    assert "SENTINEL" not in " ".join(shown) + output + errors
    assert (process.returncode, output) == (130, "")
    assert errors.startswith("Interrupted: dropoff-verify-")


@contextlib.contextmanager
def terminal_of(arguments: list[str], variables: Mapping[str, str]) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """The command with a terminal as its input and its standard error, and that terminal's other end."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        arguments, env=dict(variables), stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.communicate()
        os.close(ours)


def read_until(terminal: int, words: str) -> str:
    """What the terminal shows, up to `words`."""
    shown = ""
    while words not in shown:
        shown += os.read(terminal, 1024).decode()
    return shown


def test_on_a_terminal_what_is_missing_is_asked_for_and_not_shown(right: dict[str, str]) -> None:
    key, secret = right["s3_access_key_id"], right["s3_secret_access_key"]
    with terminal_of([*command(right), "--json"], clean_environment(**LOCAL)) as (process, screen):
        # The space behind the colon is written when the terminal shows nothing any more.
        shown = read_until(screen, "s3_access_key_id (is not shown): ")
        os.write(screen, f"{key}\n".encode())
        shown += read_until(screen, "s3_secret_access_key (is not shown): ")
        os.write(screen, f"{secret}\n".encode())
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(output)["ok"]
    assert key not in shown + output
    assert secret not in shown + output


def test_nothing_is_asked_for_where_something_else_is_wrong(right: dict[str, str]) -> None:
    with terminal_of(command({**right, "s3_bucket_name": ".."}), clean_environment(**LOCAL)) as (process, screen):
        shown = read_until(screen, "Set S3_SECRET_ACCESS_KEY")
        assert process.wait(60) == 2
    assert "is not shown" not in shown


def test_who_does_not_answer_has_interrupted(right: dict[str, str]) -> None:
    with terminal_of(command(right), clean_environment(**LOCAL)) as (process, screen):
        read_until(screen, "(is not shown): ")
        os.write(screen, b"\x04")
        assert process.wait(60) == 130


def test_what_breaks_on_our_side_is_no_verdict() -> None:
    key = base64.b64encode(b"SENTINEL-azure".ljust(64, b"!")).decode()
    parameters = {
        "type": "azure", "azure_account_name": "account", "azure_container_name": "box", "azure_account_key": key,
    }  # fmt: skip
    done = run(command(parameters), environment(parameters, DROPOFF_AZURE_ENDPOINT="http://[{account}"))
    assert (done.returncode, done.stdout) == (3, "")
    assert json.loads(done.stderr)["event"] == "verification broke"
    assert key not in done.stderr


def test_the_help_names_every_parameter_secret_and_exit_code() -> None:
    done = run([*DROPOFF, "--help"], clean_environment())
    for spec in SPECS.values():
        for name in spec.parameters():
            assert (name.upper() if name in spec.credentials() else f"--{name.replace('_', '-')} ") in done.stdout
    for code in (0, 1, 2, 3, 130):
        assert f"\n    {code} " in done.stdout
