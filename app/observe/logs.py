"""One JSON line an event on standard error; ids bound by context; anything that looks like a key is redacted."""

import contextlib
import logging
import re
import sys
from collections.abc import MutableMapping
from functools import lru_cache
from typing import Any

import structlog

REDACTED = "[redacted]"

_SECRET_NAMES = re.compile(r"secret|password|authorization|credential|(access|account|api|private|operator)_?key", re.I)
_SECRET_TEXT = (
    (re.compile(r"(api_key(?:=|%3[dD]))[^&\s\"']+"), rf"\1{REDACTED}"),
    (re.compile(r"(Bearer\s+)[^\s\"',]+", re.I), rf"\1{REDACTED}"),
    (re.compile(r"(\w+://[^\s/:@]*:)[^\s/@]+(@)"), rf"\1{REDACTED}\2"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.S), REDACTED),
)

# What each of these has in it: most texts have none.
_SUSPECT = re.compile(r"api_key|bearer|://|-----BEGIN", re.I)

# Libraries whose own lines at INFO or DEBUG repeat requests.
_QUIET = (
    "aiobotocore", "aioboto3", "azure", "boto3", "botocore", "gcloud", "oss2", "urllib3", "asyncio", "kombu",
    "alembic", "sqlalchemy", "celery.worker.strategy", "celery.app.trace",
)  # fmt: skip


def redacted(text: str) -> str:
    """`text` without the keys in it."""
    if not _SUSPECT.search(text):
        return text
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


@lru_cache(1000)
def _is_secret(name: str) -> bool:
    return bool(_SECRET_NAMES.search(name))


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if _is_secret(name):
            event[name] = REDACTED
        elif isinstance(value, str):
            event[name] = redacted(value)
    return event


class _Lines:
    """Writes lines to standard error, as the logger that structlog gives the events of the module `name`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def msg(self, line: str) -> None:
        # A log that cannot be written to is no fault of who tells it something.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{line}\n")

    debug = info = warning = error = critical = exception = msg


def _lines(*names: str) -> _Lines:
    return _Lines(names[0] if names else structlog.stdlib.LoggerFactory(ignore_frame_names=[__name__])().name)


def configure(process: str, level: str = "INFO") -> None:
    """Set up the logs of this process: ours, and every library's in the same form. Ours do not pass by `logging`, which
    costs three times what is left."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        lambda _, __, event: {"process": process, **event},
    ]
    # A traceback is text before the redaction sees it.
    last: list[Any] = [structlog.processors.format_exc_info, _redact, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *last],
        logger_factory=_lines,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
