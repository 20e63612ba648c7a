"""Destinations: the rules of creating, verifying, reading, listing and deleting them. No HTTP in it."""

import contextlib
import secrets
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from app.domain import prefix
from app.domain.deletes import DeletePolicy
from app.domain.destination import (
    Destination,
    Page,
    Query,
    Standing,
    parse_create,
    parse_update,
)
from app.domain.errors import CredentialsUnreadable, DestinationLimitReached, DestinationNotFound, EgressUnavailable
from app.domain.faults import Fault
from app.domain.types import key_guide, parse, parse_public
from app.domain.types.base import KeyGuide, Spec
from app.domain.verification import UNKNOWN_LOCATION, Location, Report, VerificationFailed
from app.messages.sealing import NotSealedByUs, Sealer

log = structlog.get_logger()


class DestinationStore(Protocol):
    """Where destinations are kept."""

    async def standing(self, account: int) -> Standing: ...
    async def add(self, destination: Destination, sealed: str, limit: int) -> Destination: ...
    async def get(self, account: int | None, destination: str) -> Destination: ...
    async def with_credentials(self, account: int, destination: str) -> tuple[Destination, str]: ...
    async def change(
        self, destination: Destination, sealed: str, *, expected_version: int, verified: bool, changed: Collection[str]
    ) -> None: ...
    async def verified(
        self, account: int, destination: str, report: Report, at: datetime, *, expected_version: int
    ) -> None: ...
    async def page(self, account: int | None, query: Query) -> Page: ...
    async def delete(self, account: int, destination: str) -> None: ...


class Verifier(Protocol):
    """Writes and deletes `key` as `spec` says, for `account` and for `destination` where there is one, and reports;
    `location` is what is known of its bucket, `lenient` says that `key` need not be deleted, and `at_once` how many
    verifications the account may have under way, where it has a limit of its own. Its name is for who reads logs and
    looks at the board."""

    async def verify(
        self,
        account: int,
        spec: Spec,
        key: str,
        destination: str | None = None,
        *,
        location: Location,
        lenient: bool,
        at_once: int | None,
        account_name: str,
    ) -> Report: ...


