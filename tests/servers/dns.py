"""A DNS server of the tests' own: it says what they want about a name, and another thing when asked again."""

import contextlib
import ipaddress
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

A, AAAA = 1, 28
NO_SUCH_NAME = 3
PORT = 53  # the only one that the system's resolver asks

Answers = Sequence[Sequence[str]]
"""The addresses that a name has at its first look-up, at its second and so on; the last stays."""


@dataclass
class Dns:
    """One such server: its table, and the names that were asked for. A name without answers is met with silence, for as
    long as the server lasts; `waiting` are such questions and who asked them."""

    table: Mapping[str, Answers]
    asked: list[str] = field(default_factory=list)
    waiting: list[tuple[bytes, object]] = field(default_factory=list)
    _times: Counter[tuple[str, int]] = field(default_factory=Counter)

    def answer_by(self, table: Mapping[str, Answers]) -> None:
        """Begin anew, with another table."""
        self.table = table
        self._times.clear()

    def reply(self, query: bytes) -> bytes | None:
        """What is said to `query`, a whole datagram of one question."""
        name, question = _question(query)
        kind = struct.unpack(">H", question[-4:-2])[0]
        self.asked.append(name)
        answers = self.table.get(name)
        if answers is None:
            return _no_such_name(query)
        if not answers:
            return None
        time = self._times[name, kind]
        self._times[name, kind] += 1
        addresses = [ipaddress.ip_address(each) for each in answers[min(time, len(answers) - 1)]]
        packed = [each.packed for each in addresses if each.version == (4 if kind == A else 6)]
        records = [struct.pack(">3HIH", 0xC00C, kind, 1, 0, len(each)) + each for each in packed]
        return query[:2] + struct.pack(">5H", 0x8180, 1, len(records), 0, 0) + question + b"".join(records)


def _no_such_name(query: bytes) -> bytes:
    return query[:2] + struct.pack(">5H", 0x8180 | NO_SUCH_NAME, 1, 0, 0, 0) + _question(query)[1]


def _question(query: bytes) -> tuple[str, bytes]:
    """The name that is asked for, in lower case, and the question as it came."""
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode().lower())
        at += 1 + length
    return ".".join(labels), query[12 : at + 5]


@contextlib.contextmanager
def dns(address: str, table: Mapping[str, Answers]) -> Iterator[Dns]:
    """A server at `address` until the block ends."""
    running = Dns(table)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind((address, PORT))

        def serve() -> None:
            while True:
                query, asker = listening.recvfrom(4096)
                if not query:
                    break
                if reply := running.reply(query):
                    listening.sendto(reply, asker)
                else:
                    running.waiting.append((query, asker))
            for query, asker in running.waiting:
                listening.sendto(_no_such_name(query), asker)

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield running
        finally:
            listening.sendto(b"", listening.getsockname())
            serving.join()
