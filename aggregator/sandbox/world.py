"""The whole sandbox in one object: accounts, time, ledger, counts and faults. Decides which accounts exist by default.

It knows neither HTTP nor any dialect: `dialects.answer` serves calls upon it, the server puts that on a socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from .account import Account, Settings
from .catalogue_hstock import HSTOCK, HSTOCK_PROJECTS
from .catalogue_smm import SMMCHEAP, SMMPLUS
from .faults import FaultBook, FaultRule
from .ledger import Call, Calls, Ledger
from .links import LinkCounts
from .numbers import Number
from .orders import Order
from .timeline import Timeline


@dataclass(frozen=True, slots=True)
class Replay:
    """A stored answer to an Idempotency-Key, and the request it answered."""

    params: Mapping[str, str]
    body: object


def default_accounts() -> list[Account]:
    """The accounts that demos and tests name: smmplus, smmcheap and hstock."""
    return [
        Account(
            "smmplus",
            "panel_v2",
            Settings("sandbox-smmplus-key", error_words="codes"),
            "1000.00",
            SMMPLUS,
            first_id=23501,
        ),
        Account(
            "smmcheap",
            "panel_v2",
            Settings("sandbox-smmcheap-key", pending_start_count=None),
            "200.00",
            SMMCHEAP,
            first_id=700_001,
            id_gap=9,
        ),
        Account(
            "hstock",
            "hstockplus",
            Settings("sandbox-hstock-key", pending_start_count=None),
            "500.00",
            HSTOCK,
            projects=HSTOCK_PROJECTS,
            first_id=5001,
        ),
    ]


class World:
    """A set of fake provider accounts that share one clock, one seed and one ledger.

    `clock` gives seconds (usually `time.time`); sandbox time runs `speed` times as fast.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        speed: float = 1.0,
        clock: Callable[[], float] = time.time,
        accounts: Iterable[Account] | None = None,
        faults: Iterable[FaultRule] = (),
    ) -> None:
        self.seed = seed
        self.timeline = Timeline(clock, speed)
        self.links = LinkCounts(seed)
        self.ledger = Ledger()
        self.calls = Calls()
        self.faults = FaultBook(seed, faults)
        self.accounts = {account.name: account for account in (default_accounts() if accounts is None else accounts)}
        self._clock = clock
        self.replays: dict[tuple[str, str, str], Replay] = {}
        """Answers by (account, action, Idempotency-Key), for accounts that honour such keys."""
        for account in self.accounts.values():
            account.seed = seed

    def now(self) -> float:
        """Sandbox seconds since the start."""
        return self.timeline.now()

    def accepted(self, call: Call, order: Order, charge: Decimal, refill: str | None = None) -> None:
        """Record an accepted order, refill or cancel."""
        self.ledger.record(
            call,
            at=self._clock(),
            ordinal=order.ordinal,
            orders=(order.id,),
            service=order.service.id,
            link=order.link,
            quantity=order.quantity,
            charge=charge,
            refill=refill,
        )

    def rented(self, call: Call, numbers: list[Number], charge: Decimal) -> None:
        """Record rented numbers as one acceptance."""
        first = numbers[0]
        self.ledger.record(
            call,
            at=self._clock(),
            ordinal=first.ordinal,
            orders=tuple(number.id for number in numbers),
            service=first.project.project_id,
            link="",
            quantity=len(numbers),
            charge=charge,
        )
