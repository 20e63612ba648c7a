"""Sealing: what may not be read at rest or on its way is encrypted, and refused if it was not sealed by us."""

import hmac
import json
from collections.abc import Sequence
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet


class NotSealedByUs(Exception):
    """The text was not sealed with any of our keys, or was changed since."""


class Sealer:
    """Seals with the first of `keys` (Fernet keys: 32 bytes, URL-safe base64), opens with any of them."""

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise ValueError("DROPOFF_SECRET_KEYS is not set: generate a key with `dropoff secrets generate`")
        self._keys = tuple(keys)
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise ValueError(
                "DROPOFF_SECRET_KEYS has a key that is not 32 bytes in URL-safe base64: generate one with "
                "`dropoff secrets generate`"
            ) from None

    def seal(self, content: dict[str, Any]) -> str:
        """`content`, which must be JSON, as text that only these keys open."""
        return self._fernet.encrypt(json.dumps(content).encode()).decode()

    def fingerprints(self, content: object) -> list[str]:
        """Hashes of `content`, which must be JSON, one by each key: they tell nothing to who has not the keys."""
        text = json.dumps(content, sort_keys=True).encode()
        return [hmac.new(key.encode(), text, "sha256").hexdigest() for key in self._keys]

    def resealed(self, sealed: str) -> str | None:
        """`sealed` by the first key; None where it is already. Raises NotSealedByUs where no key opens it."""
        try:
            Fernet(self._keys[0]).decrypt(sealed.encode())
        except InvalidToken:
            try:
                return self._fernet.rotate(sealed.encode()).decode()
            except InvalidToken:
                raise NotSealedByUs from None
        return None

    def open(self, sealed: str | bytes) -> dict[str, Any]:
        """What was sealed. Raises NotSealedByUs for anything else."""
        try:
            content = json.loads(self._fernet.decrypt(sealed))
        except (InvalidToken, ValueError, TypeError):
            raise NotSealedByUs from None
        if not isinstance(content, dict):
            raise NotSealedByUs
        return content


def new_key() -> str:
    """A fresh sealing key."""
    return Fernet.generate_key().decode()
