"""`python -m tests.simulation SEED`: replay one seed and print what happened; exit code 1 when it breaks a promise.

`FIRST:LAST` runs many and prints a line for each.
"""

from __future__ import annotations

import argparse
from collections import Counter

from tests.simulation.outcome import Outcome
from tests.simulation.seeds import simulator

_NOT_SHOWN = frozenset({"event", "log_level", "exception"})
_TOLD = frozenset(
    {
        "claim_lost",
        "ledger_difference",
        "plans_taken_back",
        "provider_down",
        "purchase_interrupted",
        "purchase_proved_bought",
        "purchase_proved_not_bought",
        "purchase_recovered",
        "purchase_repeated",
        "purchase_result_came_too_late",
        "storage_unavailable",
    }
)
"""Rare things of which a range of seeds should see some."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("seed", help="one seed, or FIRST:LAST")
    arguments = parser.parse_args()
    first, _, last = arguments.seed.partition(":")
    with simulator() as world:
        if not last:
            outcome = world.run(int(first))
            _print_story(outcome)
            return _verdict(outcome)
        seen: Counter[str] = Counter()
        broken = 0
        for seed in range(int(first), int(last)):
            outcome = world.run(seed)
            broken += _verdict(outcome)
            seen.update(outcome.counts())
            seen.update(str(entry["event"]) for entry in outcome.logged if entry["event"] in _TOLD)
    print(f"seeds {int(last) - int(first)}, broken {broken}")
    print(*(f"  {name} {count}" for name, count in sorted(seen.items())), sep="\n")
    return min(broken, 1)


def _verdict(outcome: Outcome) -> int:
    print(outcome.line(), flush=True)
    for violation in outcome.violations:
        print(f"  BROKEN {violation}")
    return 1 if outcome.violations else 0


def _print_story(outcome: Outcome) -> None:
    print("what happened, in virtual seconds:")
    print(*outcome.story, sep="\n")
    print("what was logged:")
    for entry in outcome.logged:
        said = " ".join(f"{key}={value}" for key, value in entry.items() if key not in _NOT_SHOWN)
        print(f"  {entry['log_level']:8}{entry['event']} {said}")
        if "exception" in entry:
            print(entry["exception"])


if __name__ == "__main__":
    raise SystemExit(main())
