"""Destinations: the rules of creating, verifying, reading, listing and deleting them. No HTTP in it."""

import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from app.domain import prefix
from app.domain.destination import Destination, Page, Query, change, draft
from app.domain.errors import CredentialsUnreadable, DestinationLimitReached, DestinationNotFound
from app.domain.policies import Policy, policy
from app.domain.specs import parse, place
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
    async def change(self, destination: Destination, sealed: str, *, was: int, verified: bool) -> None: ...
    async def verified(self, account: int, destination: str, report: Report, at: datetime, *, was: int) -> None: ...
    async def page(self, account: int, query: Query) -> Page: ...
    async def delete(self, account: int, destination: str) -> None: ...


class Verifies(Protocol):
    """Writes and deletes `key` as `spec` says, for `account` and for `destination` where there is one, and reports;
    `found` is what is known of the place."""

    async def verify(
        self, account: int, spec: Spec, key: str, destination: str | None = None, *, found: Found
    ) -> Report: ...
    def stored(self, job: str, destination: str) -> None: ...


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
        if report:
            self._verifier.stored(report.job, destination.id)
        log.info("destination created", destination=destination.id, type=destination.type, enabled=wanted.enabled)
        return destination

    async def update(self, account: int, destination: str, body: Mapping[str, Any]) -> Destination:
        """The destination changed as `body` asks; verified first where it is enabled by this or goes elsewhere.

        Raises what create does, DestinationNotFound, and DestinationChanged where another call was faster; after
        each of them everything is as it was.
        """
        current, sealed = await self._kept.whole(account, destination)
        wanted = change(current, self._credentials(current, sealed), body, allow_http=self._allow_http)
        report = await self._verified(account, wanted.spec, current) if wanted.spec and wanted.verify else None
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
        await self._kept.change(after, sealed, was=current.version, verified=report is not None)
        log.info("destination changed", destination=after.id, type=after.type, enabled=after.enabled)
        return after

    async def verify(self, account: int, body: Mapping[str, Any]) -> Report:
        """The report, whether it passed or failed, on what a create with `body` would store; nothing is stored.

        Raises InvalidParameters, TooManyVerifications, Unavailable and VerificationTimedOut.
        """
        return await self._report(account, draft(body, allow_http=self._allow_http).spec)

    async def verify_existing(self, account: int, destination: str) -> Report:
        """The report, whether it passed or failed, on the destination as it is; the report is kept with it, and the
        time where it passed. Nothing else of it changes.

        Raises what `verify` does, DestinationNotFound, CredentialsUnreadable, and DestinationChanged where another
        call changed it meanwhile: the report is not about what it is now, and is not kept.
        """
        current, sealed = await self._kept.whole(account, destination)
        credentials = self._credentials(current, sealed)
        if not credentials:
            raise CredentialsUnreadable(
                "The credentials of this destination cannot be read any more: send them again with PUT "
                f"/destinations/{current.id}."
            )
        whole = {"type": current.type, **current.parameters, **credentials}
        report = await self._report(account, parse(whole, allow_http=self._allow_http), current)
        await self._kept.verified(account, current.id, report, datetime.now(UTC), was=current.version)
        log.info("destination verified", destination=current.id, type=current.type, ok=report.ok, code=report.code)
        return report

    def policy(self, parameters: Mapping[str, Any]) -> Policy:
        """What a key needs for the place that `parameters` name without credentials. Raises InvalidParameters."""
        return policy(place(parameters, allow_http=self._allow_http))

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

    async def _verified(self, account: int, spec: Spec, current: Destination | None = None) -> Report:
        """The report of a verification that succeeded. Raises VerificationFailed with the one that did not."""
        report = await self._report(account, spec, current)
        if not report.ok:
            raise VerificationFailed(report)
        return report

    async def _report(self, account: int, spec: Spec, current: Destination | None = None) -> Report:
        """The report on `spec`, which is to be that of the destination `current` where there is one."""
        key = prefix.test_key(spec.path_prefix, datetime.now(UTC))
        if current is None:
            return await self._verifier.verify(account, spec, key, found=NOTHING_FOUND)
        return await self._verifier.verify(account, spec, key, current.id, found=current.found_of(spec))


def new_id() -> str:
    """An id that no destination has yet: 48 random bits."""
    return secrets.token_hex(6).upper()
