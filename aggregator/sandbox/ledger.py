"""What the providers really accepted. Decides nothing: a test can hold it against what a client believes.

An entry is written in the same step that accepts, before any fault can lose the answer. Keys are never recorded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from decimal import Decimal

from .money import shown

REMEMBERED_CALLS = 10_000
"""Sizes of status calls kept per account and action; sums go on beyond."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request as far as the ledger cares. `withheld`: the answer will not reach the caller as it should."""

    account: str
    action: str
    params: Mapping[str, str]
    idempotency_key: str | None = None
    fault: str | None = None
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One accepted purchase, refill or cancel. `at` is the injected clock; `ordinal` counts the account's orders."""

    n: int
    at: float
    account: str
    action: str
    ordinal: int
    order: str
    orders: tuple[str, ...]
    refill: str | None
    service: str
    link: str
    quantity: int
    params: Mapping[str, str]
    charge: str
    idempotency_key: str | None
    fault: str | None
    withheld: bool


class Ledger:
    """Every accepted change of all accounts, in the order it happened."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def record(
        self,
        call: Call,
        *,
        at: float,
        ordinal: int,
        orders: tuple[str, ...],
        service: str,
        link: str,
        quantity: int,
        charge: Decimal,
        refill: str | None = None,
    ) -> None:
        """Write down an acceptance; `orders` holds several ids for rented numbers, and runs stay with their parent."""
        self._entries.append(
            Entry(
                len(self._entries) + 1,
                at,
                call.account,
                call.action,
                ordinal,
                orders[0],
                orders,
                refill,
                service,
                link,
                quantity,
                dict(call.params),
                shown(charge),
                call.idempotency_key,
                call.fault,
                call.withheld,
            )
        )

    def entries(self, account: str | None = None) -> list[Entry]:
        """All entries, oldest first, or those of one account."""
        return [entry for entry in self._entries if account in (None, entry.account)]

    def __len__(self) -> int:
        return len(self._entries)

    def shown(self, account: str | None = None) -> list[dict[str, object]]:
        """The entries as JSON objects."""
        return [asdict(entry) for entry in self.entries(account)]


@dataclass(slots=True)
class _Count:
    calls: int = 0
    ids: int = 0
    id_counts: deque[int] = field(default_factory=lambda: deque(maxlen=REMEMBERED_CALLS))


class Calls:
    """How often each account was asked for each action, with how many ids, and how many requests were open at once."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], _Count] = {}
        self._open: dict[str, int] = {}
        self._most: dict[str, int] = {}

    @contextmanager
    def flight(self, account: str, action: str, ids: int) -> Iterator[None]:
        """Count a call on arrival, refused and faulted ones too, and hold it open until it is answered."""
        count = self._counts.setdefault((account, action), _Count())
        count.calls += 1
        if ids:
            count.ids += ids
            count.id_counts.append(ids)
        self._open[account] = self._open.get(account, 0) + 1
        self._most[account] = max(self._most.get(account, 0), self._open[account])
        try:
            yield
        finally:
            self._open[account] -= 1

    def reset(self) -> None:
        """Forget the counts; requests that are open stay counted as open."""
        self._counts.clear()
        self._most = {name: number for name, number in self._open.items() if number}

    def shown(self) -> dict[str, object]:
        """Counts as JSON: {account: {"open": 0, "most_open": 2, "actions": {action: {calls, ids, id_counts}}}}."""
        names = sorted({name for name, _ in self._counts} | set(self._open))
        return {
            name: {
                "open": self._open.get(name, 0),
                "most_open": self._most.get(name, 0),
                "actions": {
                    action: {"calls": count.calls, "ids": count.ids, "id_counts": list(count.id_counts)}
                    for (owner, action), count in sorted(self._counts.items())
                    if owner == name
                },
            }
            for name in names
        }
