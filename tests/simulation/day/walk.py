"""What lives as long as the process: every collection that can be reached from given roots, with how much it holds.

It is found by walking, not by a list of names, so a collection that is added tomorrow is measured as well. Nothing is
changed, and no property is called.
"""

from __future__ import annotations

import collections
import functools
import sys
import types
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

OWN: Final = ("aggregator", "asyncio.locks", "asyncio.queues")
NOT_THE_DAEMON: Final = ("aggregator.sandbox", "aggregator.demo", "aggregator.cli")
_CONTAINERS: Final = (dict, list, set, frozenset, tuple, deque, collections.abc.Mapping)
_MOST_LOOKED_AT: Final = 2000
"""Of one collection's values: what a larger one holds are rows, not rooms."""


def is_within(module: str, roots: tuple[str, ...]) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in roots)


def is_own(module: object) -> bool:
    """Whether a module is the daemon's, or one whose objects hold who waits for it."""
    return isinstance(module, str) and is_within(module, OWN) and not is_within(module, NOT_THE_DAEMON)


def module_globals() -> dict[str, Any]:
    """What the daemon's modules keep by name."""
    return {
        f"{module.__name__}.{name}": value
        for module in list(sys.modules.values())
        if is_own(getattr(module, "__name__", None))
        for name, value in vars(module).items()
        if not name.startswith("__")
    }


class Walk:
    """`sizes` by path; items of one collection share a path, and their sizes are added up. `seen` are the ids of all
    containers and objects on the way."""

    def __init__(self, roots: Mapping[str, Any], *, own: Any = is_own) -> None:
        self.sizes: Counter[str] = Counter()
        self.seen: set[int] = set()
        self._own = own
        waiting: deque[tuple[str, Any]] = deque(roots.items())
        while waiting:
            path, thing = waiting.popleft()
            if id(thing) not in self.seen:
                waiting.extend(self._look(path, thing))

    def _look(self, path: str, thing: Any) -> Iterator[tuple[str, Any]]:
        """Measure a thing, and name what it holds."""
        if isinstance(thing, str | bytes | int | float | types.ModuleType):
            return
        self.seen.add(id(thing))
        if isinstance(thing, _CONTAINERS):
            if not isinstance(thing, tuple | frozenset):
                self.sizes[path] += len(thing)
            values = list(thing.values() if isinstance(thing, collections.abc.Mapping) else thing)
            for value in values[:_MOST_LOOKED_AT]:
                yield f"{path}[]", value
        elif callable(size := getattr(type(thing), "qsize", None)):
            self.sizes[path] += size(thing)
            yield from self._attributes(path, thing)
        elif hasattr(type(thing), "cache_info"):
            self.sizes[f"{path} cache"] += thing.cache_info().currsize
        elif isinstance(thing, functools.partial):
            yield f"{path}()", thing.func
            yield f"{path}()", thing.args
        elif isinstance(thing, types.MethodType):
            yield path, thing.__self__
        elif isinstance(thing, types.FunctionType):
            for cell in thing.__closure__ or ():
                try:
                    yield f"{path}<{thing.__name__}>", cell.cell_contents
                except ValueError:
                    continue
        elif isinstance(thing, type):
            if self._own(thing.__module__):
                yield from ((f"{path}.{name}", value) for name, value in vars(thing).items() if _holds(name, value))
        elif self._own(type(thing).__module__):
            yield from self._attributes(path, thing)

    @staticmethod
    def _attributes(path: str, thing: Any) -> Iterator[tuple[str, Any]]:
        for name, value in getattr(thing, "__dict__", {}).items():
            yield f"{path}.{name}", value
        for kind in type(thing).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(thing, name):
                    yield f"{path}.{name}", getattr(thing, name)


def _holds(name: str, value: Any) -> bool:
    """Whether a class keeps a collection of its own under a name."""
    return not name.startswith("__") and isinstance(value, dict | list | set | deque)
