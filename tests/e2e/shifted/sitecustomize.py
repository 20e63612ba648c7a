"""Gives the process that finds this file on its path a clock that is SHIFTED_SECONDS ahead."""

import os
import time

_now = time.time
_shift = float(os.environ["SHIFTED_SECONDS"])
time.time = lambda: _now() + _shift
