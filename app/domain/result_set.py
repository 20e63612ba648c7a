"""What a platform says when a result set is complete, and the rules that it keeps."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.domain import prefix
from app.domain.errors import InvalidParameters, ParameterFault
from app.domain.faults import Fault
from app.domain.listing import TIME_RULE, moment, unknown_parameters, whole_number

MOST_FILES = 1000
LARGEST_FILE = 10_000 * 32 * 1024 * 1024
"""In bytes: as many parts as every store takes, each of a size of which a worker may have a few in memory."""
LARGEST_ID = 2**53 - 1
"""The largest integer that every JSON reader keeps as it is."""
CONTENT_TYPE = "application/octet-stream"
_FILE = ("name", "source", "bytes", "sha256", "content_type")
_SHA256 = re.compile("[0-9a-f]{64}")
_CONTENT_TYPE = re.compile(
    r"[A-Za-z0-9!#$&^_.+-]{1,63}/[A-Za-z0-9!#$&^_.+-]{1,63}(; ?[a-z]{1,20}=[A-Za-z0-9._-]{1,40})?"
)
_SOURCE_BYTES = 1024
_UNSAFE = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# Of a set of a thousand files, so many faults are told at once.
_MOST_FAULTS = 20


@dataclass(frozen=True)
class ResultFile:
    """One file: the last part of its key, the path under the source, and what must be found there."""

    name: str
    source: str
    bytes: int
    sha256: str
    content_type: str


@dataclass(frozen=True)
class ResultSetDraft:
    """A result set as it was announced. Of two with the same `fingerprint` one says what the other says."""

    id: int
    started_at: datetime
    ended_at: datetime
    files: tuple[ResultFile, ...]

    @property
    def fingerprint(self) -> str:
        files = [[f.name, f.source, f.bytes, f.sha256, f.content_type] for f in self.files]
        times = [at.astimezone(UTC).isoformat() for at in (self.started_at, self.ended_at)]
        return hashlib.sha256(json.dumps([self.id, *times, files]).encode()).hexdigest()


def parse_result_set(body: Mapping[str, Any]) -> ResultSetDraft:
    """What `body` announces. Raises InvalidParameters with the first faults of it at once."""
    faults = unknown_parameters(body, ("id", "started_at", "ended_at", "files"), "a result set")
    names = ("id", "started_at", "ended_at", "files")
    faults += [ParameterFault(n, "missing_parameter", f"{n} is required.") for n in names if body.get(n) is None]
    identity = _integer(body.get("id"), LARGEST_ID)
    if identity is None and body.get("id") is not None:
        faults.append(_wrong("id", f"must be a whole number from 0 to {LARGEST_ID}"))
    began, ended = (_time(name, body.get(name), faults) for name in ("started_at", "ended_at"))
    if began and ended and ended < began:
        faults.append(_wrong("ended_at", "must not be before started_at"))
    files = _files(body["files"], faults) if body.get("files") is not None else ()
    if faults:
        raise InvalidParameters(faults[:_MOST_FAULTS])
    assert identity is not None and began and ended
    return ResultSetDraft(identity, began, ended, files)


def parse_result_set_id(text: str) -> int | None:
    """The id of a result set as a path has it; None where it is none."""
    try:
        number = whole_number(text)
    except ValueError:
        return None
    return number if number <= LARGEST_ID else None


def _files(value: object, faults: list[ParameterFault]) -> tuple[ResultFile, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_FILES:
        faults.append(_wrong("files", f"must be a list of 1 to {MOST_FILES} files"))
        return ()
    parsed = [_file(f"files[{number}]", each, faults) for number, each in enumerate(value)]
    files = tuple(each for each in parsed if each)
    names = [each.name for each in files]
    if len(set(names)) < len(names):
        number, name = next((n, name) for n, name in enumerate(names) if name in names[:n])
        faults.append(_wrong(f"files[{number}].name", f"is {name} as that of a file before it: each has its own"))
    return files


def _file(where: str, value: object, faults: list[ParameterFault]) -> ResultFile | None:
    if not isinstance(value, dict):
        faults.append(_wrong(where, f"must be an object with {', '.join(_FILE)}"))
        return None
    before = len(faults)
    faults += [_wrong(f"{where}.{f.parameter}", "is not known") for f in unknown_parameters(value, _FILE, "")]
    name, source, sha256 = value.get("name"), value.get("source"), value.get("sha256")
    size = _integer(value.get("bytes"), LARGEST_FILE)
    content_type = value.get("content_type") or CONTENT_TYPE
    if rule := prefix.why_name_refused(name) if isinstance(name, str) else "must be text":
        faults.append(_wrong(f"{where}.name", rule))
    if rule := why_source_refused(source):
        faults.append(_wrong(f"{where}.source", rule))
    if size is None:
        faults.append(_wrong(f"{where}.bytes", f"must be a whole number from 0 to {LARGEST_FILE}"))
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256.lower()):
        faults.append(_wrong(f"{where}.sha256", "must be the SHA-256 of the file, 64 hexadecimal digits"))
    if not isinstance(content_type, str) or not _CONTENT_TYPE.fullmatch(content_type):
        faults.append(_wrong(f"{where}.content_type", "must be a media type, as in application/json"))
    if len(faults) > before or size is None:
        return None
    return ResultFile(str(name), str(source), size, str(sha256).lower(), str(content_type))


def why_source_refused(source: object) -> str | None:
    """The rule that the path of a file under the source breaks; None if it is fine. Nothing outside can be named."""
    if not isinstance(source, str) or not 1 <= len(source.encode(errors="surrogatepass")) <= _SOURCE_BYTES:
        return f"must be a path of 1 to {_SOURCE_BYTES} bytes under the source"
    if _UNSAFE.search(source):
        return "must not contain backslashes, control characters or line breaks"
    if any(part in ("", ".", "..") for part in source.split("/")):
        return "must be a path under the source: it does not begin or end with /, and has no empty, . or .. part"
    return None


def _integer(value: object, largest: int) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        return None
    return value


def _time(name: str, value: object, faults: list[ParameterFault]) -> datetime | None:
    if value is None:
        return None
    try:
        return moment(value) if isinstance(value, str) else moment("")
    except ValueError:
        faults.append(_wrong(name, TIME_RULE))
        return None


def _wrong(parameter: str, rule: str) -> ParameterFault:
    return ParameterFault(parameter, Fault.INVALID_PARAMETER, f"{parameter} {rule}.")
