"""What one seed came to: counts, the story, and every broken promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from structlog.typing import EventDict

_BROKEN_LOGS: Final = (
    "stage_failed",
    "purchase_result_not_stored",
    "poll_not_recorded",
    "report_not_stored",
    "routing_failed",
)


def unexpected(logged: Sequence[EventDict]) -> list[str]:
    """Errors that nobody foresaw; they are bugs even where they did no harm."""
    found = []
    for entry in logged:
        if entry["event"] in _BROKEN_LOGS and not _foreseen(entry):
            said = {key: value for key, value in entry.items() if key not in ("event", "log_level")}
            found.append(f"unexpected error: {entry['event']} {said}")
    return found


def _foreseen(entry: EventDict) -> bool:
    reason = str(entry.get("reason", ""))
    return entry["event"] == "routing_failed" and reason.startswith(("ClaimLost", "StorageUnavailable"))


@dataclass(slots=True)
class Outcome:
    """What one seed came to."""

    seed: int
    violations: list[str] = field(default_factory=list)
    orders: int = 0
    purchases: int = 0
    crashes: int = 0
    unclear: int = 0
    """Orders left on the desk at the end."""
    once_unclear: int = 0
    """Purchases of which nobody knew the end for a while."""
    refills: int = 0
    steps: int = 0
    virtual_s: float = 0.0
    story: list[str] = field(default_factory=list)
    logged: list[EventDict] = field(default_factory=list)
    trace: int = 0
    """A number that two runs of one seed share when they took the same steps."""

    def counts(self) -> dict[str, int]:
        """What can be added up over many seeds."""
        return {
            "orders": self.orders,
            "purchases": self.purchases,
            "crashes": self.crashes,
            "unclear": self.once_unclear,
            "refills": self.refills,
            "steps": self.steps,
        }

    def line(self) -> str:
        return (
            f"seed {self.seed}: orders {self.orders}, purchases {self.purchases}, crashes {self.crashes}, "
            f"unclear {self.once_unclear} ({self.unclear} at the end), refills {self.refills}, "
            f"violations {len(self.violations)}, steps {self.steps}, {self.virtual_s / 3600:.1f} h"
        )


def hash_step(before: int, what: str, at: float) -> int:
    """A running number that differs as soon as two runs do; `hash` is salted, so it is not used."""
    for byte in f"{what}@{at:.6f}".encode():
        before = (before * 1_000_003 ^ byte) & 0xFFFF_FFFF_FFFF
    return before
