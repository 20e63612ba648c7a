"""Every DROPOFF_ variable, from the environment or from a file, read once, frozen, its secrets hidden from repr."""

import base64
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import DirectoryPath, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from app.domain.deletes import DeletePolicy

Network = IPv4Network | IPv6Network

# Where Docker and its like put secrets.
SECRETS = Path("/run/secrets")

# Between the moment after which no worker may start a job and the end of the hold there is room for one whole
# verification and for this much more, in seconds: the way to the worker and back, and clocks that differ.
HOLD_MARGIN_SECONDS = 1.0
OPERATOR_KEY_LENGTH = 16
SIGNING_KEY_BYTES = (24, 64)


class Settings(BaseSettings):
    """What an operator can set; `docs/operating.md` has a line for each. Read from the environment, and what is not
    there from the folder of secrets: a file for each, called as the variable in lower case."""

    model_config = SettingsConfigDict(env_prefix="DROPOFF_", frozen=True, extra="ignore", hide_input_in_errors=True)

    data: Path = Path("data")
    secrets_dir: DirectoryPath | None = None
    database_url: str = ""
    redis_url: SecretStr = SecretStr("")
    secret_keys: SecretStr = SecretStr("")
    operator_key: SecretStr = SecretStr("")
    operator_read_key: SecretStr = SecretStr("")
    hold_seconds: float = Field(30, gt=0, le=600)
    verify_seconds: float = Field(15, gt=0, le=300)
    delete: DeletePolicy = DeletePolicy.STRICT
    propagation_seconds: float = Field(8, ge=0, le=60)
    destination_limit: int = Field(50, ge=0)
    account_verifications: int = Field(20, ge=1)
    held_requests: int = Field(10_000, ge=1)
    waiting_requests: int = Field(1000, ge=1)
    connections: int = Field(12_000, ge=1)
    address_connections: int = Field(6_000, ge=1)
    board_jobs: int = Field(10_000, ge=100, le=1_000_000)
    egress_allow: Annotated[tuple[Network, ...], NoDecode] = ()
    allow_http: bool = False
    s3_endpoint: str = ""
    gcs_endpoint: str = "https://storage.googleapis.com"
    gcs_token_endpoint: str = "https://oauth2.googleapis.com/token"
    azure_endpoint: str = "https://{account}.blob.core.windows.net"
    oss_endpoint: str = "https://{region}.aliyuncs.com"
    worker_jobs: int = Field(512, ge=1, le=100_000)
    worker_threads: int | None = Field(None, ge=1)
    """What `worker_jobs` was called before; read for one more release where that is not set."""
    worker_metrics: str = ""
    source: SecretStr = SecretStr("")
    notify_url: SecretStr = SecretStr("")
    notify_secret: SecretStr = SecretStr("")
    retention_days: float = Field(90, ge=0, le=36_500)
    recheck_hours: float = Field(24, ge=0, le=24 * 365)
    delivery_jobs: int = Field(128, ge=1, le=10_000)
    account_deliveries: int = Field(128, ge=1)
    destination_deliveries: int = Field(48, ge=1)
    log_level: str = "INFO"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        folder = Path(env_settings().get("secrets_dir") or SECRETS)
        files = (SecretsSettingsSource(settings_cls, folder),) if folder.is_dir() else ()
        return init_settings, env_settings, *files

    @field_validator("egress_allow", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(ip_network(part.strip()) for part in value.split(",") if part.strip())

    @field_validator("worker_metrics")
    @classmethod
    def _is_address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value and not (host and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError("must be HOST:PORT, as in 127.0.0.1:9464")
        return value

    @field_validator("source")
    @classmethod
    def _is_source(cls, value: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(value.get_secret_value())
        except ValueError:
            raise ValueError("is no URL") from None
        folder = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")
        address = parts.scheme == "https" and bool(parts.hostname)
        if value.get_secret_value() and (not (folder or address) or parts.query or parts.fragment):
            raise ValueError("must be a folder or an address of https, as in file:///srv/results")
        return value

    @field_validator("notify_url")
    @classmethod
    def _is_address_of_the_platform(cls, value: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(value.get_secret_value())
            whole = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise ValueError("is no URL") from None
        if value.get_secret_value() and (not whole or parts.fragment or "@" in parts.netloc):
            raise ValueError("must be an address of https without a user, as in https://example.com/dropoff")
        return value

    @field_validator("notify_secret")
    @classmethod
    def _are_signing_keys(cls, value: SecretStr) -> SecretStr:
        for each in _listed(value):
            _signing_key(each)
        return value

    @field_validator("operator_key", "operator_read_key")
    @classmethod
    def _not_guessed(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value()) < OPERATOR_KEY_LENGTH:
            raise ValueError(
                f"must have at least {OPERATOR_KEY_LENGTH} characters, since it opens every account's jobs"
            )
        return value

    @field_validator("azure_endpoint")
    @classmethod
    def _has_account(cls, value: str) -> str:
        if "{account}" not in value:
            raise ValueError("must contain {account}, where the storage account's name goes")
        return value

    @model_validator(mode="after")
    def _reads_with_another_key(self) -> Self:
        if self.operator_read_key.get_secret_value() and self.operator_read_key == self.operator_key:
            raise ValueError("DROPOFF_OPERATOR_READ_KEY must be another key than DROPOFF_OPERATOR_KEY")
        return self

    @model_validator(mode="after")
    def _hold_outlasts_verification(self) -> Self:
        if self.hold_seconds < self.verify_seconds + 2 * HOLD_MARGIN_SECONDS:
            raise ValueError(
                f"DROPOFF_HOLD_SECONDS must be at least {2 * HOLD_MARGIN_SECONDS:g} more than DROPOFF_VERIFY_SECONDS"
            )
        return self

    @model_validator(mode="after")
    def _notifies_by_tls(self) -> Self:
        parts = urlsplit(self.notify_url.get_secret_value())
        if parts.scheme == "http" and not self.allow_http and not is_loopback(parts.hostname or ""):
            raise ValueError(
                "DROPOFF_NOTIFY_URL must be an address of https; http may be on this machine, or where "
                "DROPOFF_ALLOW_HTTP is set"
            )
        return self

    @property
    def start_seconds(self) -> float:
        """How long after its submission a job may still be started by a worker."""
        return self.hold_seconds - self.verify_seconds - HOLD_MARGIN_SECONDS

    @property
    def room(self) -> int:
        """How many jobs one worker process may carry out at once."""
        if self.worker_threads is not None and "worker_jobs" not in self.model_fields_set:
            return self.worker_threads
        return self.worker_jobs

    @property
    def delivers(self) -> bool:
        """Whether result sets are taken here: it was said where their files are."""
        return bool(self.source.get_secret_value())

    @property
    def database(self) -> str:
        """The database's SQLAlchemy URL; SQLite in the data folder unless one is set."""
        return self.database_url or f"sqlite+aiosqlite:///{(self.data / 'dropoff.db').absolute()}"

    @cached_property
    def sealing_keys(self) -> tuple[str, ...]:
        """The sealing keys, newest first; empty where none is set."""
        return _listed(self.secret_keys)

    @property
    def notifies(self) -> bool:
        """Whether a platform is told of what happens."""
        return bool(self.notify_url.get_secret_value())

    @property
    def signing_keys(self) -> tuple[bytes, ...]:
        """What notifications are signed with, newest first; empty where none is set."""
        return tuple(map(_signing_key, _listed(self.notify_secret)))


def _listed(value: SecretStr) -> tuple[str, ...]:
    return tuple(each.strip() for each in value.get_secret_value().split(",") if each.strip())


def _signing_key(text: str) -> bytes:
    """The key in Standard Webhooks' spelling of it. Raises ValueError."""
    marker, _, encoded = text.partition("_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        key = b""
    if marker != "whsec" or not SIGNING_KEY_BYTES[0] <= len(key) <= SIGNING_KEY_BYTES[1]:
        least, most = SIGNING_KEY_BYTES
        raise ValueError(f"must be whsec_ and {least} to {most} bytes in base64, or several of these with commas")
    return key


def is_loopback(host: str) -> bool:
    """Whether `host`, an address or a name, is this machine to itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class InvalidSettings(Exception):
    """The message says in one line what is wrong with which variables; it repeats no value."""


def read_settings() -> Settings:
    """The settings of this process. Raises InvalidSettings."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [": ".join((*(f"DROPOFF_{name}".upper() for name in e["loc"]), e["msg"])) for e in error.errors()]
        raise InvalidSettings("; ".join(lines)) from None
    except (SettingsError, OSError) as error:
        raise InvalidSettings(f"a setting cannot be read: {error.__cause__ or error}") from None
