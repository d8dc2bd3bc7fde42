"""`aggregator check`: the config file, and whether what it names answers. Asks no daemon, and buys nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from aggregator.cli.failures import CannotDo
from aggregator.cli.options import config_option, json_option
from aggregator.cli.output import Page, emit, waiting
from aggregator.cli.settings import read_settings
from aggregator.cli.words import NOTHING, clean, cut, money, shown

if TYPE_CHECKING:
    from aggregator.checkup import Findings, OfferFound, ProviderFound
    from aggregator.config import Settings

LONGEST_REASON: Final = 60


@click.command()
@config_option
@json_option
@click.option("--offline", is_flag=True, help="Read the file alone; ask nobody.")
def check(config_path: Path | None, as_json: bool, offline: bool) -> None:
    """Check the config file, then ask each provider and each webhook endpoint that it names.

    Providers are asked for balance and catalogue, endpoints get a signed test event; nothing is bought. Ends with
    exit code 1 when something does not work.
    """
    settings = read_settings(config_path)
    found = None if offline else _look(settings, quiet=as_json)
    if as_json:
        emit(_document(settings, found), True, "")
    else:
        _show(Page(), settings, found)
    if found is not None and found.problems:
        count = len(found.problems)
        raise CannotDo(
            "\n  ".join([f"{count} thing{'s do' if count > 1 else ' does'} not work:", *map(clean, found.problems)])
        )


def _look(settings: Settings, *, quiet: bool) -> Findings:
    from aggregator import checkup, log

    # What went wrong is told at the end, once.
    redactor = log.configure(secrets=settings.secrets(), level="CRITICAL")
    asked = [f"provider {name}" for name, one in settings.providers.items() if one.enabled]
    asked += [f"webhook {hook.name}" for hook in settings.webhooks if hook.enabled]
    with _progress(asked, shown=not quiet) as told:
        return asyncio.run(checkup.look(settings, redactor, told))


@contextmanager
def _progress(asked: list[str], *, shown: bool) -> Iterator[Callable[[str], None]]:
    """Who has not answered yet, on a terminal."""
    left = list(asked)
    with waiting(shown=shown and bool(asked)) as say:

        def told(who: str) -> None:
            if who in left:
                left.remove(who)
            say(f"waiting for {', '.join(left[:3])}{', …' if len(left) > 3 else ''}")

        told("")
        yield told


def _document(settings: Settings, found: Findings | None) -> dict[str, object]:
    document: dict[str, object] = {
        "database": str(settings.database),
        "listen": [str(address) for address in settings.listen],
    }
    if found is None:
        return document | {
            "providers": {name: {"dialect": one.dialect} for name, one in settings.providers.items()},
            "services": {
                name: {
                    "kind": service.kind,
                    "offers": [{"offer": f"{offer.provider}/{offer.target}"} for offer in service.offers],
                }
                for name, service in settings.services.items()
            },
            "webhooks": {hook.name: {"enabled": hook.enabled} for hook in settings.webhooks},
        }
    return document | {
        "database_state": found.database,
        "providers": {one.name: one.as_json() for one in found.providers},
        "services": {one.name: one.as_json() for one in found.services},
        "webhooks": {one.name: one.as_json() for one in found.endpoints},
        "problems": list(found.problems),
    }


def _show(page: Page, settings: Settings, found: Findings | None) -> None:
    doors = ", ".join(map(str, settings.listen)) or "none: without keys no TCP port is opened; add keys, or unix:/path"
    state = f" {clean(found.database)}" if found is not None else ""
    page.facts([("config", "fine"), ("database", f"{settings.database}{state}"), ("doors", doors)], indent=0)
    if found is None:
        rows = [
            (name, service.kind, ", ".join(f"{offer.provider}/{offer.target}" for offer in service.offers))
            for name, service in settings.services.items()
        ]
        _table(page, ("service", "kind", "offers"), rows)
        return
    columns = ("provider", "dialect", "works", ">balance", ">services", ">took", "can")
    _table(page, columns, [_provider(one) for one in found.providers])
    _table(
        page,
        ("service", "kind", "offer", "works", ">price", ">per", ">min", ">max", ">stock"),
        [
            (one.name if not place else "", one.kind if not place else "", *_offer(offer, first=not place))
            for one in found.services
            for place, offer in enumerate(one.offers)
        ],
    )
    _table(
        page,
        ("webhook", "url", "works", ">took"),
        [
            (one.name, clean(one.url), _works(one.enabled, one.trouble), _took(one.seconds if one.enabled else None))
            for one in found.endpoints
        ],
    )


def _table(page: Page, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        page.line()
        page.table(columns, rows)


def _works(enabled: bool, trouble: str | None) -> str:
    """The trouble itself is told below the tables, where a line may be long."""
    if not enabled:
        return "disabled"
    return "yes" if trouble is None else "no"


def _took(seconds: float | None) -> str:
    return NOTHING if seconds is None else f"{seconds:.1f} s"


def _provider(one: ProviderFound) -> tuple[str, ...]:
    return (
        one.name,
        one.dialect,
        _works(one.enabled, one.trouble),
        money(one.balance.as_json() if one.balance is not None else None),
        shown(one.services),
        _took(one.seconds if one.enabled else None),
        ", ".join(one.can) or NOTHING,
    )


def _offer(one: OfferFound, *, first: bool) -> tuple[str, ...]:
    works = "yes" if one.reason is None else cut(f"no: {clean(one.reason)}", LONGEST_REASON)
    return (
        clean(f"{one.provider}/{one.target}"),
        "yes, first" if first and one.reason is None else works,
        money(one.price.as_json() if one.price is not None else None),
        shown(one.per),
        shown(one.minimum),
        shown(one.maximum),
        shown(one.stock),
    )
