"""The command `dropoff`: the only part of the app that may start workers."""

import sys
from typing import NoReturn


def fail(message: str) -> NoReturn:
    """End this process with a sentence."""
    sys.exit(f"dropoff: {message}")
