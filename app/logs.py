"""One JSON line an event on standard error; ids bound by context; anything that looks like a key is redacted."""

import logging
import re
import sys
from collections.abc import MutableMapping
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

# Libraries whose own lines at INFO or DEBUG repeat requests.
_QUIET = (
    "aiobotocore", "aioboto3", "azure", "boto3", "botocore", "gcloud", "oss2", "urllib3", "asyncio", "kombu",
    "alembic", "sqlalchemy", "celery.worker.strategy", "celery.app.trace",
)  # fmt: skip


def redacted(text: str) -> str:
    """`text` without the keys in it."""
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if _SECRET_NAMES.search(name):
            event[name] = REDACTED
        elif isinstance(value, str):
            event[name] = redacted(value)
    return event


def configure(process: str, level: str = "INFO") -> None:
    """Set up the logs of this process: ours and, through the same pipe, every library's."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        lambda _, __, event: {"process": process, **event},
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # A traceback is text before the redaction sees it.
                structlog.processors.format_exc_info,
                _redact,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
