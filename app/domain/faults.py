"""The vocabulary of reasons for which storage refuses us, and what a customer is advised to do about each.

The texts here hold for every type. A type that knows a better next step has its own text, in `advice` of its class.
"""

from dataclasses import dataclass
from enum import StrEnum


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
    EGRESS_UNAVAILABLE = "egress_unavailable"
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
    ENDPOINT_NAMES_A_BUCKET = "endpoint_names_a_bucket"
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


UNWRITABLE = frozenset(
    {
        *(Fault.ACCESS_KEY_UNKNOWN, Fault.ACCESS_KEY_DISABLED, Fault.SECRET_MISMATCH, Fault.AUTH_METHOD_DISABLED),
        *(Fault.HOST_NOT_FOUND, Fault.ENDPOINT_NOT_ALLOWED, Fault.BUCKET_NOT_FOUND),
        *(Fault.UNSUPPORTED_BUCKET_TYPE, Fault.BUCKET_NAME_NOT_A_HOST),
    }
)
"""What refuses a delete and would have refused the upload a minute before: nothing can have been written."""


@dataclass(frozen=True)
class Advice:
    """What a customer is told about a fault, and which parameter to look at.

    `text` may name {parameter} {provider} {host} {bucket} {noun} {prefix} {object} {seconds} {detail}. {provider} must
    begin a sentence, since some providers' names have an article; {noun} is what the type calls a bucket; where
    {detail} may be empty, it brings its own space and brackets. `retryable` says that the same call may succeed later
    without a change.
    """

    text: str
    role: Role | None = None
    retryable: bool = False


STAYING = (
    "{provider} failed at each of the last {count} verifications, so that it does not seem to pass: look whether "
    "{bucket} is full or read-only, and whether files can be in {prefix}, and ask whoever operates the service."
)
"""In place of the advice to try again, where it failed so before: it has the placeholders of `Advice`, and {count}."""

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
    ),
    Fault.HOST_NOT_FOUND: Advice(
        "{host} does not resolve to a public address: check {parameter} for a typing error.",
        Role.ENDPOINT,
    ),
    Fault.CONNECTION_REFUSED: Advice(
        "{host} refused the connection: check {parameter}, and try again later if it is right.",
        Role.ENDPOINT,
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
    Fault.EGRESS_UNAVAILABLE: Advice(
        "Our own network does not reach {host}, which nobody mistyped: no parameter is at fault, try again shortly.",
        retryable=True,
    ),
    Fault.TLS_FAILURE: Advice(
        "{host} did not pass the TLS check ({detail}): check {parameter}, and try again later if it is right.",
        Role.ENDPOINT,
    ),
    Fault.REDIRECT_REFUSED: Advice(
        "{host} answers with a redirect, which is not followed: check {parameter}.",
        Role.ENDPOINT,
    ),
    Fault.NOT_A_STORAGE_ENDPOINT: Advice(
        "{host} answered, but not as object storage does: check {parameter}, and try again later if it is right.",
        Role.ENDPOINT,
    ),
    Fault.ACCESS_KEY_UNKNOWN: Advice(
        "{provider} does not know this access key: check {parameter} (mistyped, deleted, inactive, or of another "
        "account).",
        Role.KEY,
    ),
    Fault.ACCESS_KEY_DISABLED: Advice(
        "The access key exists but is inactive or limited to other addresses: enable the key in {parameter}, or "
        "allow our addresses.",
        Role.KEY,
    ),
    Fault.SECRET_MISMATCH: Advice(
        "The secret does not belong to this access key: copy {parameter} again, whole, without spaces or line breaks.",
        Role.SECRET,
    ),
    Fault.CREDENTIALS_EXPIRED: Advice(
        "The credentials have expired: create a long-lived key and send it in {parameter}.", Role.KEY
    ),
    Fault.AUTH_METHOD_DISABLED: Advice(
        "Access with this kind of key is switched off for the account: allow it there, or send another kind of "
        "credential in place of {parameter}.",
        Role.KEY,
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
    ),
    Fault.BUCKET_WRONG_REGION: Advice(
        "{bucket} is in another region than the one that was called{detail}: correct {parameter}.",
        Role.REGION,
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
    Fault.ENDPOINT_NAMES_A_BUCKET: Advice(
        "{host} is the address of another {noun}, in which {bucket} would be a folder: give the address of the service "
        "alone in {parameter}.",
        Role.ENDPOINT,
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
    ),
    Fault.THROTTLED: Advice("{provider} asked us to slow down: try again shortly.", retryable=True),
    Fault.PROVIDER_UNAVAILABLE: Advice(
        "{provider} is failing at the moment: try again in a few minutes.", retryable=True
    ),
    Fault.PROVIDER_ERROR: Advice(
        "{provider} refused with an answer that has no translation yet: look up the code in the report, or hand it "
        "and the request id to its support.",
    ),
    Fault.INTERNAL_ERROR: Advice("The verification broke on our side: please try again, or tell us the job id."),
}
