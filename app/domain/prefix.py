"""Path prefixes: what one may contain, how its tokens are filled, how a key is made of it."""

import re
import secrets
from collections.abc import Mapping
from datetime import date, datetime

TOKENS = ("COLLECTION_ID", "COLLECTION_NAME", "RESULT_SET_ID", "DATE")

# What the name of every test file begins with, so that a policy can be written for them.
TEST_FILE = "dropoff-verify-"

# A prefix may use this many bytes of the 1,023 that the strictest store (OSS) allows a whole key, counted with
# its tokens at their longest; what remains is for the file's own name.
LONGEST_PREFIX_BYTES = 700
# Azure allows 254 folders in a key.
MOST_FOLDERS = 250
_LONGEST_VALUE = {"COLLECTION_ID": 32, "COLLECTION_NAME": 255, "RESULT_SET_ID": 32, "DATE": 10}

_WORD = re.compile(r"%([A-Za-z_][A-Za-z0-9_]*)%")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff\ud800-\udfff]")
_UNSAFE_IN_NAME = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff\ud800-\udfff]")


def why_refused(prefix: str) -> str | None:
    """The rule that `prefix` breaks, as the end of a sentence that begins with the parameter; None if it is fine.

    One leading and one trailing slash are accepted and mean nothing.
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


def folder(prefix: str) -> str:
    """The prefix without the one leading and the one trailing slash that a customer may write."""
    return prefix.removeprefix("/").removesuffix("/")


def key(prefix: str, values: Mapping[str, str], file_name: str) -> str:
    """The key of `file_name` under `prefix`, its tokens replaced by `values` (by token name, made safe here),
    joined by exactly one slash. A token inside a value is not replaced again."""
    filled = _WORD.sub(lambda match: safe_name(values[match[1]]), folder(prefix))
    return f"{filled}/{file_name}" if filled else file_name


def fixed(prefix: str) -> str:
    """What the key of every file under `prefix` begins with: all that stands before the first token."""
    if token := _WORD.search(folder(prefix)):
        return folder(prefix)[: token.start()]
    return f"{folder(prefix)}/" if folder(prefix) else ""


def test_key(prefix: str, now: datetime) -> str:
    """The key of a test file: where real files would go under `prefix`, at a name that is never used twice."""
    return key(prefix, sample_values(now.date()), f"{TEST_FILE}{secrets.token_hex(16)}.txt")


def safe_name(name: str) -> str:
    """`name` as one path segment: no slash, no control character, no dot segment, at most 255 bytes."""
    safe = _UNSAFE_IN_NAME.sub("-", name).encode()[:255].decode(errors="ignore").rstrip(".")
    return safe or "-"


def sample_values(today: date) -> dict[str, str]:
    """Values for every token, as a test file uses them. `today` is the UTC date."""
    return {
        "COLLECTION_ID": "000000000000",
        "COLLECTION_NAME": "dropoff-verify",
        "RESULT_SET_ID": "0",
        "DATE": today.strftime("%Y_%m_%d"),
    }
