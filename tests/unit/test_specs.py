"""What each type accepts and refuses before any network call, and in which words."""

import contextlib
import json
import random
from typing import Any

import pytest
from botocore.utils import is_valid_endpoint_url

from app.domain import endpoint
from app.domain.destination import parse_create
from app.domain.errors import InvalidParameters, ParameterFault
from app.domain.types import SPECS, parse
from app.domain.types.s3 import S3Spec
from app.domain.types.s3compatible import S3CompatibleSpec
from tests.types.every import GOOD, STORAGES
from tests.types.gcs import PEM, SERVICE_ACCOUNT


def faults(kind: str, *, allow_http: bool = False, **changes: Any) -> list[ParameterFault]:
    """What is wrong with a good body of `kind` after `changes`."""
    with pytest.raises(InvalidParameters) as caught:
        parse({"type": kind, **GOOD[kind], **changes}, allow_http=allow_http)
    return caught.value.faults


@pytest.mark.parametrize("kind", SPECS)
def test_a_complete_body_is_read_and_its_credentials_are_kept_apart(kind: str) -> None:
    spec = parse({"type": kind, **GOOD[kind]}, allow_http=False)
    assert spec.with_credentials() == {"type": kind, **GOOD[kind]}
    assert not set(spec.public()) & set(spec.secrets())
    for secret in spec.secrets().values():
        assert secret not in repr(spec) + str(spec) + json.dumps(spec.public())


@pytest.mark.parametrize("kind", SPECS)
def test_every_required_parameter_is_named_when_missing_all_at_once(kind: str) -> None:
    with pytest.raises(InvalidParameters) as caught:
        parse_create({"type": kind}, allow_http=False)
    named = {fault.parameter for fault in caught.value.faults}
    expected = {"name", "enabled"} | ({"gcs_access_key", "gcs_bucket_name"} if kind == "gcs" else set(GOOD[kind]))
    # The two ways of GCS are a rule about several parameters, which is judged once each is well-formed.
    assert named == expected - ({"gcs_access_key"} if kind == "gcs" else set())
    assert {fault.code for fault in caught.value.faults} == {"missing_parameter"}


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("value", [7, True, ["x"], {"a": 1}, 1.5])
def test_a_parameter_of_the_wrong_json_type_is_refused(kind: str, value: object) -> None:
    for name in GOOD[kind]:
        (fault,) = faults(kind, **{name: value})
        assert fault.parameter == name
        assert fault.code == "invalid_parameter"


@pytest.mark.parametrize("kind", SPECS)
def test_control_characters_and_inner_spaces_are_refused_in_every_field(kind: str) -> None:
    for name, value in GOOD[kind].items():
        for bad in (
            value[:2] + "\r\nX-Evil: 1" + value[2:],
            value[:2] + "\x00" + value[2:],
            value[:2] + " " + value[2:],
        ):
            (fault,) = faults(kind, **{name: bad})
            assert fault.parameter == name
            assert bad not in fault.message


@pytest.mark.parametrize("kind", SPECS)
def test_white_space_around_pasted_values_is_trimmed(kind: str) -> None:
    padded = {name: f"  {value}\n" for name, value in GOOD[kind].items()}
    assert parse({"type": kind, **padded}, allow_http=False).with_credentials() == {"type": kind, **GOOD[kind]}


def test_an_unknown_parameter_and_one_of_another_type_are_told_apart() -> None:
    first, second = faults("s3", gcs_access_key="x", s3_bucket="y")
    assert (first.parameter, first.code) == ("gcs_access_key", "unknown_parameter")
    assert "does not belong to type=s3" in first.message
    assert (second.parameter, second.code) == ("s3_bucket", "unknown_parameter")
    assert "spelling" in second.message


@pytest.mark.parametrize("kind", [None, "", "S3", "ftp", 5, ["s3"], {}])
def test_a_wrong_type_names_the_types_there_are(kind: object) -> None:
    with pytest.raises(InvalidParameters) as caught:
        parse({"type": kind}, allow_http=False)
    assert "s3compatible" in caught.value.message


MALFORMED = [(storage.type, *row) for storage in STORAGES.values() for row in storage.malformed]


