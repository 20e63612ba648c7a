"""What is said of a delivery over Redis, sealed: the job that a worker is told, and what it reports of it."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from app.domain.delivery import (
    ETAG_MOST,
    REQUEST_ID_MOST,
    VERSION_MOST,
    AnyFault,
    DeliveryState,
    Refusal,
    kept,
)
from app.domain.verification import UNKNOWN_LOCATION, Location
from app.messages.job import Owned, SealedSpec

REPORT_SECONDS = 5.0
"""How often a worker tells of a delivery that is under way."""
LEASE_SECONDS = 20.0
"""A delivery of which nothing was heard for so long is dispatched again, and the worker that has it lets go of it."""


class DeliveryFile(BaseModel):
    """A file, as what was announced: it is at the path `source` under the operator's source, and is the one meant if
    `bytes` and `sha256` say so. `id` is the delivery's. `abandoned` is the id of an upload that another worker may have
    left unfinished at the store; with `repeated` there may be others under this key, since it was dispatched before."""

    model_config = ConfigDict(frozen=True)

    id: str
    attempt: int
    key: str
    name: str
    source: str
    bytes: int
    sha256: str
    content_type: str
    abandoned: str | None = None
    repeated: bool = False


class DeliveryJob(Owned):
    """Files for one destination, each a delivery by itself: what becomes of one says nothing of the others. `lease`
    tells this dispatch of them from others; no worker may begin one after `start_by`, in seconds since the epoch by
    Redis' clock."""

    lease: str
    destination: str
    spec: SealedSpec
    location: Location = UNKNOWN_LOCATION
    files: tuple[DeliveryFile, ...]
    start_by: float

    def content(self) -> dict[str, Any]:
        """The job with its credentials in the clear, to be sealed at once."""
        return self.model_dump(mode="json")


class DeliveryReport(BaseModel):
    """What a worker says of the dispatch `lease` of a delivery, at a time of Redis' clock.

    UPLOADING renews the lease; OK has the receipt; FAILED has the fault, and the refusal where it is the store's;
    PENDING hands the delivery back, because the worker ends. `sent` is how many bytes the store has confirmed, `upload`
    the id of what is unfinished there, and `account` the job's owner. What no receipt has room for is not read, whoever
    wrote it: with one such report, those that are noted with it would be refused by the database, again and again.
    """

    model_config = ConfigDict(frozen=True)

    delivery: str
    lease: str
    attempt: int
    file: str
    worker: str
    account: str = ""
    at: float
    state: DeliveryState
    sent: int = 0
    upload: str | None = None
    etag: Annotated[str | None, BeforeValidator(lambda said: kept(said, ETAG_MOST))] = None
    version: Annotated[str | None, BeforeValidator(lambda said: kept(said, VERSION_MOST))] = None
    request_id: Annotated[str | None, BeforeValidator(lambda said: kept(said, REQUEST_ID_MOST))] = None
    fault: AnyFault | None = None
    message: str | None = None
    refusal: Refusal | None = None


class DeliveryReports(BaseModel):
    """What a worker says in one message, in the order in which it happened."""

    reports: tuple[DeliveryReport, ...]

    def content(self) -> dict[str, Any]:
        """The reports, to be sealed."""
        return self.model_dump(mode="json", exclude_none=True)
