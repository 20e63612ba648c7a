"""PgBouncer in the tests, as Debian brings it: in transaction mode, with few connections to the PostgreSQL behind."""

import os
import shutil
from collections.abc import Sequence

import pytest
from sqlalchemy import URL
from sqlalchemy.engine import make_url

from demo.processes import HOST, Server
from tests.stack import accepts

CONNECTIONS = 2
"""To the server, for whatever number of clients: a transaction of a client mostly meets another than the one before."""


class PgBouncer(Server):
    """One that stands before the database at `url`."""

    def __init__(self, url: str) -> None:
        super().__init__(1)
        self._behind = make_url(url)
        # PgBouncer does not run as root.
        self.run_as = "nobody" if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        """The database, through it."""
        through: URL = self._behind.set(port=self.ports[0])
        return through.render_as_string(hide_password=False)

    def command(self) -> Sequence[str]:
        binary = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        if not binary:
            pytest.skip("this machine has no pgbouncer (apt-get install pgbouncer): nothing was tried behind one")
        users, settings = self.folder / "users", self.folder / "pgbouncer.ini"
        users.write_text(f'"{self._behind.username}" "{self._behind.password}"\n')
        settings.write_text(
            f"[databases]\n{self._behind.database} = host={HOST} port={self._behind.port}\n"
            f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {self.ports[0]}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {users}\n"
            f"pool_mode = transaction\ndefault_pool_size = {CONNECTIONS}\nmax_client_conn = 200\n"
        )
        for each in (self.folder, users, settings):
            if self.run_as:
                shutil.chown(each, self.run_as)
        return [binary, str(settings)]

    def is_ready(self) -> bool:
        return accepts(self.ports[0])
