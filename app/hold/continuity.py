"""Whether Redis still has all that it was told: not after it was restarted, failed over or emptied."""

import uuid
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.messages.keys import marker_key

# A process that holds nothing does not look, and this is the longest that it may hold nothing without a false alarm.
_MARKER_SECONDS = 86_400


class Continuity:
    """Looks for a marker of its own, and at which run of the server answers."""

    def __init__(self) -> None:
        self._key = marker_key(str(uuid.uuid4()))
        self._run: str | None = None
        self._looked_at = float("-inf")
        self.broken_at = float("-inf")
        """What Redis was told before this time it may have lost, by the clock that `note` goes by."""

    @property
    def known(self) -> bool:
        """Whether Redis has been looked at: before that, nothing is noticed."""
        return self._run is not None

    def ask(self, pipe: Pipeline) -> None:
        pipe.info("server")
        pipe.set(self._key, "here", ex=_MARKER_SECONDS, get=True)

    def note(self, answers: list[Any], now: float) -> None:
        """Take in the answers to `ask`."""
        info, marker = answers
        run = str(info["run_id"])
        if self.known and run != self._run:
            # In whole seconds, rounded down: no earlier than it was. A server that had begun before the last look is a
            # replica that took over since then.
            began = now - int(info["uptime_in_seconds"])
            self.broken_at = began if began > self._looked_at else now
        elif self.known and not marker:
            self.broken_at = now
        self._run, self._looked_at = run, now

    async def look(self, client: Redis, now: float) -> None:
        """Raises what the client raises, RedisError or OSError."""
        async with client.pipeline(transaction=False) as pipe:
            self.ask(pipe)
            self.note(await pipe.execute(), now)
