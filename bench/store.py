"""A store that takes everything after so many milliseconds: what it costs is not what is measured.

python -m bench.store PORT MILLISECONDS [HOSTS]

HOSTS of them, from 127.0.0.1 on.
"""

import asyncio
import sys

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
STORED = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 0\r\n\r\n'


class Store(asyncio.Protocol):
    """One connection, each request on it answered in turn."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, rest = self._received.partition(b"\r\n\r\n")
            lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            length = int(lengths[0]) if lengths else 0
            if len(rest) < length:
                # An SDK waits for this before it sends a body.
                if not rest and b"\r\nexpect: 100-continue" in head.lower():
                    self._transport.write(CONTINUE)
                return
            self._received = rest[length:]
            asyncio.get_running_loop().call_later(self._seconds, self._transport.write, STORED)


async def serve(port: int, seconds: float, hosts: int = 1) -> None:
    """Serve on loopback until the process is ended."""
    names = [f"127.0.0.{number}" for number in range(1, hosts + 1)]
    server = await asyncio.get_running_loop().create_server(lambda: Store(seconds), names, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000, *map(int, sys.argv[3:])))
