"""Python's garbage collector, of a process that serves for long."""

import gc

YOUNG, MIDDLE, OLD = 10_000, 20, 20
"""As `gc.set_threshold` has them. What requests make is gone by its reference counts; cycles are few, and to look for
them as often as by default (700, 10, 10) was a tenth of what a request cost."""


def spare_what_stays() -> None:
    """Called when all that a process needs to start is in memory: that is not gone through again, nor once more now."""
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
