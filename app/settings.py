"""Every DROPOFF_ variable, from the environment or from a file, read once, frozen, its secrets hidden from repr."""

from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Self

from pydantic import DirectoryPath, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

Network = IPv4Network | IPv6Network

# Where Docker and its like put secrets.
SECRETS = Path("/run/secrets")

# Between the moment after which no worker may start a job and the end of the hold there is room for one whole
# verification and for this much more, in seconds: the way to the worker and back, and clocks that differ.
HOLD_MARGIN_SECONDS = 1.0
OPERATOR_KEY_LENGTH = 16


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
    hold_seconds: float = Field(30, gt=0, le=600)
    verify_seconds: float = Field(15, gt=0, le=300)
    destination_limit: int = Field(50, ge=0)
    account_verifications: int = Field(20, ge=1)
    held_requests: int = Field(10_000, ge=1)
    board_jobs: int = Field(10_000, ge=100, le=1_000_000)
    egress_allow: Annotated[tuple[Network, ...], NoDecode] = ()
    allow_http: bool = False
    s3_endpoint: str = ""
    gcs_endpoint: str = "https://storage.googleapis.com"
    gcs_token_endpoint: str = "https://oauth2.googleapis.com/token"
    azure_endpoint: str = "https://{account}.blob.core.windows.net"
    oss_endpoint: str = "https://{region}.aliyuncs.com"
    worker_threads: int = Field(64, ge=1, le=1000)
    worker_metrics: str = ""
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

    @field_validator("operator_key")
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
    def _hold_outlasts_verification(self) -> Self:
        if self.hold_seconds < self.verify_seconds + 2 * HOLD_MARGIN_SECONDS:
            raise ValueError(
                f"DROPOFF_HOLD_SECONDS must be at least {2 * HOLD_MARGIN_SECONDS:g} more than DROPOFF_VERIFY_SECONDS"
            )
        return self

    @property
    def start_seconds(self) -> float:
        """How long after its submission a job may still be started by a worker."""
        return self.hold_seconds - self.verify_seconds - HOLD_MARGIN_SECONDS

    @property
    def database(self) -> str:
        """The database's SQLAlchemy URL; SQLite in the data folder unless one is set."""
        return self.database_url or f"sqlite+aiosqlite:///{(self.data / 'dropoff.db').absolute()}"

    @cached_property
    def sealing_keys(self) -> tuple[str, ...]:
        """The sealing keys, newest first; empty where none is set."""
        return tuple(k.strip() for k in self.secret_keys.get_secret_value().split(",") if k.strip())


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
