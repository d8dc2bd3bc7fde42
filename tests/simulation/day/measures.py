"""One look at a simulated day: tasks, files, rows that wait, collections, objects, caches, and what ran since the last.

Every measure is a number under a name. The names say what it is: a *level* should come back to where it was, a *pace*
is counted anew each hour.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from prometheus_client import REGISTRY
from sqlalchemy import Connection, Table, func, select

from aggregator.storage.tables import metadata, orders
from tests.simulation.day.walk import Walk, is_own, module_globals

ENDS: Final = frozenset(
    {"completed", "partial", "canceled", "failed", "placed", "refused", "not_sent", "not_placed", "dropped", "no_offer"}
) | {"delivered", "received", "expired", "rejected", "asked"}
"""States of rows that are history; whatever else a state is called, somebody still has to do something about it."""
LATE: Final = timedelta(minutes=10)
"""Due for so long and still not done."""
_COUNTED: Final = ("Task", "Future", "socket", "Connection", "coroutine", "async_generator")


def waiting_rows(connection: Connection, now: datetime) -> dict[str, float]:
    """Rows that are somebody's work, from any table: by state, claimed, due, late, and without a position."""
    found: dict[str, float] = {}
    for table in metadata.sorted_tables:
        if "state" in table.c:
            rows = connection.execute(select(table.c.state, func.count()).group_by(table.c.state))
            found |= {f"rows {table.name} {state}": count for state, count in rows if state not in ENDS}
        if "claim_token" in table.c:
            found[f"claims {table.name}"] = _count(connection, table, table.c.claim_token.is_not(None))
        if "position" in table.c:
            found[f"rows {table.name} unplaced"] = _count(connection, table, table.c.position.is_(None))
        for column in table.c:
            if column.name.startswith("next_") and column.name.endswith("_at"):
                found[f"late {table.name}.{column.name}"] = _count(connection, table, column < now - LATE)
                # What is over is looked at again ever more seldom, for as long as it may drop: that grows with history.
                open_only = table.c.finished_at.is_(None) if table is orders else column.is_not(None)
                found[f"due {table.name}.{column.name}"] = _count(connection, table, column.is_not(None) & open_only)
    return found


def _count(connection: Connection, table: Table, where: Any) -> float:
    return float(connection.execute(select(func.count()).select_from(table).where(where)).scalar_one())


def held(roots: Mapping[str, Any]) -> dict[str, float]:
    """What every collection of the process holds."""
    sizes = Walk({**roots, **module_globals()}).sizes
    return {f"held {path}": float(size) for path, size in sizes.items()}


def objects(things: Iterable[object]) -> dict[str, float]:
    """Objects by type: the daemon's own, those of the loop, and errors that somebody keeps."""
    kinds = Counter(map(type, things))
    found: Counter[str] = Counter()
    for kind, count in kinds.items():
        if is_own(kind.__module__) or kind.__name__ in _COUNTED or issubclass(kind, BaseException):
            found[f"objects {kind.__module__}.{kind.__qualname__}"] += count
    return {name: float(count) for name, count in found.items()}


def tasks() -> dict[str, float]:
    """Tasks that are alive, by what they run, and timers that are to come."""
    names = (getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())
    found = {f"tasks {name}": float(count) for name, count in Counter(names).items()}
    # Timers that were cancelled stay in the loop's heap until they are half of it; only the others are somebody's.
    timers: Any = vars(asyncio.get_running_loop())["_scheduled"]
    return found | {"timers": float(sum(not timer.cancelled() for timer in timers))}


def files() -> dict[str, float]:
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            return {"open files": float(len(os.listdir(folder)))}
    return {}


def series() -> dict[str, float]:
    """How many sets of labels each metric has: labels that never end are a leak."""
    found = {}
    for metric in REGISTRY.collect():
        kept = {tuple(sorted((k, v) for k, v in one.labels.items() if k != "le")) for one in metric.samples}
        found[f"series {metric.name}"] = float(len(kept))
    return found
