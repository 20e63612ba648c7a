"""The secrets of a deployment, made once and laid out by who may read which."""

import base64
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from app.messages.sealing import new_key


def new_signing_key() -> str:
    """What notifications are signed with, in Standard Webhooks' spelling."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


_MADE: Mapping[str, Callable[[], str]] = {
    "redis_password": lambda: secrets.token_hex(24),
    "postgres_password": lambda: secrets.token_hex(24),
    "dropoff_secret_keys": new_key,
    "dropoff_operator_key": lambda: secrets.token_hex(24),
    "dropoff_notify_secret": new_signing_key,
}

# Not made: only who wants one has one.
_MAY_BE_THERE = ("dropoff_operator_read_key",)

_READ_BY: Mapping[str, tuple[str, ...]] = {
    "api": (
        *("dropoff_database_url", "dropoff_redis_url", "dropoff_secret_keys", "dropoff_operator_key"),
        "dropoff_notify_secret",
        *_MAY_BE_THERE,
    ),
    # What calls customers' hosts shall have no key to the database.
    "worker": ("dropoff_redis_url", "dropoff_secret_keys"),
    "migrate": ("dropoff_database_url",),
    "flower": ("dropoff_redis_url",),
    "redis": ("redis.conf",),
    "postgres": ("postgres_password",),
}


def make(folder: Path, redis: str, postgres: str) -> None:
    """Make what is missing in `folder`, each file whole or not at all, and give every kind of process a folder with
    what it reads, made anew from these. `redis` and `postgres` are HOST:PORT. May be interrupted and run again.

    The folders' files can be read by everybody who comes to them, since containers have users of their own; `folder`
    only by its owner.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, new in _MADE.items():
        if not (folder / name).exists():
            _write(folder / name, new(), 0o600)
    there = [name for name in _MAY_BE_THERE if (folder / name).exists()]
    known = {name: (folder / name).read_text().strip() for name in (*_MADE, *there)}
    known["dropoff_redis_url"] = f"redis://:{known['redis_password']}@{redis}/0"
    known["dropoff_database_url"] = f"postgresql+asyncpg://dropoff:{known['postgres_password']}@{postgres}/dropoff"
    known["redis.conf"] = f"requirepass {known['redis_password']}"
    for reader, names in _READ_BY.items():
        (folder / reader).mkdir(mode=0o755, exist_ok=True)
        for name in names:
            if name in known:
                _write(folder / reader / name, known[name], 0o644)
            else:
                (folder / reader / name).unlink(missing_ok=True)


def _write(path: Path, text: str, mode: int) -> None:
    written = path.with_name(f".{path.name}.new")
    written.unlink(missing_ok=True)
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)
