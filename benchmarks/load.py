"""Clients that ask as fast as they are answered: what the benchmarks put in front of a server.

Plain sockets and requests made beforehand, in a process of their own, so that the asking is never what is measured.
Knows nothing of orders; whoever calls says what the requests are.
"""

from __future__ import annotations

import resource
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

_HEAD_ENDS: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
_PATIENCE_S: Final = 60.0


@dataclass(slots=True)
class Load:
    """What to ask, and for how long: `make` builds the n-th request, as bytes."""

    port: int
    make: Callable[[int], bytes]
    clients: int
    seconds: float
    first: int = 0
    """The number of the first request; numbers given once are not given again."""


@dataclass(slots=True)
class Outcome:
    """What came of a load. Times are in seconds."""

    answers: int
    seconds: float
    p50_s: float
    p99_s: float
    longest_s: float
    statuses: dict[int, int]
    asked: int
    client_cpu_s: float
    sample: bytes = field(default=b"", repr=False)

    @property
    def per_second(self) -> float:
        return self.answers / self.seconds


class _Client:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.sent_at = 0.0
        self._whole = 0

    def ask(self, request: bytes) -> None:
        self.received.clear()
        self._whole = 0
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def answered(self) -> bool:
        """Take what has come; whether the answer is whole."""
        part = self.socket.recv(1 << 20, socket.MSG_DONTWAIT)
        if not part:
            raise ConnectionError(f"the server hung up: {bytes(self.received[:200])!r}")
        self.received += part
        if not self._whole:
            end = self.received.find(_HEAD_ENDS)
            if end < 0:
                return False
            head = bytes(self.received[:end]).lower()
            length = head.partition(_LENGTH)[2].partition(b"\r\n")[0]
            self._whole = end + len(_HEAD_ENDS) + int(length)
        return len(self.received) >= self._whole

    @property
    def status(self) -> int:
        return int(self.received[9:12])


def run(load: Load) -> Outcome:
    """Ask with all clients at once until the time is over, and wait for the last answers."""
    clients = [_Client(load.port) for _ in range(load.clients)]
    waiting = selectors.DefaultSelector()
    for client in clients:
        waiting.register(client.socket, selectors.EVENT_READ, client)
    took: list[float] = []
    statuses: Counter[int] = Counter()
    sample = b""
    number = load.first
    cpu = _cpu_s()
    began = time.perf_counter()
    until = began + load.seconds
    busy = 0
    for client in clients:
        client.ask(load.make(number))
        number, busy = number + 1, busy + 1
    while busy:
        ready = waiting.select(_PATIENCE_S)
        if not ready:
            raise TimeoutError("no answer came")
        for key, _ in ready:
            client = key.data
            if not client.answered():
                continue
            now = time.perf_counter()
            took.append(now - client.sent_at)
            statuses[client.status] += 1
            if now < until:
                client.ask(load.make(number))
                number += 1
            else:
                sample = bytes(client.received)
                busy -= 1
    seconds = time.perf_counter() - began
    for client in clients:
        client.socket.close()
    took.sort()
    return Outcome(
        answers=len(took),
        seconds=seconds,
        p50_s=took[len(took) // 2],
        p99_s=took[min(len(took) - 1, len(took) * 99 // 100)],
        longest_s=took[-1],
        statuses=dict(statuses),
        asked=number - load.first,
        client_cpu_s=_cpu_s() - cpu,
        sample=sample,
    )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
