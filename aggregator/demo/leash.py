"""Runs the program for the demo, and ends it when the demo has died, however it died.

The demo holds the other end of this process's standard input. A killed process closes what it held, on every system;
the end of the input is therefore the end of the demo, and the daemon stops in order, as on SIGTERM.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _end_with_the_demo(leash: int) -> None:
    while os.read(leash, 512):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """`aggregator` with our own arguments, on the leash."""
    # A copy that no library finds; the program itself reads nothing.
    leash = os.dup(sys.stdin.fileno())
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    threading.Thread(target=_end_with_the_demo, args=(leash,), name="leash", daemon=True).start()
    # By its door and not by import: the demo stands below the command line.
    runpy.run_module("aggregator", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
