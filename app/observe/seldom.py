"""What would be said again and again is said once a minute."""

import time

SECONDS = 60.0


class Seldom:
    """Whether something is to be said now: the first time, and then when SECONDS are over."""

    def __init__(self) -> None:
        self._said = float("-inf")

    def is_due(self) -> bool:
        """Whoever is told so says it."""
        now = time.monotonic()
        if now - self._said < SECONDS:
            return False
        self._said = now
        return True
