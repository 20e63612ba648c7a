"""Path prefixes: what they may contain, how their tokens are replaced, and how a file's key is made of one."""

import re
import secrets
from collections.abc import Mapping
from datetime import date, datetime

TOKENS = ("COLLECTION_ID", "COLLECTION_NAME", "RESULT_SET_ID", "DATE")

# The name of every test file begins with this, so that a policy can allow the delete of nothing else.
TEST_FILE = "dropoff-verify-"

# A destination can change its type, so a prefix keeps the strictest rule of all types. OSS allows a key of 1,023 bytes;
# a prefix may take this many of them, with its tokens at their longest, and the rest is for the file's name.
LONGEST_PREFIX_BYTES = 700
LONGEST_NAME_BYTES = 255
# Azure allows 254 folders in a key.
MOST_FOLDERS = 250
_LONGEST_VALUE = {"COLLECTION_ID": 64, "COLLECTION_NAME": 255, "RESULT_SET_ID": 32, "DATE": 10}

_WORD = re.compile(r"%([A-Za-z_][A-Za-z0-9_]*)%")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff\ud800-\udfff]")
_UNSAFE_IN_NAME = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff\ud800-\udfff]")


def why_refused(prefix: str) -> str | None:
    """The rule that `prefix` breaks, to continue a sentence that begins with the parameter's name; None if it is fine.

    One leading and one trailing slash are accepted and have no effect.
    """
    if _CONTROL.search(prefix):
        return "must not contain control characters or line breaks"
    if "\\" in prefix:
        return "must use / and not \\ between folders"
    for match in _WORD.finditer(prefix):
        if match[1] not in TOKENS:
            known = ", ".join(f"%{token}%" for token in TOKENS)
            return f"contains {match[0]}, which is no token: the tokens are {known}"
    segments = folder(prefix).split("/")
    if any(segment == "" for segment in segments) and folder(prefix):
        return "must not contain empty folders (//)"
    if any(segment in (".", "..") for segment in segments):
        return "must not contain . or .. as a folder"
    if any(segment.endswith(".") for segment in segments):
        return "must not contain a folder that ends with a dot"
    if folder(prefix).startswith(".well-known/acme-challenge"):
        return "must not be .well-known/acme-challenge, which Google Cloud Storage reserves"
    if len(segments) > MOST_FOLDERS:
        return f"has too many folders: it may have {MOST_FOLDERS}"
    longest = len(_WORD.sub("", prefix).encode()) + sum(_LONGEST_VALUE[m[1]] for m in _WORD.finditer(prefix))
    if longest > LONGEST_PREFIX_BYTES:
        return f"is too long: with its tokens filled it may take {LONGEST_PREFIX_BYTES} bytes, this one {longest}"
    return None


def why_name_refused(name: str) -> str | None:
    """The rule that a file's name breaks, to continue a sentence that begins with what it is; None if it is fine.

    It is the last part of a key, as it stands: nothing in it is replaced.
    """
    if not name or len(name.encode(errors="surrogatepass")) > LONGEST_NAME_BYTES:
        return f"must have 1 to {LONGEST_NAME_BYTES} bytes"
    if _UNSAFE_IN_NAME.search(name):
        return "must not contain / or \\, control characters or line breaks"
    if name.endswith("."):
        return "must not end with a dot"
    return None


def folder(prefix: str) -> str:
    """`prefix` without the one leading and the one trailing slash that are accepted."""
    return prefix.removeprefix("/").removesuffix("/")


def key(prefix: str, values: Mapping[str, str], file_name: str) -> str:
    """The key of `file_name` under `prefix`, joined by exactly one slash.

    Each token is replaced by its value in `values`, which is made safe for a key. A token inside a value is not
    replaced again.
    """
    filled = _WORD.sub(lambda match: safe_name(values[match[1]]), folder(prefix))
    return f"{filled}/{file_name}" if filled else file_name


def fixed(prefix: str) -> str:
    """What the key of every file under `prefix` begins with: its part before the first token."""
    if token := _WORD.search(folder(prefix)):
        return folder(prefix)[: token.start()]
    return f"{folder(prefix)}/" if folder(prefix) else ""


def test_key(prefix: str, now: datetime) -> str:
    """The key of a test file: where files would go under `prefix` at `now` (UTC), with a name that is used once."""
    return key(prefix, sample_values(now.date()), f"{TEST_FILE}{secrets.token_hex(16)}.txt")


def safe_name(name: str) -> str:
    """`name` as one path segment: no slash, no control character, no dot segment, at most 255 bytes."""
    safe = _UNSAFE_IN_NAME.sub("-", name).encode()[:255].decode(errors="ignore").rstrip(".")
    return safe or "-"


def sample_values(today: date) -> dict[str, str]:
    """A value for every token, for the key of a test file. `today` is the UTC date."""
    return {
        "COLLECTION_ID": "000000000000",
        "COLLECTION_NAME": "dropoff-verify",
        "RESULT_SET_ID": "0",
        "DATE": today.strftime("%Y_%m_%d"),
    }
