"""What a soak measures of a running daemon, from outside: its process, its metrics, its database; and lines through it.

Reads only. The database is opened read-only and closed again for each look, so that no snapshot keeps SQLite's WAL
from being taken over.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

_STATES: Final = {"01": "established", "06": "time_wait", "08": "close_wait", "0A": "listening"}
_OVER: Final = ("completed", "partial", "canceled", "failed")
_QUEUES: Final[Mapping[str, str]] = {
    "open": f"SELECT count(*) FROM orders WHERE state NOT IN {_OVER}",
    "unclear": "SELECT count(*) FROM orders WHERE state = 'unclear'",
    "claims": "SELECT (SELECT count(*) FROM orders WHERE claim_token IS NOT NULL)"
    " + (SELECT count(*) FROM attempts WHERE claim_token IS NOT NULL)"
    " + (SELECT count(*) FROM deliveries WHERE claim_token IS NOT NULL)",
    "planned": "SELECT count(*) FROM attempts WHERE state IN ('planned', 'placing')",
    "refills": "SELECT count(*) FROM refills WHERE state IN ('requested', 'pending', 'in_progress')",
    "cancels": "SELECT count(*) FROM cancels WHERE state = 'requested'",
    "unplaced": "SELECT count(*) FROM events WHERE position IS NULL",
}
_PENDING: Final = "SELECT endpoint, count(*) FROM deliveries WHERE state = 'pending' GROUP BY endpoint"
_TOTAL: Final = "SELECT max(number) FROM orders"
_LINE: Final = re.compile(r"^(\w+)(\{[^}]*\})? (\S+)$", re.MULTILINE)

Sample = dict[str, float]
"""One moment: measures by name."""


def of_process(pid: int, port: int) -> Sample:
    """Memory in KB, seconds of CPU, threads, and open files by kind; connections at `port` are the callers'."""
    found: Sample = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "RssAnon", "Threads"):
            found[{"VmRSS": "rss", "RssAnon": "anon", "Threads": "threads"}[name]] = float(value.split()[0])
    used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    found["cpu"] = (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")
    kinds_of = dict(_sockets(port))
    kinds: Counter[str] = Counter()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(entry.path)
            inode = target.removeprefix("socket:[").removesuffix("]")
            kinds["files" if not target.startswith("socket:[") else kinds_of.get(inode, "other sockets")] += 1
    for kind in ("files", "callers", "outbound", "close_wait", "listening", "other sockets"):
        found[kind] = float(kinds[kind])
    found["fds"] = float(kinds.total())
    return found


def _sockets(port: int) -> Iterator[tuple[str, str]]:
    """Inodes of TCP sockets and what they are."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
                fields = line.split()
                kind = _STATES.get(fields[3], "other sockets")
                if kind == "established":
                    kind = "callers" if int(fields[1].rpartition(":")[2], 16) == port else "outbound"
                yield fields[9], kind


def of_metrics(text: str, endpoints: Sequence[str]) -> Sample:
    """The oldest loop, the oldest event that one of these endpoints was not told, and how many series there are."""
    lines = [line for line in _LINE.findall(text) if not line[0].startswith("python_")]
    now, loops, waits = (
        time.time(),
        "aggregator_loop_last_run_timestamp_seconds",
        "aggregator_delivery_oldest_timestamp_seconds",
    )
    # The loops that come round once a minute would hide the others.
    slow = ("intake", "retention")
    ages = [now - float(value) for name, of, value in lines if name == loops and not any(one in of for one in slow)]
    waited = [now - float(at) for name, of, at in lines if name == waits and any(f'"{one}"' in of for one in endpoints)]
    return {"loop age": max(ages, default=0.0), "undelivered": max(waited, default=0.0), "series": float(len(lines))}


def of_database(path: Path, endpoints: Sequence[str]) -> Sample:
    """What waits in it, the orders taken so far, and the sizes of its files in KB."""
    found: Sample = {}
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as connection:
        for name, query in _QUEUES.items():
            found[name] = float(connection.execute(query).fetchone()[0])
        pending = dict(connection.execute(_PENDING))
        found["orders"] = float(connection.execute(_TOTAL).fetchone()[0] or 0)
    found |= {f"to {name}": float(pending.get(name, 0)) for name in endpoints}
    for name, suffix in (("database", ""), ("wal", "-wal")):
        with contextlib.suppress(OSError):
            found[name] = path.with_name(path.name + suffix).stat().st_size / 1024
    return found


def moment(began: float) -> Sample:
    return {"minute": (time.monotonic() - began) / 60}


def slope(samples: Sequence[Sample], of: str, over: str) -> float:
    """How much `of` grows with each unit of `over`, by least squares; 0 where nothing can be said."""
    pairs = [(sample[over], sample[of]) for sample in samples if of in sample and over in sample]
    if len(pairs) < 3 or len({x for x, _ in pairs}) < 2:
        return 0.0
    return statistics.linear_regression([x for x, _ in pairs], [y for _, y in pairs]).slope


def between(samples: Sequence[Sample], name: str, first: float, last: float) -> list[float]:
    """The values of the part of a run from `first` to `last`, both shares of it."""
    count = len(samples)
    return [sample[name] for sample in samples[int(first * count) : int(last * count) or None] if name in sample]
