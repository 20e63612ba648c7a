"""Destinations: the rules of creating, reading, listing and deleting them. No HTTP in it."""

import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from app.domain import prefix
from app.domain.destination import Destination, Page, Query, change, draft
from app.domain.errors import DestinationLimitReached, DestinationNotFound
from app.domain.specs.base import Spec
from app.domain.verification import NOTHING_FOUND, Found, Report, VerificationFailed
from app.store.sealing import NotSealedByUs

log = structlog.get_logger()


class Keeps(Protocol):
    """Where destinations are kept."""

    async def used(self, account: int) -> int: ...
    async def add(self, destination: Destination, sealed: str, limit: int) -> None: ...
    async def get(self, account: int, destination: str) -> Destination: ...
    async def whole(self, account: int, destination: str) -> tuple[Destination, str]: ...
    async def change(self, destination: Destination, sealed: str, *, was: int) -> None: ...
    async def page(self, account: int, query: Query) -> Page: ...
    async def delete(self, account: int, destination: str) -> None: ...


class Verifies(Protocol):
    """Writes and deletes `key` as `spec` says, for `account`, and reports; `found` is what is known of the place."""

    async def verify(self, account: int, spec: Spec, key: str, *, found: Found) -> Report: ...


class Seals(Protocol):
    """Makes credentials unreadable to everybody else."""

    def seal(self, content: dict[str, Any]) -> str: ...
    def open(self, sealed: str) -> dict[str, Any]: ...


class Destinations:
    """The destinations of all accounts; a caller sees those of its own only."""

    def __init__(self, kept: Keeps, verifier: Verifies, sealer: Seals, *, limit: int, allow_http: bool) -> None:
        self._kept = kept
        self._verifier = verifier
        self._sealer = sealer
        self._allow_http = allow_http
        self.limit = limit

    async def create(self, account: int, body: Mapping[str, Any], new_id: str, *, again: bool = False) -> Destination:
        """The destination that `body` describes, stored as `new_id`; an enabled one only after its verification
        succeeded. `again` says that this may have been done before, by somebody who died before he could say so.

        Raises InvalidParameters, TooManyVerifications, VerificationFailed, DestinationLimitReached, Unavailable and
        VerificationTimedOut; after each of them nothing is stored.
        """
        wanted = draft(body, allow_http=self._allow_http)
        if again:
            with contextlib.suppress(DestinationNotFound):
                return await self._kept.get(account, new_id)
        if await self._kept.used(account) >= self.limit:
            raise DestinationLimitReached(
                f"This account has its {self.limit} destinations already: delete one, or ask for a higher limit."
            )
        report = await self._verified(account, wanted.spec) if wanted.enabled else None
        now = datetime.now(UTC)
        destination = Destination(
            id=new_id,
            account=account,
            name=wanted.name,
            type=wanted.spec.type,
            enabled=wanted.enabled,
            parameters=wanted.spec.public(),
            version=1,
            created_at=now,
            updated_at=now,
            verified_at=now if report else None,
            verification=report,
        )
        await self._kept.add(destination, self._sealer.seal(wanted.spec.secrets()), self.limit)
        log.info("destination created", destination=destination.id, type=destination.type, enabled=wanted.enabled)
        return destination

    async def update(self, account: int, destination: str, body: Mapping[str, Any]) -> Destination:
        """The destination changed as `body` asks; verified first where it is enabled by this or goes elsewhere.

        Raises what create does, DestinationNotFound, and DestinationChanged where another call was faster; after
        each of them everything is as it was.
        """
        current, sealed = await self._kept.whole(account, destination)
        wanted = change(current, self._credentials(current, sealed), body, allow_http=self._allow_http)
        report = None
        if wanted.spec and wanted.verify:
            report = await self._verified(account, wanted.spec, current.found_of(wanted.spec))
        now = datetime.now(UTC)
        after = replace(
            current,
            name=wanted.name,
            enabled=wanted.enabled,
            type=wanted.spec.type if wanted.spec else current.type,
            parameters=wanted.spec.public() if wanted.spec else current.parameters,
        )
        if after == current and not report:
            return current
        after = replace(after, version=current.version + 1, updated_at=now)
        if wanted.spec and report:
            sealed = self._sealer.seal(wanted.spec.secrets())
            after = replace(after, verified_at=now, verification=report)
        await self._kept.change(after, sealed, was=current.version)
        log.info("destination changed", destination=after.id, type=after.type, enabled=after.enabled)
        return after

    async def get(self, account: int, destination: str) -> Destination:
        """Raises DestinationNotFound."""
        return await self._kept.get(account, destination)

    async def page(self, account: int, query: Query) -> Page:
        return await self._kept.page(account, query)

    async def delete(self, account: int, destination: str) -> None:
        """Raises DestinationNotFound."""
        await self._kept.delete(account, destination)
        log.info("destination deleted", destination=destination)

    def _credentials(self, destination: Destination, sealed: str) -> dict[str, str]:
        """None of them where no key opens them: then a customer can still rename, disable, or send them again."""
        try:
            return self._sealer.open(sealed)
        except NotSealedByUs:
            log.error("credentials cannot be opened with any of the sealing keys", destination=destination.id)
            return {}

    async def _verified(self, account: int, spec: Spec, found: Found = NOTHING_FOUND) -> Report:
        """The report of a verification that succeeded. Raises VerificationFailed with the one that did not."""
        report = await self._verifier.verify(account, spec, test_key(spec, datetime.now(UTC)), found=found)
        if not report.ok:
            raise VerificationFailed(report)
        return report


def new_id() -> str:
    """An id that no destination has yet: 48 random bits."""
    return secrets.token_hex(6).upper()


def test_key(spec: Spec, now: datetime) -> str:
    """A key where real files would go, at a name that is never used twice and that a policy can be written for."""
    name = f"dropoff-verify-{secrets.token_hex(16)}.txt"
    return prefix.key(spec.path_prefix, prefix.sample_values(now.date()), name)
