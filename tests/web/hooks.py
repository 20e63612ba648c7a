"""What schemathesis must not send as it made it; it loads this file itself."""

import itertools
import os
from typing import Any

import schemathesis

from tests.types.every import STORAGES

ENDPOINTS = {storage.endpoint for storage in STORAGES.values() if storage.endpoint}
_numbers = itertools.count()


@schemathesis.hook
def before_call(_: schemathesis.HookContext, case: schemathesis.Case, __: dict[str, Any]) -> None:
    # No host but the one that the test runs is ever named. What has no // the service takes for no address, and calls
    # nobody: that may stay as it was made.
    if isinstance(case.body, dict):
        for name in ENDPOINTS:
            if "//" in str(case.body.get(name)):
                case.body[name] = os.environ["ONLY_HOST"]
    # Few keys come to its mind, and a key that comes again with another request is refused before anything is tried.
    if case.headers and case.headers.get("Idempotency-Key"):
        case.headers["Idempotency-Key"] += str(next(_numbers))
