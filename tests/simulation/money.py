"""How the accounts' money moves beyond what the sandbox does: providers that debit late, and strangers at an account.

The account of a stranger is not exclusive, and one that debits late was never seen to debit at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal

from aggregator.sandbox.world import World


class Purses:
    """Every account's money. `lags_s` and `strangers` by account; an account that is in neither debits at once."""

    def __init__(self, world: World, lags_s: Mapping[str, Sequence[float]], strangers: frozenset[str]) -> None:
        self._world = world
        self._lags_s = lags_s
        self._strangers = strangers
        self._seen = 0
        self._sold = {name: 0 for name in world.accounts}

    def late(self, name: str) -> bool:
        """Whether an account takes its money later than it sells."""
        return name in self._lags_s

    def look(self) -> None:
        """After a call: take what was sold by it out of the books, or hide it."""
        entries = self._world.ledger.entries()
        for entry in entries[self._seen :]:
            if entry.action in ("add", "add_sms"):
                self._sell(entry.account, Decimal(entry.charge))
        self._seen = len(entries)

    def _sell(self, name: str, charge: Decimal) -> None:
        if name in self._strangers:
            self._move(name, charge)
        lags_s = self._lags_s.get(name)
        if lags_s:
            lag_s = lags_s[min(self._sold[name], len(lags_s) - 1)]
            self._sold[name] += 1
            if lag_s > 0:
                self._move(name, charge)
                asyncio.get_running_loop().call_later(lag_s, self._move, name, -charge)

    def _move(self, name: str, by: Decimal) -> None:
        account, now = self._world.accounts[name], self._world.now()
        account.set_balance(account.balance_at(now) + by, now)
