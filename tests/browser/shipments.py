"""Deliveries in every state as the outbox has them, so that the views have something to show. Nobody dispatches them:
the deployment has no source."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import update

from app.domain.collection import CollectionDraft
from app.domain.delivery import DeliveryState, SourceFault
from app.domain.destination import Destination
from app.domain.faults import Fault
from app.domain.result_set import ResultFile, ResultSetDraft
from app.messages.connections import connect
from app.monitor import failures, traffic
from app.store.collections import CollectionRepository
from app.store.destinations import DestinationRepository
from app.store.engine import open_engine
from app.store.outbox import mark_failing
from app.store.result_sets import ResultSetRepository
from app.store.tables import DeliveryRow
from tests.stack import Deployment

MB = 1_000_000
DENIED = (
    "The key may not write to results/ in customer-results: allow it to put objects there, or correct s3_path_prefix."
)
SAID = {"step": "upload", "provider_code": "AccessDenied", "status": 403, "request_id": "4442587FB7D0A2F9"}
GONE = "The file is not at its source: the platform that announced it has to put it there."
FILES = (
    ("Collection_Results_9E867FAA_4_Page_1.json", 512 * MB, DeliveryState.UPLOADING, 128 * MB, None, None),
    ("Collection_Results_9E867FAA_4_Page_2.json", 96 * MB, DeliveryState.UPLOADING, 80 * MB, None, None),
    ("Collection_Results_9E867FAA_4_Page_3.json", 3 * MB, DeliveryState.PENDING, 0, None, None),
    ("Collection_Results_9E867FAA_4_Page_4.json", 48 * MB, DeliveryState.FAILED, 16 * MB, Fault.WRITE_DENIED, DENIED),
    ("Collection_Results_9E867FAA_4_Page_5.json", MB, DeliveryState.FAILED, 0, SourceFault.NOT_FOUND, GONE),
    ("Collection_Results_9E867FAA_4_Page_6.json", MB, DeliveryState.OK, MB, None, None),
)  # fmt: skip


@dataclass
class Shipments:
    """The result set 4 of `collection`, on its way from the account of the number 1 to `destination`."""

    deployment: Deployment
    collection: str = "9E867FAA"
    destination: str = "4F2A6C19D0E7"

    async def write(self) -> None:
        now = datetime.now(UTC)
        async with open_engine(self.deployment.database_url) as engine:
            spec = {"s3_bucket_name": "customer-results"}
            values: dict[str, Any] = {"id": self.destination, "account": 1, "name": "Northwind", "type": "s3"}
            values |= {"parameters": spec, "verification": {"host": "s3.eu-west-1.amazonaws.com"}}
            destination = Destination(**values, enabled=True, version=1, created_at=now, updated_at=now)
            await DestinationRepository(engine).add(destination, "sealed", 50)
            draft = CollectionDraft("Prices", (self.destination,))
            await CollectionRepository(engine).put(1, self.collection, draft, now)
            files = tuple(ResultFile(name, name, size, "0" * 64, "application/json") for name, size, *_ in FILES)
            result_set = ResultSetDraft(4, now - timedelta(minutes=5), now, files)
            await ResultSetRepository(engine).add(1, self.collection, result_set, now)
            async with engine.begin() as connection:
                await connection.run_sync(
                    lambda each: mark_failing(each, self.destination, now, Fault.WRITE_DENIED, DENIED)
                )
        await self.reset()
        async with connect(self.deployment.redis_url) as redis, redis.pipeline(transaction=False) as pipe:
            for minute in range(25):
                traffic.note(
                    pipe, time.time() - 60 * minute, (1 + minute * 7 % 11) * 90 * MB, [(DeliveryState.OK, None)]
                )
            for fault in (Fault.WRITE_DENIED, SourceFault.NOT_FOUND):
                traffic.note(pipe, time.time(), 0, [(DeliveryState.FAILED, fault)])
                await failures.note_undelivered(pipe, time.time(), fault, "northwind")
            await pipe.execute()

    async def reset(self) -> None:
        """Have every delivery be in its state again."""
        for number in range(len(FILES)):
            await self.settle(number)

    async def settle(self, number: int) -> None:
        """Have the delivery of the file of this number be in its state again."""
        name, _, state, sent, fault, message = FILES[number]
        now = datetime.now(UTC)
        ended = now if state in (DeliveryState.FAILED, DeliveryState.OK) else None
        values: dict[str, Any] = {"state": state, "sent": sent, "fault": fault, "message": message, "ended_at": ended}
        values["refusal"] = SAID if fault is Fault.WRITE_DENIED else None
        if state is DeliveryState.PENDING:
            values["attempts"] = 0
        else:
            worker = "dropoff-deliveries-1@worker-b"
            values |= {
                "began_at": now - timedelta(seconds=9),
                "changed_at": now,
                "attempts": 1,
                "worker": worker,
                "key": f"results/{name}",
            }
        await self._change(number, values)

    async def fail_for_now(self, number: int) -> None:
        """Have the file not be at its source yet: it is tried again in a while."""
        due = datetime.now(UTC) + timedelta(seconds=90)
        await self._change(number, {"fault": SourceFault.NOT_FOUND, "message": GONE, "attempts": 1, "due_at": due})

    async def send(self, number: int, sent: int) -> None:
        """Have the store confirm so many bytes of the file, as its worker would tell."""
        await self._change(number, {"sent": sent, "changed_at": datetime.now(UTC)})

    async def _change(self, number: int, values: dict[str, Any]) -> None:
        which = (DeliveryRow.collection_id == self.collection, DeliveryRow.number == number)
        async with open_engine(self.deployment.database_url) as engine, engine.begin() as connection:
            await connection.execute(update(DeliveryRow).where(*which).values(**values))
