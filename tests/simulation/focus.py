"""What a run is about where its seed is not to choose: a planted bug is looked for where it would show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Focus:
    """Whatever is left empty, the seed chooses."""

    services: tuple[str, ...] = ()
    orders: int | None = None
    quantity: int | None = None
    """Of each order; those of one price can be taken for each other."""
    drips: float | None = None
    """How likely an order is a drip-feed."""
    cancels: float | None = None
    """How likely the caller of an order cancels it soon."""
    chaos: tuple[str, ...] = ()
    """Names of what may go wrong, and only that."""
    crash_at: tuple[str, ...] = ()
    """How the steps begin at which the process dies."""
    faults: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    """The calls that meet these faults."""
    script: tuple[str, ...] = ()
    """The faults of the first purchases, one after another; "" for none."""
    fault_chance: float = 0.5
    refusals: tuple[str, ...] = ()
    """Error texts that these calls meet as well."""
    refusal_chance: float = 0.5
    providers: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every provider in the config."""
    accounts: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every account of the sandbox."""
    lags_s: tuple[float, ...] = ()
    """How late each account takes the money, purchase by purchase; the last one goes on."""
    flat: bool | None = None
    """Whether panels answer a batched status with the flat one of its first order."""
    trusted: bool | None = None
    """Whether every provider was seen to debit at once often enough."""
    stranger: bool | None = None
    """Whether somebody else's refund hides what a purchase took."""
    most_steps: int = 25_000
    """A run that takes more steps than this spins."""
    settle_s: float = 4 * 3600.0
    """Virtual time in which everything must come to rest once nothing is broken any more."""


SEED_CHOOSES: Final = Focus()
