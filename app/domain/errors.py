"""The errors a caller can be answered with, and the vocabulary of reasons for which storage refuses us."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """The part a parameter plays, whatever its name is for a type: a fault blames a role."""

    KEY = "key"
    SECRET = "secret"
    BUCKET = "bucket"
    PREFIX = "prefix"
    ENDPOINT = "endpoint"
    REGION = "region"


class Fault(StrEnum):
    """Why a verification failed. A code once answered to a customer never changes its meaning."""

    INVALID_PARAMETER = "invalid_parameter"
    TEMPORARY_CREDENTIALS_UNSUPPORTED = "temporary_credentials_unsupported"
    ENDPOINT_NOT_ALLOWED = "endpoint_not_allowed"
    HOST_NOT_FOUND = "host_not_found"
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_FAILED = "connection_failed"
    TIMEOUT = "timeout"
    TLS_FAILURE = "tls_failure"
    REDIRECT_REFUSED = "redirect_refused"
    NOT_A_STORAGE_ENDPOINT = "not_a_storage_endpoint"
    ACCESS_KEY_UNKNOWN = "access_key_unknown"
    ACCESS_KEY_DISABLED = "access_key_disabled"
    SECRET_MISMATCH = "secret_mismatch"
    CREDENTIALS_EXPIRED = "credentials_expired"
    AUTH_METHOD_DISABLED = "auth_method_disabled"
    ACCOUNT_SUSPENDED = "account_suspended"
    CLOCK_SKEW = "clock_skew"
    BUCKET_NOT_FOUND = "bucket_not_found"
    BUCKET_WRONG_REGION = "bucket_wrong_region"
    CUSTOM_DOMAIN_REQUIRED = "custom_domain_required"
    UNSUPPORTED_BUCKET_TYPE = "unsupported_bucket_type"
    BUCKET_NAME_NOT_A_HOST = "bucket_name_not_a_host"
    WRITE_DENIED = "write_denied"
    DELETE_DENIED = "delete_denied"
    NETWORK_DENIED = "network_denied"
    ENCRYPTION_REQUIRED = "encryption_required"
    ENCRYPTION_KEY_UNAVAILABLE = "encryption_key_unavailable"
    REQUEST_CONDITION_DENIED = "request_condition_denied"
    DELETE_BLOCKED_BY_RETENTION = "delete_blocked_by_retention"
    REQUESTER_PAYS = "requester_pays"
    QUOTA_EXCEEDED = "quota_exceeded"
    PROTOCOL_UNSUPPORTED = "protocol_unsupported"
    THROTTLED = "throttled"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    PROVIDER_ERROR = "provider_error"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True)
class Advice:
    """What a customer is told: a text may name {parameter} {provider} {host} {bucket} {noun} {prefix} {object}
    {seconds} {detail}; `role` is the parameter to look at; `retryable` says that the same call may succeed later
    without a change. `by_type` has the text for a type where another step is the next one.

    {provider} begins a sentence, {noun} is what the type calls a bucket, and {detail} brings its own space and
    brackets where it may be empty.
    """

    text: str
    role: Role | None = None
    retryable: bool = False
    by_type: Mapping[str, str] = field(default_factory=dict)

    def of(self, kind: str) -> str:
        """The text for the type `kind`."""
        return self.by_type.get(kind, self.text)


ADVICE: dict[Fault, Advice] = {
    Fault.INVALID_PARAMETER: Advice("{parameter} {detail}."),
    Fault.TEMPORARY_CREDENTIALS_UNSUPPORTED: Advice(
        "{parameter} is a temporary key ({detail}): create a long-lived key for a dedicated user and send that.",
        Role.KEY,
    ),
    Fault.ENDPOINT_NOT_ALLOWED: Advice(
        "{host} is not at a public address, which is all that may be called: check {parameter}, and that it can be "
        "reached from the internet.",
        Role.ENDPOINT,
        by_type={
            "s3compatible": "{parameter}: the endpoint must be a public https host; this one may not be called.",
        },
    ),
    Fault.HOST_NOT_FOUND: Advice(
        "{host} does not resolve to a public address: check {parameter} for a typing error.",
        Role.ENDPOINT,
        by_type={
            "s3compatible": "{host} does not resolve to a public address: check {parameter} for a typing error. Hosts "
            "of a private network are not reachable from here.",
            "azure": "{host} does not resolve to a public address: check {parameter} for a typing error. Accounts with "
            "a DNS-zone endpoint, in a sovereign cloud or with private endpoints only are not reachable under this "
            "name.",
        },
    ),
    Fault.CONNECTION_REFUSED: Advice(
        "{host} refused the connection: check {parameter}, and try again later if it is right.",
        Role.ENDPOINT,
        by_type={
            "s3compatible": "{host} refused the connection: check the host and port in {parameter}, and that the "
            "service is public.",
        },
    ),
    Fault.CONNECTION_FAILED: Advice(
        "The connection to {host} failed or was cut: try again, and check {parameter} and firewalls on the way if it "
        "stays so.",
        Role.ENDPOINT,
        retryable=True,
    ),
    Fault.TIMEOUT: Advice(
        "{host} did not answer within {seconds} seconds: check that it is up, that {parameter} is right and that "
        "our addresses may reach it.",
        Role.ENDPOINT,
        retryable=True,
    ),
    Fault.TLS_FAILURE: Advice(
        "{host} did not pass the TLS check ({detail}): check {parameter}, and try again later if it is right.",
        Role.ENDPOINT,
        by_type={
            "s3compatible": "{host} did not pass the TLS check ({detail}): install a publicly trusted certificate for "
            "exactly this host name, or correct {parameter}.",
        },
    ),
    Fault.REDIRECT_REFUSED: Advice(
        "{host} answers with a redirect, which is not followed: check {parameter}.",
        Role.ENDPOINT,
        by_type={
            "s3compatible": "{host} answers with a redirect, which is not followed: give the final address in "
            "{parameter}.",
        },
    ),
    Fault.NOT_A_STORAGE_ENDPOINT: Advice(
        "{host} answered, but not as object storage does: check {parameter}, and try again later if it is right.",
        Role.ENDPOINT,
        by_type={
            "s3compatible": "{host} answered, but not as object storage does: check that {parameter} is the storage "
            "API's address and not that of a console or website.",
        },
    ),
    Fault.ACCESS_KEY_UNKNOWN: Advice(
        "{provider} does not know this access key: check {parameter} (mistyped, deleted, inactive, or of another "
        "account).",
        Role.KEY,
        by_type={
            "s3compatible": "{provider} does not know this access key: check {parameter} (mistyped, deleted, "
            "inactive, or of another account; Backblaze B2 takes an application key and not the master key).",
        },
    ),
    Fault.ACCESS_KEY_DISABLED: Advice(
        "The access key exists but is inactive or limited to other addresses: enable the key in {parameter}, or "
        "allow our addresses.",
        Role.KEY,
    ),
    Fault.SECRET_MISMATCH: Advice(
        "The secret does not belong to this access key: copy {parameter} again, whole, without spaces or line breaks.",
        Role.SECRET,
        by_type={
            "azure": "The key does not belong to this account: copy {parameter} again, whole, and check "
            "azure_account_name.",
        },
    ),
    Fault.CREDENTIALS_EXPIRED: Advice(
        "The credentials have expired: create a long-lived key and send it in {parameter}.", Role.KEY
    ),
    Fault.AUTH_METHOD_DISABLED: Advice(
        "Access with this kind of key is switched off for the account: allow it there, or send another kind of "
        "credential in place of {parameter}.",
        Role.KEY,
        by_type={
            "azure": "Access with account keys is switched off: allow storage account key access on the account, "
            "since {parameter} is the only kind of credential that can be given here.",
        },
    ),
    Fault.ACCOUNT_SUSPENDED: Advice(
        "{provider} has suspended or disabled the account of {parameter} or of {bucket} (billing or policy): settle "
        "that with its support, then try again.",
        Role.KEY,
    ),
    Fault.CLOCK_SKEW: Advice(
        "{provider} rejected the time of our request, which is our fault: please try again.", retryable=True
    ),
    Fault.BUCKET_NOT_FOUND: Advice(
        "{bucket} does not exist there: check {parameter}, or create the {noun}.",
        Role.BUCKET,
        by_type={
            "s3": "{bucket} does not exist: check {parameter}, or create it. A bucket in China or GovCloud needs "
            "type=s3compatible.",
        },
    ),
    Fault.BUCKET_WRONG_REGION: Advice(
        "{bucket} is in another region than the one that was called{detail}: correct {parameter}.",
        Role.REGION,
        by_type={
            "s3": "{bucket} is in another region than the one that was found for it{detail}: check {parameter}, and "
            "try again in a few minutes.",
            "s3compatible": "{bucket} is in another region than the one that was called: correct {parameter}, or give "
            "the address of the bucket's own region in s3_endpoint.",
        },
    ),
    Fault.CUSTOM_DOMAIN_REQUIRED: Advice(
        "{provider} does not serve {bucket} at its default public endpoint, as is the rule for mainland China: use a "
        "{noun} outside mainland China in {parameter}.",
        Role.BUCKET,
    ),
    Fault.UNSUPPORTED_BUCKET_TYPE: Advice(
        "{parameter} must be the plain name of a general purpose bucket: ARNs, access points, aliases and "
        "directory buckets are not supported.",
        Role.BUCKET,
    ),
    Fault.BUCKET_NAME_NOT_A_HOST: Advice(
        "{provider} is called under host names that begin with the {noun}'s, and {bucket} cannot be part of one: give "
        "a {noun} of lower-case letters, digits and hyphens in {parameter}.",
        Role.BUCKET,
    ),
    Fault.WRITE_DENIED: Advice(
        "The key may not write to {prefix} in {bucket}{detail}: allow it to put objects there, or correct {parameter}.",
        Role.PREFIX,
    ),
    Fault.DELETE_DENIED: Advice(
        "The upload works but the delete was refused{detail}: allow the key in {parameter} to delete objects named "
        "*dropoff-verify-* in {bucket}, and remove {object}, which was left behind.",
        Role.KEY,
    ),
    Fault.NETWORK_DENIED: Advice(
        "A firewall or network rule on {bucket} refuses our addresses: allow them for the {noun} in {parameter}, or "
        "enable public network access.",
        Role.BUCKET,
    ),
    Fault.ENCRYPTION_REQUIRED: Advice(
        "A policy of {bucket} demands encryption headers: set default encryption on the {noun} in {parameter} instead.",
        Role.BUCKET,
    ),
    Fault.ENCRYPTION_KEY_UNAVAILABLE: Advice(
        "The encryption key of {bucket} is missing or disabled, or this access key may not use it: enable it and "
        "grant the right to generate data keys and decrypt, or name another {noun} in {parameter}.",
        Role.BUCKET,
    ),
    Fault.REQUEST_CONDITION_DENIED: Advice(
        "A policy condition of {bucket} (TLS version, header, ACL or storage class) refuses the request: relax it "
        "for this key, or name another {noun} in {parameter}.",
        Role.BUCKET,
    ),
    Fault.DELETE_BLOCKED_BY_RETENTION: Advice(
        "A retention rule or legal hold on {bucket} keeps {object}, which was left behind: use a {noun} or prefix "
        "without retention in {parameter}.",
        Role.BUCKET,
    ),
    Fault.REQUESTER_PAYS: Advice(
        "{bucket} is a requester-pays {noun}, which is not supported: switch that off, or name another in {parameter}.",
        Role.BUCKET,
    ),
    Fault.QUOTA_EXCEEDED: Advice(
        "{provider} reports that a storage or request quota is used up: raise it or free space, or name another "
        "{noun} in {parameter}.",
        Role.BUCKET,
    ),
    Fault.PROTOCOL_UNSUPPORTED: Advice(
        "{provider} refused a feature of the request itself, so that no change of {parameter} or of the keys will "
        "help: tell us the code and the request id in the report.",
        Role.ENDPOINT,
        by_type={
            "s3compatible": "{provider} refused a feature of the request itself, so that no change of keys will help: "
            "tell us which service answers at {parameter}, and the code in the report.",
        },
    ),
    Fault.THROTTLED: Advice("{provider} asked us to slow down: try again shortly.", retryable=True),
    Fault.PROVIDER_UNAVAILABLE: Advice(
        "{provider} is failing at the moment: try again in a few minutes.", retryable=True
    ),
    Fault.PROVIDER_ERROR: Advice(
        "{provider} refused with an answer that has no translation yet: look up the code in the report, or hand it "
        "and the request id to its support.",
        by_type={
            "s3compatible": "{provider} refused with an answer that has no translation yet: look up the code in the "
            "report, or hand it to its support.",
        },
    ),
    Fault.INTERNAL_ERROR: Advice("The verification broke on our side: please try again, or tell us the job id."),
}


@dataclass(frozen=True)
class ParameterFault:
    """One thing wrong with one parameter of a request; `message` never repeats a secret's value."""

    parameter: str
    code: str
    message: str


