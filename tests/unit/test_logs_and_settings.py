"""What is written about a process: redacted, and bounded by settings that make sense."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from app import settings as app_settings
from app.cli import secret_files
from app.settings import Settings
from tests.stack import clean_environment

LINES = """
import logging, structlog
from app.observe import logs
logs.configure("test")
log = structlog.get_logger("t")
log.info("called", url="/destinations?api_key=SENTINEL-1&page=2", s3_secret_access_key="SENTINEL-2")
log.info("header Authorization: Bearer SENTINEL-3", azure_account_key="SENTINEL-4")
logging.getLogger("lib").warning("connecting to redis://:SENTINEL-5@host:1/0 and postgresql://u:SENTINEL-6@h/d")
try:
    raise ValueError("bad url https://x/?api_key=SENTINEL-7")
except ValueError:
    log.exception("broke", key="-----BEGIN PRIVATE KEY-----\\nSENTINEL-8\\n-----END PRIVATE KEY-----")
"""


def test_keys_are_redacted_wherever_they_stand_in_a_line() -> None:
    done = subprocess.run([sys.executable, "-c", LINES], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) == 4
    assert "SENTINEL" not in done.stderr
    assert lines[0]["url"] == "/destinations?api_key=[redacted]&page=2"
    assert "redis://:[redacted]@host:1/0" in lines[2]["event"]
    assert "ValueError" in lines[3]["exception"]


def test_settings_hide_secrets_and_hold_longer_than_they_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROPOFF_SECRET_KEYS", "SENTINEL-a, SENTINEL-b")
    monkeypatch.setenv("DROPOFF_REDIS_URL", "redis://:SENTINEL-c@h/0")
    monkeypatch.setenv("DROPOFF_EGRESS_ALLOW", "127.0.0.0/8, ::1/128")
    settings = Settings()
    assert "SENTINEL" not in repr(settings) + str(settings)
    assert settings.sealing_keys == ("SENTINEL-a", "SENTINEL-b")
    assert [str(network) for network in settings.egress_allow] == ["127.0.0.0/8", "::1/128"]
    monkeypatch.setenv("DROPOFF_HOLD_SECONDS", "16")
    with pytest.raises(ValidationError, match="DROPOFF_HOLD_SECONDS"):
        Settings()


def test_settings_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("EGRESS_ALLOW", "not-a-network"),
        ("AZURE_ENDPOINT", "https://blob.example.com"),
        ("DESTINATION_LIMIT", "-1"),
        ("OPERATOR_KEY", "short"),
        ("RETENTION_DAYS", "-1"),
        ("NOTIFY_URL", "http://example.com/hook"),
        ("NOTIFY_URL", "https://user:password@example.com/hook"),
        ("NOTIFY_URL", "ftp://127.0.0.1/hook"),
        ("NOTIFY_SECRET", "whsec_c2hvcnQ="),
        ("NOTIFY_SECRET", "c" * 32),
    ):
        with monkeypatch.context() as patched:
            patched.setenv(f"DROPOFF_{name}", value)
            with pytest.raises(ValidationError):
                Settings()


def test_the_platform_is_told_by_https_or_on_this_machine_and_the_secrets_are_hidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = secret_files.new_signing_key(), secret_files.new_signing_key()
    (tmp_path / "dropoff_notify_secret").write_text(f"{first}, {second}\n")
    monkeypatch.setenv("DROPOFF_SECRETS_DIR", str(tmp_path))
    for url, more in (
        ("https://example.com:8443/hook?token=SENTINEL", {}),
        ("http://localhost:9000/SENTINEL", {}),
        ("http://[::1]/SENTINEL", {}),
        ("http://platform.internal/SENTINEL", {"DROPOFF_ALLOW_HTTP": "1"}),
    ):
        with monkeypatch.context() as patched:
            patched.setenv("DROPOFF_NOTIFY_URL", url)
            for name, value in more.items():
                patched.setenv(name, value)
            settings = Settings()
        assert settings.notifies
        assert [len(key) for key in settings.signing_keys] == [32, 32]
        assert "SENTINEL" not in repr(settings) + str(settings)
        assert first not in repr(settings) + str(settings)
    assert not Settings().notifies


def test_secrets_are_read_from_files_and_the_environment_goes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dropoff_secret_keys").write_text("SENTINEL-a,SENTINEL-b\n")
    (tmp_path / "dropoff_redis_url").write_text("redis://:SENTINEL-c@h/0\n")
    (tmp_path / "dropoff_database_url").write_text("postgresql+asyncpg://u:SENTINEL-d@h/d\n")
    (tmp_path / "of-somebody-else").write_text("x")
    monkeypatch.setenv("DROPOFF_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("DROPOFF_DATABASE_URL", "postgresql+asyncpg://h/other")
    settings = Settings()
    assert settings.sealing_keys == ("SENTINEL-a", "SENTINEL-b")
    assert settings.redis_url.get_secret_value() == "redis://:SENTINEL-c@h/0"
    assert settings.database == "postgresql+asyncpg://h/other"
    assert "SENTINEL" not in repr(settings) + str(settings)


def test_the_usual_folder_of_secrets_may_be_there_or_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(app_settings, "SECRETS", tmp_path / "secrets")
    assert Settings().redis_url.get_secret_value() == ""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/dropoff_redis_url").write_text("redis://h/1")
    assert Settings().redis_url.get_secret_value() == "redis://h/1"


def test_a_folder_or_a_file_of_secrets_that_cannot_be_read_ends_the_command_in_a_sentence(tmp_path: Path) -> None:
    def refusal(folder: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", "keys", "list"],
            env=clean_environment(DROPOFF_SECRETS_DIR=str(folder), DROPOFF_DATA=str(tmp_path / "data")),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (1, "", False)
        return done.stderr

    assert "DROPOFF_SECRETS_DIR" in refusal(tmp_path / "mistyped")
    (tmp_path / "dropoff_redis_url").write_bytes(b"\xff\xfe")
    assert "a setting cannot be read" in refusal(tmp_path)


def test_a_read_only_key_is_handed_on_where_there_is_one(tmp_path: Path) -> None:
    handed = tmp_path / "api" / "dropoff_operator_read_key"
    secret_files.make(tmp_path, "r:1", "p:2")
    assert not handed.exists()
    (tmp_path / handed.name).write_text("the-key-of-a-dashboard\n")
    secret_files.make(tmp_path, "r:1", "p:2")
    assert handed.read_text() == "the-key-of-a-dashboard\n"
    assert not (tmp_path / "worker" / handed.name).exists()
    (tmp_path / handed.name).unlink()
    secret_files.make(tmp_path, "r:1", "p:2")
    assert not handed.exists()
