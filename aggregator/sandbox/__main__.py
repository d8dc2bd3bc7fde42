"""`python -m aggregator.sandbox`: the sandbox as a program. Decides its arguments, what it prints and its exit code."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from .server import serve
from .world import default_accounts


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM, then 0; 1 if it cannot start, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m aggregator.sandbox", description="Fake providers on loopback.")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, required=True, help="0 takes a free port")
    parser.add_argument("--seed", type=int, default=0, help="decides every order's fate (default: %(default)s)")
    parser.add_argument("--speed", type=float, default=1.0, help="sandbox seconds per second (default: %(default)s)")
    parser.add_argument("--faults", type=Path, help="YAML or JSON file of fault rules")
    arguments = parser.parse_args(argv)
    try:
        asyncio.run(_run(arguments))
    except (OSError, ValueError, OverflowError) as exc:
        print(f"sandbox: {exc}", file=sys.stderr)
        return 1
    return 0


async def _run(arguments: argparse.Namespace) -> None:
    task = asyncio.ensure_future(
        serve(
            host=arguments.host,
            port=arguments.port,
            seed=arguments.seed,
            speed=arguments.speed,
            faults=arguments.faults,
            ready=lambda base: _announce(base, arguments.seed),
        )
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _announce(base: str, seed: int) -> None:
    lines = [f"sandbox {base}"]
    lines += [
        f"account {account.name} dialect={account.dialect} url={base}/{account.name}/api/v2 key={account.settings.key}"
        for account in default_accounts()
    ]
    print("\n".join([*lines, f"control {base}/control/health", f"seed {seed}"]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