@pytest.mark.parametrize(("kind", "parameter", "value", "code"), MALFORMED)
def test_a_malformed_value_is_refused_by_name(kind: str, parameter: str, value: str, code: str) -> None:
    (fault,) = faults(kind, **{parameter: value})
    assert (fault.parameter, fault.code) == (parameter, code)
    assert fault.message.startswith(parameter)
    assert fault.message.endswith(".")


def test_advice_recognises_what_was_pasted() -> None:
    assert "connection string" in faults("azure", azure_account_key="DefaultEndpointsProtocol=https;x=y")[0].message
    assert "shared access" in faults("azure", azure_account_key="sv=1&sig=2")[0].message
    assert "Amazon key" in faults("gcs", gcs_access_key="AKIAIOSFODNN7EXAMPLE")[0].message
    assert "gcs_service_account_key" in faults("gcs", gcs_access_key="{}")[0].message


@pytest.mark.parametrize("name", ["My_Legacy_Bucket", "ABCD_Central_1", "a" * 64, "old_"])
def test_an_old_name_of_us_east_1_is_accepted(name: str) -> None:
    spec = parse({"type": "s3", **GOOD["s3"], "s3_bucket_name": name}, allow_http=False)
    assert isinstance(spec, S3Spec)
    assert spec.s3_access().addressing == "path"


def test_the_bare_region_of_oss_means_the_same() -> None:
    spec = parse({"type": "oss", **GOOD["oss"], "oss_region_id": "cn-hangzhou"}, allow_http=False)
    assert spec.public()["oss_region_id"] == "oss-cn-hangzhou"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://AMS3.digitaloceanspaces.com/", "https://ams3.digitaloceanspaces.com"),
        ("https://s3.example.com:443", "https://s3.example.com"),
        ("https://s3.example.com.:9000", "https://s3.example.com:9000"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://203.0.113.7", "https://203.0.113.7"),
        ("https://[2001:db8::1]:9000", "https://[2001:db8::1]:9000"),
    ],
)
def test_an_endpoint_is_kept_in_one_spelling(given: str, kept: str) -> None:
    spec = parse({"type": "s3compatible", **GOOD["s3compatible"], "s3_endpoint": given}, allow_http=False)
    assert spec.public()["s3_endpoint"] == kept


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://s3.example.com",
        "s3.example.com",
        "ftp://s3.example.com",
        "https://",
        "https://user:pw@s3.example.com",
        "https://@s3.example.com",
        "https://s3.example.com/a/../b",
        "https://s3.example.com//a",
        "https://s3.example.com/a%2Fb",
        "https://s3.example.com/.a",
        "https://s3.example.com/My_Bucket",
        "https://s3.example.com/base/My_Bucket/",
        "https://s3.example.com/base?x=1",
        "https://ams3.digitaloceanspaces.com/base",
        "https://s3.example.com?x=1",
        "https://s3.example.com?",
        "https://s3.example.com#f",
        "https://s3.example.com:22",
        "https://s3.example.com:0",
        "https://s3.example.com:99999",
        "https://s3.example.com:port",
        "https://2130706433",
        "https://0x7f000001",
        "https://0177.0.0.1",
        "https://127.1",
        "https://1.2.3.4.5",
        "https://256.1.1.1",
        "https://exa mple.com",
        "https://example.com\\@evil.com",
        "https://a..b",
        "https://-a.com",
        f"https://{'a' * 64}.com",
        f"https://{'a.' * 130}com",
        "https://[::1",
        "unix:///var/run/x",
    ],
)
def test_an_endpoint_that_is_more_or_less_than_a_host_is_refused(endpoint: str) -> None:
    (fault,) = faults("s3compatible", s3_endpoint=endpoint)
    assert fault.parameter == "s3_endpoint"


def test_plain_http_is_accepted_only_where_the_operator_allows_it() -> None:
    body = {"type": "s3compatible", **GOOD["s3compatible"], "s3_endpoint": "http://127.0.0.1:9000"}
    assert parse(body, allow_http=True).public()["s3_endpoint"] == "http://127.0.0.1:9000"
    with pytest.raises(InvalidParameters):
        parse(body, allow_http=False)


