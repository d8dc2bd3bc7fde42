"""Ways to print: JSON for programs, words and tables for people; rich on a terminal, plain text elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from rich.console import Console

_STYLES: Final = {
    **dict.fromkeys(("completed", "placed", "received", "up", "chosen"), "green"),
    **dict.fromkeys(("accepted", "placing", "pending", "processing", "in_progress", "waiting"), "cyan"),
    **dict.fromkeys(("partial", "canceled", "paused", "disabled", "refused", "expired", "rejected"), "yellow"),
    **dict.fromkeys(("failed", "down"), "red"),
    "unclear": "bold red",
}
"""Colours of words that stand alone in a cell."""
_TIMES: Final = frozenset({"at", "created", "synced", "requested", "finished", "until"})
"""Columns that a narrow terminal must not fold."""


def emit(data: Mapping[str, object], as_json: bool, words: str) -> None:
    """Print `data` as one JSON object, or else the words."""
    click.echo(json.dumps(data, ensure_ascii=False) if as_json else words)


def json_line(document: object) -> bytes:
    """JSON as the API writes it, in one line; halves of characters, which UTF-8 cannot hold, stay escapes."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")


def emit_answer(body: bytes, document: object) -> None:
    """Print an answer of the API as it came; pretty, and safe to look at, on a terminal."""
    if not sys.stdout.isatty():
        click.echo(body)
        return
    text = json.dumps(document, ensure_ascii=False, indent=2)
    # What could steer the terminal stands within JSON's strings only, where an escape means the same.
    click.echo("".join(char if char == "\n" or char.isprintable() else json.dumps(char)[1:-1] for char in text))


class Page:
    """Prints for a person: headings, facts, tables and lines. All text must be clean by now."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(highlight=False, markup=False, emoji=False)
        self._terminal = self._console.is_terminal

    def heading(self, text: str, state: str = "") -> None:
        """A line that begins something, with the state that it is in."""
        if not self._terminal:
            click.echo(f"{text}  {state}" if state else text)
            return
        from rich.text import Text

        self._console.print(Text.assemble((text, "bold"), "  ", (state, _STYLES.get(state, ""))), soft_wrap=True)

    def line(self, text: str = "", *, indent: int = 0, style: str = "", wrap: bool = True) -> None:
        """One paragraph; without `wrap` it is kept in one line, to be copied."""
        if not self._terminal:
            click.echo(" " * indent + text if text else "")
            return
        if not text:
            self._console.print()
            return
        from rich.padding import Padding
        from rich.text import Text

        if wrap:
            self._console.print(Padding(Text(text, style=style), (0, 0, 0, indent), expand=False))
        else:
            self._console.print(Text(" " * indent + text, style=style), soft_wrap=True)

    def facts(self, facts: Iterable[tuple[str, str]], *, indent: int = 2) -> None:
        """Names and values, one a line."""
        known = list(facts)
        width = max((len(name) for name, _ in known), default=0)
        for name, value in known:
            if not self._terminal:
                click.echo(f"{' ' * indent}{name:<{width}}  {value}")
                continue
            from rich.text import Text

            style = _STYLES.get(value, "")
            text = Text.assemble(" " * indent, (f"{name:<{width}}", "dim"), "  ", (value, style))
            self._console.print(text, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, indent: int = 0) -> None:
        """A table; a column whose name begins with `>` is set to the right."""
        if not self._terminal:
            for text in _aligned(columns, rows):
                click.echo(" " * indent + text)
            return
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in columns:
            name = column.removeprefix(">")
            right = column.startswith(">")
            table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name in _TIMES)
        for row in rows:
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
        self._console.print(Padding(table, (0, 0, 0, indent), expand=False))

    def more(self, cursor: object) -> None:
        """Say, beside the output, that a list goes on."""
        if cursor:
            click.echo(f"there is more: --cursor {cursor}", err=True)


def _aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Lines whose cells stand below each other, however wide their characters are."""
    from rich.cells import cell_len

    names = [column.removeprefix(">").upper() for column in columns]
    widths = [max(map(cell_len, cells)) for cells in zip(names, *rows, strict=True)]
    for row in (names, *rows):
        cells = []
        for column, cell, width in zip(columns, row, widths, strict=True):
            space = " " * (width - cell_len(cell))
            cells.append(space + cell if column.startswith(">") else cell + space)
        yield "  ".join(cells).rstrip()


@contextmanager
def waiting(*, shown: bool = True) -> Iterator[Callable[[str], None]]:
    """Takes what is being waited for, and shows it on a terminal until the block ends."""
    if not shown or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield status.update
