"""What each code means in a few words, for an operator who reads many of them; the customer has whole sentences."""

from collections.abc import Mapping

from app.domain.delivery import DeliveryState, SourceFault
from app.domain.faults import Fault

OF_FAULTS: Mapping[Fault | SourceFault, str] = {
    Fault.INVALID_PARAMETER: "a parameter is wrong",
    Fault.TEMPORARY_CREDENTIALS_UNSUPPORTED: "temporary key",
    Fault.ENDPOINT_NOT_ALLOWED: "not a public address",
    Fault.HOST_NOT_FOUND: "no such host",
    Fault.CONNECTION_REFUSED: "connection refused",
    Fault.CONNECTION_FAILED: "connection cut",
    Fault.TIMEOUT: "no answer in time",
    Fault.EGRESS_UNAVAILABLE: "our network is down",
    Fault.TLS_FAILURE: "bad certificate",
    Fault.REDIRECT_REFUSED: "host redirects",
    Fault.NOT_A_STORAGE_ENDPOINT: "no object storage there",
    Fault.ACCESS_KEY_UNKNOWN: "unknown key",
    Fault.ACCESS_KEY_DISABLED: "key is switched off",
    Fault.SECRET_MISMATCH: "wrong secret",
    Fault.CREDENTIALS_EXPIRED: "key has expired",
    Fault.AUTH_METHOD_DISABLED: "kind of key not allowed",
    Fault.ACCOUNT_SUSPENDED: "provider's account suspended",
    Fault.CLOCK_SKEW: "a clock is wrong",
    Fault.BUCKET_NOT_FOUND: "no such bucket",
    Fault.BUCKET_WRONG_REGION: "wrong region",
    Fault.CUSTOM_DOMAIN_REQUIRED: "needs a domain of its own",
    Fault.UNSUPPORTED_BUCKET_TYPE: "kind of bucket not supported",
    Fault.BUCKET_NAME_NOT_A_HOST: "bucket's name is no host",
    Fault.ENDPOINT_NAMES_A_BUCKET: "bucket in the endpoint",
    Fault.WRITE_DENIED: "may not write",
    Fault.DELETE_DENIED: "may not delete",
    Fault.NETWORK_DENIED: "firewall of the bucket",
    Fault.ENCRYPTION_REQUIRED: "encryption demanded",
    Fault.ENCRYPTION_KEY_UNAVAILABLE: "encryption key not usable",
    Fault.REQUEST_CONDITION_DENIED: "a policy's condition",
    Fault.DELETE_BLOCKED_BY_RETENTION: "retention keeps files",
    Fault.REQUESTER_PAYS: "requester-pays bucket",
    Fault.QUOTA_EXCEEDED: "quota used up",
    Fault.PROTOCOL_UNSUPPORTED: "request not supported",
    Fault.THROTTLED: "too many requests",
    Fault.PROVIDER_UNAVAILABLE: "provider is failing",
    Fault.PROVIDER_ERROR: "refused, code not known",
    Fault.INTERNAL_ERROR: "broke on our side",
    SourceFault.NOT_FOUND: "not at the source",
    SourceFault.UNAVAILABLE: "source does not answer",
    SourceFault.CHANGED: "another file than announced",
}

OF_DELIVERIES: Mapping[str, str] = {
    DeliveryState.PENDING: "waiting",
    DeliveryState.UPLOADING: "uploading",
    DeliveryState.FAILED: "failed",
    DeliveryState.OK: "delivered",
    DeliveryState.SKIPPED: "skipped",
}

OF_REFUSALS: Mapping[str, str] = {
    "invalid_request": "not readable",
    "body_too_slow": "body came too slowly",
    "body_too_large": "body too large",
    "unsupported_media_type": "wrong content type",
    "method_not_allowed": "wrong method",
    "missing_parameter": "a parameter is missing",
    "unknown_parameter": "unknown parameter",
    "unauthorized": "no valid API key",
    "destination_limit_reached": "limit of destinations",
    "destination_not_found": "no such destination",
    "destination_changed": "changed meanwhile",
    "credentials_unreadable": "stored keys not readable",
    "idempotency_key_in_use": "repeated too early",
    "idempotency_key_reused": "Idempotency-Key used twice",
    "too_many_verifications": "too many at once",
    "too_many_guesses": "keys are guessed",
    "unavailable": "queue or database away, or full",
    "outcome_unknown": "database cut in the commit",
}

WORDS: Mapping[str, str] = {**{str(code): word for code, word in OF_FAULTS.items()}, **OF_REFUSALS}
