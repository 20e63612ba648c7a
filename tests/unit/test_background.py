"""Background tasks: nothing that a step raises ends one, and one that has ended all the same is seen."""

import asyncio

import redis.exceptions
from structlog.testing import capture_logs

from app.observe.background import Background
from tests.unit.sampling import sample


async def test_no_error_of_a_step_ends_it_and_the_first_of_each_streak_is_logged() -> None:
    raised = [
        ValueError("v"),
        redis.exceptions.ResponseError("UNBLOCKED"),
        OSError(),
        UnicodeDecodeError("u", b"", 0, 1, ""),
    ]
    done = asyncio.Event()

    async def step() -> None:
        if raised:
            raise raised.pop(0)
        done.set()
        await asyncio.sleep(0.01)

    task = Background("test-errors", step)
    with capture_logs() as logged:
        async with task.running():
            await asyncio.wait_for(done.wait(), 30)
            await asyncio.sleep(0.03)
            assert not task.ended
    assert [line["event"] for line in logged] == ["background task failed", "background task works again"]
    assert sample("dropoff_background_failures_total", task="test-errors") == 4


async def test_a_stop_cancels_the_step_under_way() -> None:
    began = asyncio.Event()

    async def step() -> None:
        began.set()
        await asyncio.sleep(60)

    task = Background("test-stop", step)
    task.start()
    await began.wait()
    await asyncio.wait_for(task.stop(), 30)
    assert not task.ended


async def test_a_cancellation_that_is_lost_is_made_again() -> None:
    """Python 3.11 loses one that comes while a command is being sent."""
    began, lost = asyncio.Event(), asyncio.Event()

    async def step() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            lost.set()
        await asyncio.sleep(60)

    task = Background("test-lost", step)
    task.start()
    await began.wait()
    await asyncio.wait_for(task.stop(), 30)
    assert lost.is_set()


async def test_one_that_somebody_else_cancelled_has_ended() -> None:
    task = Background("test-ended", asyncio.Event().wait)  # type: ignore[arg-type]
    task.start()
    await asyncio.sleep(0)
    assert task._task
    task._task.cancel()
    await asyncio.wait({task._task})
    assert task.ended