class DropoffError(Exception):
    """An answer other than success. `code` and `message` are for the caller; `details` join the error object."""

    code = "internal_error"
    retry_after: int | None = None
    """Seconds after which the same call may succeed."""

    def __init__(self, message: str, *, parameter: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.parameter = parameter
        self.details = details


class InvalidRequest(DropoffError):
    """The request as a whole cannot be read: its body, its query string, its encoding."""

    code = "invalid_request"


class InvalidParameters(DropoffError):
    """One or more parameters are missing, unknown or malformed; every one of them is under `parameters`."""

    def __init__(self, faults: list[ParameterFault]) -> None:
        if len(faults) == 1:
            message = faults[0].message
        else:
            message = f"{len(faults)} parameters need correcting: " + " ".join(f.message for f in faults)
        rows = [{"parameter": f.parameter, "code": f.code, "message": f.message} for f in faults]
        super().__init__(message, parameter=faults[0].parameter, parameters=rows)
        self.code = faults[0].code
        self.faults = faults


class DestinationLimitReached(DropoffError):
    """The account has as many destinations as it may have."""

    code = "destination_limit_reached"


class Unauthorized(DropoffError):
    """No key came with the request, or one that no account has."""

    code = "unauthorized"


class DestinationNotFound(DropoffError):
    """There is no destination with this id in this account."""

    code = "destination_not_found"


class JobNotFound(DropoffError):
    """There is no job with this id in this account, or it is not remembered any more."""

    code = "job_not_found"


class DestinationChanged(DropoffError):
    """Another call changed the destination while this one was under way."""

    code = "destination_changed"


class CredentialsUnreadable(DropoffError):
    """No sealing key opens the destination's credentials."""

    code = "credentials_unreadable"


class KeyReused(DropoffError):
    """An Idempotency-Key came again with another request."""

    code = "idempotency_key_reused"


class StillUnderWay(DropoffError):
    """A request with the same Idempotency-Key is being worked on."""

    code = "idempotency_key_in_use"
    retry_after = 2


class TooManyVerifications(DropoffError):
    """The account has as many verifications under way as it may have at once."""

    code = "too_many_verifications"
    retry_after = 2


class TooManyStreams(DropoffError):
    """As many streams of jobs are open as may be."""

    code = "too_many_streams"
    retry_after = 5


class Unavailable(DropoffError):
    """A part this service needs does not answer: nothing was created, and the same call may succeed soon."""

    code = "unavailable"
    retry_after = 5


class VerificationTimedOut(DropoffError):
    """A worker began the verification and did not end it in time: nothing was created."""

    code = "verification_timed_out"
