"""Servers as processes of their own: on ports of loopback that are theirs, awaited until they answer, sure to end."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
START_SECONDS = 60.0
LOG_SHOWN = 4000

# Below those that systems give to outgoing connections, so that none of these takes one between look and use.
PORTS = range(10240, 32768)
BLOCK = 16
"""So many neighbours are given to one who asks, the first of which is the sign that they are."""
# What a server is given of this process's environment: nothing that could configure it.
_KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
# Ends the server if this process is killed: nobody else holds the other end of its standard input.
_WATCH = 'read -r _; kill -9 "$1"'


class Ports:
    """Neighbouring free ports of loopback, fewer than BLOCK. A port bound beside them keeps everybody else who asks
    here away."""

    def __init__(self, count: int) -> None:
        assert count < BLOCK
        for _ in range(1000):
            self._sign = socket.socket()
            first = random.choice(PORTS[::BLOCK])
            try:
                self._sign.bind((HOST, first))
                self.numbers = list(range(first + 1, first + 1 + count))
                for port in self.numbers:
                    with socket.socket() as probe:
                        probe.bind((HOST, port))
                return
            except OSError:
                self._sign.close()
        raise RuntimeError(f"there are no {count} neighbouring free ports")

    def close(self) -> None:
        self._sign.close()


class Server:
    """A program that serves on loopback from the beginning of a `with` block to its end.

    It has a new folder, which is its HOME and its TMPDIR and is removed with everything in it. A subclass says
    how it is called and when it can be used.
    """

    run_as: str | None = None
    """The system user to run as, where that is not this process's own."""

    def __init__(self, ports: int) -> None:
        self._ports_needed = ports
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._log = b""

    def command(self) -> Sequence[str]:
        """How the program is called; `folder` and `ports` are there by then."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """What its environment has besides PATH and the like."""
        return {}

    def is_ready(self) -> bool:
        """Whether it can be used; asked again and again while it starts."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Give it what it shall have in it; called once, when it is ready."""

    def clean_up(self) -> None:
        """Remove what is outside of the folder; called when the program has ended."""

    @property
    def log(self) -> str:
        """What the program has written so far, and after the block all of it."""
        path = self.folder / "log"
        return (path.read_bytes() if path.exists() else self._log).decode(errors="replace")

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="dropoff-"))
        self._reserved = Ports(self._ports_needed)
        self.ports = self._reserved.numbers
        try:
            self._start()
            self._wait()
            self.prepare()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env={**kept, "HOME": str(self.folder), "TMPDIR": str(self.folder), **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self.run_as,
            )
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "sh", str(self._process.pid)], stdin=subprocess.PIPE, start_new_session=True
        )

    def _wait(self) -> None:
        assert self._process
        ends = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self._process.poll() is not None:
                raise RuntimeError(f"{type(self).__name__} ended with {self._process.returncode}: {self._last_words()}")
            if time.monotonic() > ends:
                raise RuntimeError(
                    f"{type(self).__name__} is not ready after {START_SECONDS:g} s: {self._last_words()}"
                )
            time.sleep(0.02)

    def _last_words(self) -> str:
        return self.log[-LOG_SHOWN:]

    def _stop(self) -> None:
        """Kill it: nothing that it has is to be kept, and no program can put that off."""
        # The watch goes first, since the number that it would kill may be another's afterwards.
        for process in (self._watch, self._process):
            if process:
                process.kill()
                process.wait()
                if process.stdin:
                    process.stdin.close()
        self._process = self._watch = None
        self.clean_up()
        self._reserved.close()
        with contextlib.suppress(OSError):
            self._log = (self.folder / "log").read_bytes()
        shutil.rmtree(self.folder, ignore_errors=True)
