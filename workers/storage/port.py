"""The port that every provider has, and what all of them upload alike."""

import asyncio
import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from app.domain.faults import Fault
from app.domain.types.base import Spec
from app.domain.verification import Location
from workers.storage.refusals import Refused

ONE_PUT = 16 * 1024 * 1024
"""Larger files go in parts."""

CONTENT_TYPE = "text/plain"
"""Of the test file."""

LISTED = 20
"""Unfinished uploads of one key that are asked for."""


# Of the hash of more than this, the loop is relieved.
_IN_A_THREAD = 1024 * 1024


async def digest(algorithm: str, body: bytes) -> bytes:
    """The hash of `body`; of a large one in a thread."""
    if len(body) > _IN_A_THREAD:
        return await asyncio.to_thread(_digest, algorithm, body)
    return _digest(algorithm, body)


def _digest(algorithm: str, body: bytes) -> bytes:
    return hashlib.new(algorithm, body, usedforsecurity=False).digest()


async def content_md5(body: bytes) -> str:
    """The header that buckets with object lock demand, and that every store checks."""
    return base64.b64encode(await digest("md5", body)).decode()


SLOWEST = 64 * 1024
"""The rate, in bytes a second, at which a store must take a body."""

# aiohttp writes bytes at once, with copies of all of them on the way, and a file as fast as it leaves.
_AT_ONCE = 1024 * 1024


def file_like(body: bytes) -> bytes | io.BytesIO:
    """`body` as an SDK on aiohttp is given it, so that a large one is not in memory several times."""
    return body if len(body) <= _AT_ONCE else io.BytesIO(body)


def damaged() -> Refused:
    """The refusal of a part that the store has kept otherwise than it was sent, which is sent again."""
    return Refused(Fault.PROVIDER_UNAVAILABLE)


@dataclass(frozen=True)
class Uploaded:
    """An object that a store says it took. `version` is its version id where the bucket keeps versions, and
    `request_id` that of the request which wrote it, where it is told."""

    key: str
    etag: str
    version: str | None = None
    request_id: str | None = None


class UploadGone(Refused):
    """The store knows nothing of an upload any more, or of some of its parts: all of it has to be sent anew. Where it
    was to be completed, that may have happened all the same."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(Fault.PROVIDER_UNAVAILABLE, unknown_outcome=True)
        self.status, self.provider_code, self.request_id = refused.status, refused.provider_code, refused.request_id


class Upload(Protocol):
    """One object on its way in parts. Nothing of it is an object before it is complete. Every method raises Refused,
    UploadGone among them."""

    id: str
    """What the store knows it by, for whoever has to abort it later. It may be all that is needed to write there."""

    in_turn: bool
    """Whether a part is taken only once all before it were, one at a time."""

    async def part(self, number: int, body: bytes, at: int, *, last: bool) -> None:
        """Send the part of this number, from 1 on, which begins `at` this offset of the object; again where it was
        sent before, with the same content. The `last` one is sent only when the content of all is as it should be."""

    async def complete(self, md5: bytes) -> Uploaded:
        """Make an object of all parts, whose MD5 altogether is `md5`. With an unknown outcome, see `stored`."""

    async def stored(self, md5: bytes) -> Uploaded | None:
        """The object, if the store says that it is there and that it is this one; None where it does not say so."""

    async def abort(self) -> None:
        """Have the store forget all parts; done where it knows of none."""


class Bucket(Protocol):
    """One customer's bucket, ready to be used. Every method raises Refused, and nothing else that is expected."""

    host: str
    """The host that requests go to, as a report shows it."""

    location: Location
    """What had to be found out to reach it, for the next time."""

    located: bool
    """Whether `open` went to the network, to ask where the bucket is."""

    parts_expire: bool
    """Whether parts that belong to no object cannot be removed, and are dropped by the store itself after a while."""

    async def upload(self, key: str, body: bytes, content_type: str = CONTENT_TYPE) -> Uploaded:
        """Write `body` as `key`; returns only when the store has confirmed it, in its own way and with an ETag.

        Any other success raises Refused with an unknown outcome, since the file may be there all the same.
        """

    async def begin(self, key: str, content_type: str, size: int) -> Upload:
        """Begin to write an object of `size` bytes, more than none, in parts."""

    def begun(self, key: str, upload_id: str) -> Upload:
        """The upload that somebody else began under `key` and did not end, to be aborted."""

    async def unfinished(self, key: str) -> Sequence[Upload]:
        """The uploads of just `key` that were begun and have not ended, to be aborted; none where what is unfinished
        cannot be listed at all, or takes no room that is paid for."""

    async def delete(self, uploaded: Uploaded) -> bool:
        """Remove exactly the object that was uploaded: its version, where it has one. Returns whether the store has
        hidden it behind a marker instead, so that a version of it remains."""


class Provider(Protocol):
    """A kind of storage. One serves all credentials of this process and lives as long as it."""

    def host(self, spec: Spec) -> str:
        """The host that is called first, for a report on a bucket that could not even be opened."""

    async def open(self, spec: Spec, location: Location) -> Bucket:
        """The bucket that `spec` means, of which `location` is known from before. Raises Refused where it had to be
        looked for and was not found."""
