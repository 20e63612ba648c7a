"""How many requests may wait until the process looks at them: who is let on, in which order, and who is refused."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, suppress

import aiohttp
import pytest
from aiohttp import web

from app.domain.errors import Unavailable
from app.web.admission import AT_ONCE, AT_ONCE_BESIDE_REFUSALS, ROOM_OF_A_FLOW, ROOM_WHEN_FULL, Admission, admitting
from app.web.connections import attended
from app.web.errors import envelope
from app.web.trace import UNLOGGED
from tests.unit.sampling import sample

ROOM = 100
REFUSED = "dropoff_requests_not_admitted_total"


class Door:
    """An admission, whether it is told that the workers do not keep up, and what became of those who came."""

    def __init__(self, room: int = ROOM) -> None:
        self.full = False
        self.admission = Admission(lambda: self.full, room=room)
        self.on: list[int] = []
        self.refused: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def _come(self, number: int) -> None:
        try:
            await self.admission.turn()
        except Unavailable:
            self.refused.append(number)
        else:
            self.on.append(number)

    async def come(self, count: int) -> None:
        """So many come in one turn of the loop, before anybody is let on."""
        first = len(self.tasks)
        self.tasks += [asyncio.create_task(self._come(first + number)) for number in range(count)]
        await asyncio.sleep(0)

    async def all(self) -> None:
        await asyncio.gather(*self.tasks)


async def test_all_are_let_on_in_their_order_where_there_is_room() -> None:
    door = Door()
    await door.come(ROOM)
    assert door.on == [], "they wait for their turn"
    await door.all()
    assert (door.on, door.refused) == (list(range(ROOM)), [])
    # And later as well.
    await door.come(ROOM)
    await door.all()
    assert door.on == list(range(2 * ROOM))


async def test_only_so_many_are_let_on_in_one_turn_and_fewer_beside_refusals() -> None:
    door = Door()
    await door.come(ROOM)
    counts = []
    while len(door.on) < ROOM:
        before = len(door.on)
        await asyncio.sleep(0)
        counts.append(len(door.on) - before)
    assert max(counts) == AT_ONCE
    door = Door()
    await door.come(ROOM + 1)
    while not door.on:
        await asyncio.sleep(0)
    assert len(door.on) == AT_ONCE_BESIDE_REFUSALS
    await door.all()
    assert len(door.on) == ROOM


async def test_who_finds_no_room_is_refused_before_those_who_wait_are_let_on() -> None:
    before = sample(REFUSED)
    door = Door()
    await door.come(ROOM + 7)
    assert (door.on, door.refused) == ([], list(range(ROOM, ROOM + 7)))
    await door.all()
    assert door.on == list(range(ROOM))
    assert sample(REFUSED) == before + 7
    await door.come(1)
    await door.all()
    assert door.on[-1] == ROOM + 7, "there is room again"


async def test_a_burst_has_all_of_the_room_and_what_comes_on_and_on_a_part_of_it() -> None:
    room = 4 * ROOM_OF_A_FLOW
    door = Door(room)
    await door.come(room)
    await door.all()
    assert len(door.on) == room, "it has ended, however large it was"
    # As many again come in each turn as were let on, so that some wait all the time.
    await door.come(room)
    while not door.refused:
        await door.come(AT_ONCE)
    assert len(door.on) == pytest.approx(2 * room, abs=AT_ONCE)
    await door.all()
    assert len(door.on) == pytest.approx(2 * room + ROOM_OF_A_FLOW, abs=2 * AT_ONCE)
    await door.come(room)
    await door.all()
    assert len(door.tasks) - len(door.on) == len(door.refused)
    assert door.on[-1] == len(door.tasks) - 1, "nobody waited: it is a burst again"


async def test_while_the_workers_do_not_keep_up_there_is_less_room_also_for_those_who_wait() -> None:
    door = Door()
    await door.come(ROOM)
    door.full = True
    await door.all()
    assert door.on == list(range(ROOM_WHEN_FULL)), "the first ones, whose turn it is soonest"
    assert sorted(door.refused) == list(range(ROOM_WHEN_FULL, ROOM))
    await door.come(ROOM_WHEN_FULL + 1)
    await door.all()
    assert door.refused[-1] == ROOM + ROOM_WHEN_FULL
    door.full = False
    await door.come(ROOM)
    await door.all()
    assert door.on[-1] == len(door.tasks) - 1


async def test_who_goes_away_meanwhile_keeps_nobody_up() -> None:
    door = Door()
    await door.come(AT_ONCE + 2)
    for task in door.tasks[: AT_ONCE + 1]:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await door.all()
    await door.tasks[-1]
    assert door.on == [AT_ONCE + 1]
    # Those who are refused later are none of those who have gone.
    await door.come(ROOM_WHEN_FULL + 5)
    door.tasks[-1].cancel()
    door.full = True
    await asyncio.wait(door.tasks[AT_ONCE + 2 :])
    assert len(door.refused) == 4


class Counts:
    """Where refusals are counted here."""

    def __init__(self) -> None:
        self.noted: Counter[tuple[str, str]] = Counter()

    def note(self, code: str, owner: str) -> None:
        self.noted[code, owner] += 1


async def test_a_refusal_comes_before_the_body_and_reads_are_answered_meanwhile() -> None:
    """Over real connections: of the calls that have workers verify, those that find no room are told so in the form of
    every refusal, though their bodies never come."""
    counts, unlogged = Counts(), list[str]()

    @web.middleware
    async def noting_log(request: web.Request, handler: object) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)  # type: ignore[operator]
        if UNLOGGED in request:
            unlogged.append(f"{request.method} {request.path}")
        return response

    async def here(_: web.Request) -> web.Response:
        return web.Response(text="here")

    app = web.Application(
        middlewares=[attended, noting_log, admitting(Admission(lambda: False, room=0), counts), envelope]
    )
    app.add_routes([web.route("*", path, here) for path in ("/healthz", "/destinations", "/destinations/{id}")])
    runner = web.AppRunner(app, lingering_time=0.1)
    async with AsyncExitStack() as stack:
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)))

        async def never() -> object:
            yield b"{"
            await asyncio.Event().wait()

        for method, path in (("POST", "/destinations"), ("PUT", "/destinations/X")):
            async with session.request(method, url + path, data=never()) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
                assert answer.headers["X-Request-Id"]
                content = await answer.json()
                assert content["error"]["code"] == "unavailable"
                assert "nothing was created or changed" in content["request_info"]["message"]
        for method, path in (("GET", "/healthz"), ("GET", "/destinations"), ("DELETE", "/destinations/X")):
            async with session.request(method, url + path) as answer:
                assert answer.status == 200
    assert counts.noted == {("unavailable", ""): 2}
    assert unlogged == ["POST /destinations", "PUT /destinations/X"]