class Destinations:
    """The destinations of all accounts; a caller sees those of its own only."""

    def __init__(
        self,
        store: DestinationStore,
        verifier: Verifier,
        sealer: Sealer,
        *,
        limit: int,
        allow_http: bool,
        delete: DeletePolicy = DeletePolicy.STRICT,
    ) -> None:
        """`limit`, of destinations, and `delete` are for accounts that have none of their own."""
        self._store = store
        self._verifier = verifier
        self._sealer = sealer
        self._allow_http = allow_http
        self._delete = delete
        self._limit = limit

    async def create(
        self, account: int, body: Mapping[str, Any], new_id: str, *, may_exist: bool = False
    ) -> Destination:
        """The destination that `body` describes, stored as `new_id`; an enabled one only after its verification
        succeeded. `may_exist` says that an earlier attempt may have stored it already, and died before it answered.

        Raises InvalidParameters, TooManyVerifications, VerificationFailed, DestinationLimitReached, Unavailable and
        VerificationTimedOut; after each of them nothing is stored. OutcomeUnknown alone leaves that open.
        """
        self._tell_of_http(body)
        wanted = parse_create(body, allow_http=self._allow_http)
        if may_exist:
            with contextlib.suppress(DestinationNotFound):
                return await self._store.get(account, new_id)
        standing = await self._store.standing(account)
        limit = self._limit if standing.destinations is None else standing.destinations
        if standing.used >= limit:
            raise DestinationLimitReached(
                f"This account has its {limit} destinations already: delete one, or ask for a higher limit."
            )
        report = await self._verified(account, standing, wanted.spec, new_id) if wanted.enabled else None
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
            verification=report.as_answer() if report else None,
        )
        destination = await self._store.add(destination, self._sealer.seal(wanted.spec.secrets()), limit)
        log.info("destination created", destination=destination.id, type=destination.type, enabled=wanted.enabled)
        return destination

    async def update(self, account: int, destination: str, body: Mapping[str, Any]) -> Destination:
        """The destination changed as `body` asks; verified first where it is enabled by this or goes elsewhere.

        Raises what create does, DestinationNotFound, and DestinationChanged where another call was faster; after
        each of them everything is as it was.
        """
        current, sealed = await self._store.with_credentials(account, destination)
        credentials = self._credentials(current, sealed)
        self._tell_of_http({**current.parameters, **body})
        wanted = parse_update(current, credentials, body, allow_http=self._allow_http)
        report = (
            await self._verified(
                account,
                await self._store.standing(account),
                wanted.spec,
                current.id,
                current.known_location(wanted.spec),
            )
            if wanted.spec and wanted.verify
            else None
        )
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
            after = replace(after, verified_at=now, verification=report.as_answer(), failing_since=None, failing=None)
        changed = _changed(current, credentials, after, wanted.spec)
        await self._store.change(
            after, sealed, expected_version=current.version, verified=report is not None, changed=changed
        )
        log.info("destination changed", destination=after.id, type=after.type, enabled=after.enabled)
        return after

    async def verify(self, account: int, body: Mapping[str, Any]) -> Report:
        """The report, whether it passed or failed, on what a create with `body` would store; nothing is stored.

        Raises InvalidParameters, TooManyVerifications, Unavailable and VerificationTimedOut.
        """
        self._tell_of_http(body)
        spec = parse_create(body, allow_http=self._allow_http).spec
        return await self._report(account, await self._store.standing(account), spec)

    async def verify_existing(self, account: int, destination: str) -> Report:
        """The report, whether it passed or failed, on the destination as it is; the report is kept with it, and the
        time where it passed. Nothing else of it changes.

        Raises what `verify` does, DestinationNotFound, CredentialsUnreadable, and DestinationChanged where another
        call changed it meanwhile: the report is not about what it is now, and is not kept.
        """
        current, sealed = await self._store.with_credentials(account, destination)
        credentials = self._credentials(current, sealed)
        if not credentials:
            raise CredentialsUnreadable(
                "The credentials of this destination cannot be read any more: send them again with PUT "
                f"/destinations/{current.id}."
            )
        whole = {"type": current.type, **current.parameters, **credentials}
        self._tell_of_http(whole)
        spec = parse(whole, allow_http=self._allow_http)
        standing = await self._store.standing(account)
        report = await self._report(account, standing, spec, current.id, current.known_location(spec))
        await self._store.verified(account, current.id, report, datetime.now(UTC), expected_version=current.version)
        log.info("destination verified", destination=current.id, type=current.type, ok=report.ok, code=report.code)
        return report

    def _tell_of_http(self, body: Mapping[str, Any]) -> None:
        """Log that an address of http is about to be refused; the customer is not told which setting would take it."""
        if not self._allow_http and any(str(value).strip().lower().startswith("http://") for value in body.values()):
            log.info("endpoint of http refused", setting="DROPOFF_ALLOW_HTTP")

    def key_guide(self, parameters: Mapping[str, Any]) -> KeyGuide:
        """How to make a key for the bucket that `parameters`, without credentials, name. Raises InvalidParameters."""
        return key_guide(parse_public(parameters, allow_http=self._allow_http))

    async def get(self, account: int | None, destination: str) -> Destination:
        """The destination, of any account where `account` is None. Raises DestinationNotFound."""
        return await self._store.get(account, destination)

    async def page(self, account: int | None, query: Query) -> Page:
        """The page of the account's destinations, or of all accounts', with the limit that holds for the account."""
        page = await self._store.page(account, query)
        return page if page.limit is not None else replace(page, limit=self._limit)

    async def delete(self, account: int, destination: str) -> None:
        """Raises DestinationNotFound."""
        await self._store.delete(account, destination)
        log.info("destination deleted", destination=destination)

    def _credentials(self, destination: Destination, sealed: str) -> dict[str, str]:
        """None of them where no key opens them: then a customer can still rename, disable, or send them again."""
        try:
            return self._sealer.open(sealed)
        except NotSealedByUs:
            log.error("credentials cannot be opened with any of the sealing keys", destination=destination.id)
            return {}

    async def _verified(
        self, account: int, standing: Standing, spec: Spec, destination: str, location: Location = UNKNOWN_LOCATION
    ) -> Report:
        """The report of a verification that succeeded. Raises VerificationFailed with the one that did not."""
        report = await self._report(account, standing, spec, destination, location)
        if not report.ok:
            raise VerificationFailed(report)
        return report

    async def _report(
        self,
        account: int,
        standing: Standing,
        spec: Spec,
        destination: str | None = None,
        location: Location = UNKNOWN_LOCATION,
    ) -> Report:
        """The report on `spec`, which is or is to be that of the destination with the id `destination`; `location` is
        what is known of its bucket. Raises EgressUnavailable where it says nothing about `spec`."""
        key = prefix.test_key(spec.path_prefix, datetime.now(UTC))
        lenient = (standing.delete or self._delete) is DeletePolicy.LENIENT
        report = await self._verifier.verify(
            account, spec, key, destination, location=location, lenient=lenient,
            at_once=standing.verifications, account_name=standing.account_name,
        )  # fmt: skip
        if report.code is Fault.EGRESS_UNAVAILABLE:
            log.warning("our network does not reach the provider", type=spec.type, host=report.host)
            raise EgressUnavailable(report.message, verification=report.as_answer())
        return report


def _changed(before: Destination, credentials: Mapping[str, str], after: Destination, spec: Spec | None) -> set[str]:
    """The names of the parameters in which `after`, which was made of `spec` where there is one, differs."""
    old = {"name": before.name, "enabled": before.enabled, "type": before.type, **before.parameters, **credentials}
    secrets = spec.secrets() if spec else credentials
    new = {"name": after.name, "enabled": after.enabled, "type": after.type, **after.parameters, **secrets}
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def new_id() -> str:
    """An id that no destination has yet: 48 random bits."""
    return secrets.token_hex(6).upper()
