"""The job that a worker is told, and the reply that it gives; both pass Redis sealed and as a whole."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator

from app.domain.types import restore
from app.domain.types.base import Spec
from app.domain.verification import UNKNOWN_LOCATION, Location, Report


def _spec(value: object) -> Spec:
    try:
        return value if isinstance(value, Spec) else restore(value)
    except TypeError:
        raise ValueError("a spec is a mapping of text to text") from None


SealedSpec = Annotated[Spec, PlainValidator(_spec), PlainSerializer(Spec.with_credentials)]
"""A spec in a message. Its rules were checked where the customer's parameters were parsed: here only the shape is."""


class Left(BaseModel):
    """A test file that may be in the bucket although its verification has ended.

    `written` says that the store confirmed the upload: without that it may be there, or may still arrive. `version` is
    its version id, where the store told one. `hidden` says that it was deleted since, and that a version of it may
    remain behind the delete marker.
    """

    model_config = ConfigDict(frozen=True)

    written: bool = False
    version: str | None = None
    hidden: bool = False


class Owned(BaseModel):
    """What is done for the account of this number. `account_name` is what the operator calls it, empty where an older
    release handed it in."""

    model_config = ConfigDict(frozen=True)

    account: int
    account_name: str = ""

    @property
    def owner(self) -> str:
        """Whose it is, as logs and the board name it: the account's name, or its number where that is not known."""
        return self.account_name or str(self.account)


class Job(Owned):
    """One verification, or the removal of the file that an earlier one `left`. Times are seconds since the epoch by
    Redis' clock.

    No worker may begin it after `start_by`, and whoever waits for it has gone at `deadline`. `destination` is the id
    of the destination that it is about, which need not exist yet; None where there is to be none. `location` is what
    an earlier verification found out about the bucket, `lenient` says that the file need not be deleted, `multipart`
    that an upload in parts is tried too, None where who asks knows no such step; `attempt` counts how often the job
    was handed in, and `traceparent` names the span that did so.
    """

    id: str
    destination: str | None = None
    spec: SealedSpec
    location: Location = UNKNOWN_LOCATION
    lenient: bool = False
    multipart: bool | None = None
    key: str
    submitted: float
    start_by: float
    deadline: float
    reply_to: str
    attempt: int = 1
    traceparent: str = ""
    left: Left | None = None

    def content(self) -> dict[str, Any]:
        """The job with its credentials in the clear, to be sealed at once."""
        return self.model_dump(mode="json")


class Reply(BaseModel):
    """What a worker answers: its report, and when it did so by Redis' clock. `curtailed` says that the job was begun
    so late that the verification had less time than it should have, and `report` is about no more than that time.
    `left` is the file that may remain, and `intent` what it is on record by in Redis (see app.messages.intents).
    `account` is the job's owner. `freed` says that the slot of its account, which the job had, is given back."""

    model_config = ConfigDict(frozen=True)

    report: Report
    at: float
    curtailed: bool = False
    left: Left | None = None
    intent: str = ""
    account: str = ""
    freed: bool = False

    def content(self) -> dict[str, Any]:
        """The reply, to be sealed."""
        return self.model_dump(mode="json", exclude_none=True)