@pytest.mark.parametrize(
    ("endpoint", "region", "addressing"),
    [
        ("https://ams3.digitaloceanspaces.com", "ams3", "path"),
        ("https://abc.r2.cloudflarestorage.com", "auto", "path"),
        ("https://s3.us-west-004.backblazeb2.com", "us-west-004", "path"),
        ("https://s3.eu-central-1.wasabisys.com", "eu-central-1", "path"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1", "path"),
        ("https://s3.oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou", "virtual"),
        ("https://oss-cn-hangzhou.aliyuncs.com:8443", "cn-hangzhou", "virtual"),
        ("https://cos.ap-beijing.myqcloud.com", "ap-beijing", "virtual"),
        ("https://s3.123.wasabisys.com", "us-east-1", "path"),
        ("https://storage.googleapis.com", "auto", "path"),
        ("https://minio.example.com:9000", "us-east-1", "path"),
    ],
)
def test_a_host_tells_its_region_and_addressing(endpoint: str, region: str, addressing: str) -> None:
    spec = parse({"type": "s3compatible", **GOOD["s3compatible"], "s3_endpoint": endpoint}, allow_http=False)
    assert isinstance(spec, S3CompatibleSpec)
    access = spec.s3_access()
    assert (access.endpoint, access.region, access.addressing) == (endpoint, region, addressing)


def test_a_bucket_pasted_into_the_endpoint_is_recognised() -> None:
    changes = {"s3_bucket_name": "my-bucket", "s3_endpoint": "https://my-bucket.ams3.digitaloceanspaces.com"}
    spec = parse({"type": "s3compatible", **GOOD["s3compatible"], **changes}, allow_http=False)
    assert isinstance(spec, S3CompatibleSpec)
    assert spec.s3_access().endpoint == "https://ams3.digitaloceanspaces.com"


@pytest.mark.parametrize("end", ["", "/"])
def test_an_api_may_be_under_a_path(end: str) -> None:
    endpoint = "https://ref.storage.supabase.co/storage/v1/s3"
    spec = parse({"type": "s3compatible", **GOOD["s3compatible"], "s3_endpoint": endpoint + end}, allow_http=False)
    assert isinstance(spec, S3CompatibleSpec)
    assert spec.public()["s3_endpoint"] == endpoint
    assert spec.s3_access().endpoint == endpoint
    # Whether the path is another bucket's is asked.
    assert "host" in spec.s3_access().assumed


@pytest.mark.parametrize(
    "host",
    [
        "ams3.digitaloceanspaces.com",
        "0123456789abcdef.r2.cloudflarestorage.com",
        "0123456789abcdef.eu.r2.cloudflarestorage.com",
        "s3.us-west-004.backblazeb2.com",
        "s3.wasabisys.com",
        "s3.amazonaws.com",
        "s3.eu-west-1.amazonaws.com",
        "s3-eu-west-1.amazonaws.com",
        "s3.dualstack.eu-west-1.amazonaws.com",
        "s3.cn-north-1.amazonaws.com.cn",
        "s3.eusc-de-east-1.amazonaws.eu",
        "storage.googleapis.com",
        "oss-cn-hangzhou.aliyuncs.com",
        "cos.ap-beijing.myqcloud.com",
        "fsn1.your-objectstorage.com",
        "s3.gra.io.cloud.ovh.net",
        "s3.fr-par.scw.cloud",
        "s3.eu-central-1.ionoscloud.com",
        "ns.compat.objectstorage.us-phoenix-1.oraclecloud.com",
        "s3.private.dal.us.cloud-object-storage.appdomain.cloud",
        "us-east-1.linodeobjects.com",
        "ewr1.vultrobjects.com",
        "obs.cn-south-1.myhuaweicloud.com",
        "tos-s3-cn-beijing.volces.com",
        "storage.yandexcloud.net",
    ],
)
def test_an_endpoint_that_names_another_bucket_is_refused(host: str) -> None:
    """Files would end up in a folder of that bucket."""
    for bucket, names in (("results", "results."), ("results", ""), ("re.sults", "re.sults.")):
        body = {**GOOD["s3compatible"], "s3_bucket_name": bucket, "s3_endpoint": f"https://{names}{host}:8443"}
        spec = parse({"type": "s3compatible", **body}, allow_http=False)
        assert isinstance(spec, S3CompatibleSpec)
        assert spec.s3_access().endpoint == f"https://{host}:8443"
        assert "host" not in spec.s3_access().assumed
    for names in ("other-bucket.", "results.other.", "other.results.", "resultsx."):
        (fault,) = faults("s3compatible", s3_bucket_name="results", s3_endpoint=f"https://{names}{host}")
        assert (fault.parameter, fault.code) == ("s3_endpoint", "invalid_parameter")
        assert "another bucket" in fault.message and "other" not in fault.message.replace("another", "")


@pytest.mark.parametrize(
    ("host", "region", "addressing"),
    [
        ("s3.us-south.cloud-object-storage.appdomain.cloud", "us-south", "path"),
        ("s3.private.eu-de.cloud-object-storage.appdomain.cloud", "eu-de", "path"),
        ("s3.direct.jp-tok.cloud-object-storage.appdomain.cloud", "jp-tok", "path"),
        ("s3.dal.us.cloud-object-storage.appdomain.cloud", "us", "path"),
        ("s3.private.fra.eu.cloud-object-storage.appdomain.cloud", "eu", "path"),
        ("us-iad-1.linodeobjects.com", "us-iad-1", "path"),
        ("ewr1.vultrobjects.com", "ewr1", "path"),
        ("tos-s3-cn-beijing.volces.com", "cn-beijing", "virtual"),
        ("obs.cn-south-1.myhuaweicloud.com", "cn-south-1", "virtual"),
        ("s3.eu-central-1.ionoscloud.com", "de", "path"),
        ("ns.compat.objectstorage.us-phoenix-1.oraclecloud.com", "us-phoenix-1", "path"),
    ],
)
def test_a_services_host_tells_the_region_and_the_style(host: str, region: str, addressing: str) -> None:
    for names in ("", "results."):
        body = {**GOOD["s3compatible"], "s3_bucket_name": "results", "s3_endpoint": f"https://{names}{host}"}
        spec = parse({"type": "s3compatible", **body}, allow_http=False)
        assert isinstance(spec, S3CompatibleSpec)
        access = spec.s3_access()
        assert (access.endpoint, access.region, access.addressing) == (f"https://{host}", region, addressing)
        assert not access.guessed


@pytest.mark.parametrize("host", ["store_1.example.com", "_s3.example.com", "s3.my_company.example", "a_"])
def test_a_host_that_botocore_would_not_call_is_refused_by_name(host: str) -> None:
    (fault,) = faults("s3compatible", s3_endpoint=f"https://{host}")
    assert (fault.parameter, fault.code) == ("s3_endpoint", "invalid_parameter")
    assert "underscore" in fault.message and host not in fault.message


def test_a_host_that_is_accepted_is_one_that_botocore_calls() -> None:
    """Another is a ValueError of its, which a customer was told as a fault of ours."""
    chance, accepted = random.Random(13), 0
    for _ in range(5_000):
        host = "".join(chance.choices("ab19-_.", (9, 9, 4, 4, 4, 1, 4), k=chance.randint(1, 12)))
        with contextlib.suppress(endpoint.NotAnEndpoint):
            url = endpoint.parse(f"https://{host}", example="x", allow_http=False)
            assert is_valid_endpoint_url(url), url
            accepted += 1
    assert accepted > 500


def test_a_company_may_have_a_bucket_called_as_its_host_is() -> None:
    changes = {"s3_bucket_name": "data", "s3_endpoint": "https://data.example.com"}
    spec = parse({"type": "s3compatible", **GOOD["s3compatible"], **changes}, allow_http=False)
    assert isinstance(spec, S3CompatibleSpec)
    assert spec.s3_access().endpoint == "https://data.example.com"


@pytest.mark.parametrize("as_text", [True, False])
def test_a_service_account_key_is_reduced_to_what_signing_needs(as_text: bool) -> None:
    key: Any = json.dumps(SERVICE_ACCOUNT) if as_text else SERVICE_ACCOUNT
    body = {"type": "gcs", "gcs_bucket_name": "my-bucket", "gcs_service_account_key": key}
    kept = json.loads(parse(body, allow_http=False).secrets()["gcs_service_account_key"])
    assert kept == {name: value for name, value in SERVICE_ACCOUNT.items() if name != "token_uri"}


@pytest.mark.parametrize(
    "given",
    [
        json.dumps(json.dumps(SERVICE_ACCOUNT)),
        json.dumps({**SERVICE_ACCOUNT, "private_key": PEM.replace("\n", "\\n")}),
        {**SERVICE_ACCOUNT, "private_key": PEM.replace("\n", "\\n")},
        {**SERVICE_ACCOUNT, "private_key": PEM.replace("\n", "\\\\n")},
        {**SERVICE_ACCOUNT, "private_key": PEM.replace("\n", "\\r\\n")},
    ],
    ids=["a string of a string", "line breaks escaped", "in an object", "twice", "of Windows"],
)
def test_a_service_account_key_that_was_wrapped_once_more_is_the_same_key(given: Any) -> None:
    def kept(key: Any) -> dict[str, str]:
        body = {"type": "gcs", "gcs_bucket_name": "my-bucket", "gcs_service_account_key": key}
        return parse(body, allow_http=False).secrets()

    assert kept(given) == kept(SERVICE_ACCOUNT)


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "external_account"},
        {"type": "authorized_user"},
        {"private_key": ""},
        {"private_key": "not pem"},
        {"private_key": "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n"},
        {"private_key": "\n".join(PEM.splitlines()[:5] + PEM.splitlines()[6:])},
        {"private_key": PEM.replace("\n", "\\t")},
        {"private_key": 5},
        {"client_email": "not an address"},
        {"client_email": None},
        {"project_id": 7},
    ],
)
def test_anything_but_a_service_account_key_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameters) as caught:
        parse(
            {"type": "gcs", "gcs_bucket_name": "my-bucket", "gcs_service_account_key": {**SERVICE_ACCOUNT, **changes}},
            allow_http=False,
        )
    assert [fault.parameter for fault in caught.value.faults] == ["gcs_service_account_key"]
    assert PEM not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "/etc/passwd", "[" * 10_000])
