"""The one asyncio loop of a worker process, which all of Celery's threads submit to."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Loop:
    """An event loop in a thread of its own. `threads` bounds how many name look-ups may be under way at once."""

    def __init__(self, threads: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(threads, "resolve"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns or raises, waited for in the calling thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def submit(self, work: Coroutine[Any, Any, None]) -> None:
        """Have `work` done, which raises nothing, without waiting for it."""
        asyncio.run_coroutine_threadsafe(work, self._loop)
