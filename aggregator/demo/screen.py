"""What the demo prints: a live table on a terminal, plain lines elsewhere. Shows what it is given, decides nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

_COLOURS: Final = {
    "completed": "green",
    "partial": "yellow",
    "canceled": "yellow",
    "failed": "red",
    "unclear": "red bold",
    "in_progress": "cyan",
}
EVENTS_SHOWN: Final = 10


class Screen:
    """The demo's output. `live` None: there is no terminal, and every line is printed once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._orders: Sequence[tuple[Mapping[str, Any], str]] = ()
        self._events: deque[str] = deque(maxlen=EVENTS_SHOWN)

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def start(self) -> None:
        """Begin the live table where there is a terminal."""
        if self._console.is_terminal:
            self._live = Live(self._picture(), console=self._console, refresh_per_second=8, transient=True)
            self._live.start()

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def event(self, line: str) -> None:
        if self._live is None:
            self.say(f"  webhook  {line}")
        else:
            self._events.append(line)
            self._live.update(self._picture())

    def orders(self, rows: Sequence[tuple[Mapping[str, Any], str]]) -> None:
        """The orders as the API shows them, each with what it is for."""
        self._orders = rows
        if self._live is not None:
            self._live.update(self._picture())

    def final_table(self) -> None:
        self._console.print(self._table())

    def _picture(self) -> Group:
        heard = Text("\n".join(self._events) or "…", style="dim")
        return Group(self._table(), Text("webhooks, signatures verified:", style="bold"), heard)

    def _table(self) -> Table:
        table = Table(title="orders", title_justify="left")
        for name in ("#", "service", "state", "provider", "charge", "left", "shows"):
            table.add_column(name, overflow="fold")
        for order, shows in self._orders:
            state = str(order["state"])
            charge = order["charge"]
            table.add_row(
                str(order["number"]),
                str(order["service"]),
                Text(state, style=_COLOURS.get(state, "")),
                str(order["provider"] or "-"),
                f"{charge['amount']} {charge['currency']}" if charge else "-",
                "-" if order["remains"] is None else str(order["remains"]),
                shows,
            )
        return table