def test_text_that_is_no_key_file_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameters):
        parse({"type": "gcs", "gcs_bucket_name": "my-bucket", "gcs_service_account_key": text}, allow_http=False)


def test_exactly_one_of_the_two_ways_of_gcs_is_taken() -> None:
    (fault,) = faults("gcs", gcs_service_account_key=SERVICE_ACCOUNT)
    assert (fault.parameter, fault.code) == ("gcs_service_account_key", "invalid_parameter")
    (fault,) = faults("gcs", gcs_secret_key=None)
    assert (fault.parameter, fault.code) == ("gcs_secret_key", "missing_parameter")


@pytest.mark.parametrize(
    ("given", "meant"), [(True, True), (False, False), ("true", True), ("false", False), ("1", True), ("0", False)]
)
def test_enabled_is_read_from_its_six_spellings(given: object, meant: bool) -> None:
    assert parse_create({"name": "a", "enabled": given, "type": "s3", **GOOD["s3"]}, allow_http=False).enabled is meant


@pytest.mark.parametrize("given", [2, -1, "yes", "TRUE ", [], {}, 0.5])
def test_enabled_is_read_from_no_other(given: object) -> None:
    with pytest.raises(InvalidParameters) as caught:
        parse_create({"name": "a", "enabled": given, "type": "s3", **GOOD["s3"]}, allow_http=False)
    assert [fault.parameter for fault in caught.value.faults] == ["enabled"]


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "a\x00", "x" * 256, 5, None])
def test_a_name_is_one_line_of_text(name: object) -> None:
    with pytest.raises(InvalidParameters) as caught:
        parse_create({"name": name, "enabled": True, "type": "s3", **GOOD["s3"]}, allow_http=False)
    assert [fault.parameter for fault in caught.value.faults] == ["name"]
