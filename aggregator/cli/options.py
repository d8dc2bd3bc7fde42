"""Options and arguments that commands share."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

import click

from aggregator.cli.failures import Refused
from aggregator.cli.output import emit_answer
from aggregator.cli.target import Asked, Target, find

if TYPE_CHECKING:
    from aggregator.cli.client import Client

P = ParamSpec("P")
T = TypeVar("T")

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="The config file; else $AGGREGATOR_CONFIG, ./config.yaml, /etc/aggregator/config.yaml.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
limit_option = click.option("--limit", type=click.IntRange(1, 500), help="How many at most (50).")
cursor_option = click.option("--cursor", help="Go on where an earlier list ended.")

_ORDER: Final = re.compile(r"[0-9]{1,18}|ord_[0-9a-f]{32}")
_DAEMON: Final = (
    click.option("--url", help="The daemon: http://host:port or unix:/path; else $AGGREGATOR_URL, else the config's."),
    click.option("--key", help="The API key; else $AGGREGATOR_KEY, else the config's. Others may see it: --key-file."),
    click.option("--key-file", type=click.Path(path_type=Path), help="A file that holds the API key."),
    config_option,
    click.option("--json", "as_json", is_flag=True, help="Print the API's JSON instead of a table."),
)


def order_reference(value: str) -> str:
    """An order's id or number. It becomes part of a path, so whatever could mean another path is refused here."""
    if not _ORDER.fullmatch(value):
        raise click.BadParameter(f"must be a number such as 1001, or an id such as ord_0197…, got {value!r}")
    return value


def asks_daemon(command: Callable[Concatenate[Asked, P], None]) -> Callable[P, None]:
    """Give a command the options that say where the daemon is, as one `Asked`."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> None:
        asked = Asked(
            url=options.pop("url"),
            key=options.pop("key"),
            key_file=options.pop("key_file"),
            config=options.pop("config_path"),
            as_json=options.pop("as_json"),
        )
        try:
            command(asked, *args, **options)
        except Refused as refused:
            if asked.as_json:
                emit_answer(refused.body, refused.document)
            raise

    # click lists options in the reverse order of their application.
    for option in reversed(_DAEMON):
        wrapped = option(wrapped)
    return wrapped


def with_daemon(asked: Asked, work: Callable[[Client, Target], Awaitable[T]]) -> T:
    """Do the work with a client of the daemon that was asked for."""
    from aggregator.cli.client import Client

    target = find(asked)

    async def within() -> T:
        async with Client(target) as client:
            return await work(client, target)

    return asyncio.run(within())
