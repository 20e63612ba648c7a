"""What schemathesis must not send as it made it; it loads this file itself."""

import itertools
import os
from typing import Any

import schemathesis

_numbers = itertools.count()


@schemathesis.hook
def before_call(_: schemathesis.HookContext, case: schemathesis.Case, __: dict[str, Any]) -> None:
    # No host but the one that the test runs is ever named. What has no // the service takes for no address, and calls
    # nobody: that may stay as it was made.
    if isinstance(case.body, dict) and "//" in str(case.body.get("s3_endpoint")):
        case.body["s3_endpoint"] = os.environ["ONLY_HOST"]
    # Few keys come to its mind, and a key that comes again with another request is refused before anything is tried.
    if case.headers and case.headers.get("Idempotency-Key"):
        case.headers["Idempotency-Key"] += str(next(_numbers))
