"""Collections and their result sets: the rules of registering, announcing, showing and delivering again. No HTTP."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from app.domain.collection import (
    Collection,
    CollectionDraft,
    CollectionPage,
    CollectionQuery,
    parse_collection,
    require_collection_id,
)
from app.domain.delivery import Delivery, DestinationStatus, Redelivered, Redelivery, ResultSet, parse_redelivery
from app.domain.errors import ResultSetNotFound, SourceNotConfigured
from app.domain.result_set import ResultSetDraft, parse_result_set, parse_result_set_id

log = structlog.get_logger()


class CollectionStore(Protocol):
    """Where collections are kept."""

    async def put(self, account: int, collection: str, draft: CollectionDraft, now: datetime) -> Collection: ...
    async def get(self, account: int, collection: str) -> Collection: ...
    async def page(self, account: int, query: CollectionQuery) -> CollectionPage: ...
    async def delete(self, account: int, collection: str) -> None: ...


class ResultSetStore(Protocol):
    """Where result sets are kept, with what has become of them."""

    async def add(
        self, account: int, collection: str, draft: ResultSetDraft, now: datetime
    ) -> tuple[ResultSet, bool]: ...
    async def get(self, account: int, collection: str, result_set: int) -> ResultSet: ...
    async def page(self, account: int, collection: str, page: int) -> tuple[list[ResultSet], int]: ...
    async def statuses(
        self, account: int, collection: str, result_sets: Sequence[int]
    ) -> dict[int, dict[str, DestinationStatus]]: ...
    async def deliveries_of(self, account: int, collection: str, result_set: int) -> list[Delivery]: ...
    async def redeliver(
        self, account: int, collection: str, result_set: int, asked: Redelivery, now: datetime
    ) -> Redelivered: ...
    async def redeliver_to(self, account: int, destination: str, asked: Redelivery, now: datetime) -> Redelivered: ...


class Wakes(Protocol):
    """What is told that there is something to dispatch."""

    def wake(self) -> None: ...


@dataclass(frozen=True)
class ResultSetState:
    """A result set and what has become of it at each destination; its deliveries where they are asked for."""

    result_set: ResultSet
    destinations: Mapping[str, DestinationStatus]
    deliveries: tuple[Delivery, ...] = ()


class Collections:
    """The collections of all accounts and their result sets; a caller sees those of its own only. `has_source` says
    that this deployment was told where result files are read from."""

    def __init__(
        self, collections: CollectionStore, result_sets: ResultSetStore, dispatcher: Wakes, *, has_source: bool
    ) -> None:
        self._collections = collections
        self._result_sets = result_sets
        self._dispatcher = dispatcher
        self._has_source = has_source

    async def put(self, account: int, collection: str, body: Mapping[str, Any]) -> Collection:
        """The collection as it is now; it is made where there was none. Raises InvalidParameters."""
        draft = parse_collection(body)
        stored = await self._collections.put(account, require_collection_id(collection), draft, datetime.now(UTC))
        log.info("collection stored", collection=stored.id, destinations=len(stored.destinations))
        return stored

    async def get(self, account: int, collection: str) -> Collection:
        """Raises CollectionNotFound."""
        return await self._collections.get(account, require_collection_id(collection))

    async def page(self, account: int, query: CollectionQuery) -> CollectionPage:
        return await self._collections.page(account, query)

    async def delete(self, account: int, collection: str) -> None:
        """Raises CollectionNotFound."""
        await self._collections.delete(account, require_collection_id(collection))
        log.info("collection deleted", collection=collection)

    async def announce(self, account: int, collection: str, body: Mapping[str, Any]) -> tuple[ResultSetState, bool]:
        """Take the result set that `body` announces, and whether it is new: the same may be announced again.

        Raises InvalidParameters, CollectionNotFound, ResultSetDiffers, SourceNotConfigured.
        """
        if not self._has_source:
            raise SourceNotConfigured(
                "This deployment takes no result sets, since it was not told where their files are: set DROPOFF_SOURCE."
            )
        draft = parse_result_set(body)
        now = datetime.now(UTC)
        stored, new = await self._result_sets.add(account, require_collection_id(collection), draft, now)
        if new:
            log.info("result set announced", collection=collection, result_set=stored.id, files=stored.files)
            self._dispatcher.wake()
        return (await self._with_states(account, collection, [stored]))[0], new

    async def result_sets(self, account: int, collection: str, page: int) -> tuple[list[ResultSetState], int]:
        """A page of the collection's result sets, newest first, and how many there are. Raises CollectionNotFound."""
        await self.get(account, collection)
        found, count = await self._result_sets.page(account, collection, page)
        return await self._with_states(account, collection, found), count

    async def result_set(self, account: int, collection: str, identity: str) -> ResultSetState:
        """One result set with every delivery of it. Raises CollectionNotFound and ResultSetNotFound."""
        number = await self._number(account, collection, identity)
        found = await self._result_sets.get(account, collection, number)
        (state,) = await self._with_states(account, collection, [found])
        deliveries = await self._result_sets.deliveries_of(account, collection, number)
        return ResultSetState(state.result_set, state.destinations, tuple(deliveries))

    async def redeliver(self, account: int, collection: str, identity: str, body: Mapping[str, Any]) -> Redelivered:
        """Let the result set be delivered again as `body` asks. Raises InvalidParameters, CollectionNotFound and
        ResultSetNotFound."""
        number = await self._number(account, collection, identity)
        await self._result_sets.get(account, collection, number)
        asked = parse_redelivery(body, ("destination_ids", "only_failed"))
        done = await self._result_sets.redeliver(account, collection, number, asked, datetime.now(UTC))
        return self._asked(done, collection=collection, result_set=number)

    async def redeliver_to(self, account: int, destination: str, body: Mapping[str, Any]) -> Redelivered:
        """Let what was announced for the destination be delivered to it again as `body` asks. Raises
        InvalidParameters."""
        asked = parse_redelivery(body, ("from", "to", "only_failed"))
        done = await self._result_sets.redeliver_to(account, destination, asked, datetime.now(UTC))
        return self._asked(done, destination=destination)

    def _asked(self, done: Redelivered, **about: Any) -> Redelivered:
        log.info("redelivery asked for", deliveries=done.count, **about)
        self._dispatcher.wake()
        return done

    async def _number(self, account: int, collection: str, identity: str) -> int:
        await self.get(account, collection)
        number = parse_result_set_id(identity)
        if number is None:
            raise ResultSetNotFound("There is no result set with this id in this collection.")
        return number

    async def _with_states(self, account: int, collection: str, found: Sequence[ResultSet]) -> list[ResultSetState]:
        statuses = await self._result_sets.statuses(account, collection, [each.id for each in found])
        return [ResultSetState(each, statuses.get(each.id, {})) for each in found]
