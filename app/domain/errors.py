"""The errors that a caller can be answered with.

DropoffError
├── InvalidRequest              the request cannot be read
├── InvalidParameters           some of its parameters are wrong
├── DestinationLimitReached
├── Unauthorized
├── DestinationNotFound
├── JobNotFound
├── CollectionNotFound
├── ResultSetNotFound
├── DeliveryNotFound
├── LeftoverNotFound
├── NotificationNotFound        or none that was given up
├── AccountNotFound
├── KeyNotFound
├── AccountExists
├── AccountInUse                it has destinations or collections
├── KeyInUse                    another account has the key
├── ReadOnlyKey                 the operator's, which changes nothing
├── DestinationChanged          another call was faster
├── DestinationInUse            collections use it
├── ResultSetDiffers            a result set came again, with another content
├── CredentialsUnreadable
├── KeyReused                   an Idempotency-Key came again, with another request
├── StillUnderWay               an Idempotency-Key came again, too early
├── TooManyVerifications
├── TooManyStreams
├── TooManyGuesses              at the operator's key
├── Unavailable                 a part of this service does not answer
│   ├── OutcomeUnknown          whether the change was stored
│   └── EgressUnavailable       the way from here to the provider
├── SourceNotConfigured         where result files are read from
├── VerificationTimedOut        a worker came to no verdict in time
└── VerificationFailed          storage refused; in app.domain.verification, beside the report that it carries
"""

from dataclasses import dataclass
from typing import Any


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


class CollectionNotFound(DropoffError):
    """There is no collection with this id in this account."""

    code = "collection_not_found"


class ResultSetNotFound(DropoffError):
    """There is no result set with this id in this collection."""

    code = "result_set_not_found"


class DeliveryNotFound(DropoffError):
    """There is no delivery with this id in this account."""

    code = "delivery_not_found"


class LeftoverNotFound(DropoffError):
    """There is no test file with this id on record."""

    code = "leftover_not_found"


class NotificationNotFound(DropoffError):
    """There is no notification with this id, or none that was given up."""

    code = "notification_not_found"


class AccountNotFound(DropoffError):
    """There is no account of this name."""

    code = "account_not_found"


class KeyNotFound(DropoffError):
    """There is no key with this id in this account."""

    code = "key_not_found"


class AccountExists(DropoffError):
    """There is an account of this name already."""

    code = "account_exists"


class AccountInUse(DropoffError):
    """The account has destinations or collections, so that it is not deleted; the message says how many."""

    code = "account_in_use"


class KeyInUse(DropoffError):
    """The key opens another account already."""

    code = "key_in_use"


class ReadOnlyKey(DropoffError):
    """The key is the operator's that only reads, and the call would change something."""

    code = "read_only_key"


class DestinationInUse(DropoffError):
    """Collections use the destination, so that it is not deleted; the message names them."""

    code = "destination_in_use"


class ResultSetDiffers(DropoffError):
    """The collection has a result set with this id already, and it says something else."""

    code = "result_set_differs"


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


class TooManyGuesses(DropoffError):
    """Too many wrong keys came in place of the operator's, from whomever: none is looked at for a moment."""

    code = "too_many_guesses"
    retry_after = 1


class Unavailable(DropoffError):
    """A part this service needs does not answer: nothing was created, and the same call may succeed soon. Where that
    is not known, it is OutcomeUnknown."""

    code = "unavailable"
    retry_after = 5


class OutcomeUnknown(Unavailable):
    """The connection to the database broke while a change was being stored, and the database cannot be asked whether it
    was: it may have been. An Idempotency-Key settles it: a repeat with the same one never does it twice."""

    code = "outcome_unknown"


class EgressUnavailable(Unavailable):
    """Our own network does not reach the provider's well-known host: nothing was created or changed, and no parameter
    is at fault."""

    code = "egress_unavailable"


class SourceNotConfigured(DropoffError):
    """This deployment was not told where result files are read from, so that it takes no result sets."""

    code = "source_not_configured"


class VerificationTimedOut(DropoffError):
    """A worker began the verification and did not end it in time: nothing was created."""

    code = "verification_timed_out"
