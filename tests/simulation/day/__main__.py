"""`python -m tests.simulation.day [SEED] [--hours 24] [--leak NAME]`: one day with its table; exit code 1 when it shows
something. The table has the measures that moved most."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack

from tests.simulation.day import verdict
from tests.simulation.day.day import Day
from tests.simulation.day.leaks import LEAKS
from tests.simulation.day.shelf import day_shelf

MOST_ROWS = 40


def main() -> int:
    parser = argparse.ArgumentParser(prog="day", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, default=1)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--leak", choices=sorted(leak.name for leak in LEAKS))
    arguments = parser.parse_args()
    began = time.process_time()
    with ExitStack() as stack:
        shelf, folder = stack.enter_context(day_shelf())
        for leak in LEAKS:
            if leak.name == arguments.leak:
                leak.plant(stack)
        day = Day(arguments.seed, shelf, folder, arguments.hours)
        day.run()
    if day.levels:
        _table("levels", verdict.levels(day.levels))
        _table("per hour", verdict.paces(day.paces))
    print(f"answers: {dict(sorted(day.callers.answers.items()))}")
    for violation in day.violations:
        print(f"BROKEN {violation}")
    used_s = time.process_time() - began
    measured = len(day.levels[-1]) if day.levels else 0
    print(
        f"seed {day.seed}: {len(day.callers.placed)} orders in {day.hours} h, {measured} measures, "
        f"{len(day.violations)} violations, {used_s:.1f} s of CPU"
    )
    return 1 if day.violations else 0


def _table(title: str, stretches: list[verdict.Stretch]) -> None:
    moved = sorted(stretches, key=lambda stretch: stretch.early - stretch.late)[:MOST_ROWS]
    print(f"{title:70} {'early':>8} {'late':>8} {'bound':>8}")
    for stretch in moved:
        print(f"  {stretch.name[:68]:68} {stretch.early:8g} {stretch.late:8g} {stretch.bound:8.0f}")


if __name__ == "__main__":
    raise SystemExit(main())
