"""`aggregator services suggest`: offers that mean the same as ours, or as each other, for a person to accept.

Catalogues come from the running daemon, page by page; what is configured comes from the config file, into which nothing
is ever written. Comparing thousands of names is done here and not in the daemon, which has orders to look after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import click

from aggregator.cli.failures import CannotDo, Refused
from aggregator.cli.names import provider_name, service_name
from aggregator.cli.options import asks_daemon, with_daemon
from aggregator.cli.output import waiting
from aggregator.cli.settings import Offered, read_offered
from aggregator.cli.target import Asked, Target
from aggregator.cli.words import clean

if TYPE_CHECKING:
    from aggregator.cli.client import Client
    from aggregator.config import OfferSettings, ServiceSettings
    from aggregator.domain.catalogue import CatalogueRow
    from aggregator.domain.money import Money
    from aggregator.suggestions import OfferKey, Proposal, Shelf, Shown

PAGE: Final = 500
PATIENCE: Final = 60
"""Times that one page is asked for again by a daemon that has too much to do, or a key that may ask seldom."""
GOOD: Final = 80
"""As in `suggestions`, which takes long to import."""
PER_SERVICE: Final = 5
GROUPS: Final = 20
IN_GROUP: Final = 10
"""Offers of a group that are shown: the cheapest."""

Rows = Mapping[str, Sequence[tuple["CatalogueRow", str | None]]]
"""By provider: the rows of its catalogue, each with why it is not to be believed, or None."""
Told = Callable[[str], object]
"""Is told what is being waited for."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is proposed for one service: `ours` are its offers that were compared, `left_out` counts the not shown."""

    name: str
    service: ServiceSettings
    ours: Sequence[Shown]
    proposals: Sequence[Proposal]
    left_out: int = 0
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Suggestions:
    """All that is told. `notes` say what could not be looked at."""

    offered: Offered
    least: int
    services: Sequence[Found] = ()
    groups: Sequence[Sequence[Proposal]] = ()
    left_out: int = 0
    notes: Sequence[str] = ()
    compared: int = 0


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for."""

    services: tuple[str, ...]
    providers: tuple[str, ...]
    least: int
    limit: int
    new: bool


@click.command()
@click.option(
    "--service",
    "services",
    type=service_name,
    multiple=True,
    metavar="NAME",
    help="For this service alone (repeatable).",
)
@click.option(
    "--provider",
    "providers",
    type=provider_name,
    multiple=True,
    metavar="NAME",
    help="Offers of this provider (repeatable).",
)
@click.option("--new", is_flag=True, help="Propose new services: offers of several providers that no service has.")
@click.option(
    "--min-score",
    "least",
    type=click.IntRange(0, 100),
    default=GOOD,
    show_default=True,
    help="How alike the meaning must be, 0 to 100.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 500),
    help=f"How many offers per service ({PER_SERVICE}), or new services ({GROUPS}), at most.",
)
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the lines for `services:` of the config alone.")
@asks_daemon
def suggest(
    asked: Asked,
    /,
    services: tuple[str, ...],
    providers: tuple[str, ...],
    new: bool,
    least: int,
    limit: int | None,
    as_yaml: bool,
) -> None:
    """Propose offers of the providers' catalogues that mean the same as those that a service has.

    What differs is said with each. Nothing is changed: put the lines of --yaml that you want into the config.
    """
    from aggregator.cli.suggest_view import print_json, print_table, print_yaml

    if as_yaml and asked.as_json:
        raise click.UsageError(
            "--yaml and --json are two ways to print; give one of them (the JSON has the lines, too)"
        )
    if new and services:
        raise click.UsageError("--new is about what no service has; leave --service out")
    offered = read_offered(asked.config)
    wish = Wish(services, providers, least, limit or (GROUPS if new else PER_SERVICE), new)
    _check(offered, wish)
    with waiting() as told:
        read = with_daemon(asked, lambda client, target: _catalogues(client, target, offered, wish, told))
        told("comparing")
        found = _suggestions(offered, wish, *read)
    if asked.as_json:
        print_json(found)
    elif as_yaml:
        print_yaml(found)
    else:
        print_table(found, new=new)


def _check(offered: Offered, wish: Wish) -> None:
    """Whether the config has what was named."""
    from aggregator.config.problems import did_you_mean

    for option, names, known in (
        ("--service", wish.services, offered.settings.services),
        ("--provider", wish.providers, offered.settings.providers),
    ):
        for name in names:
            if name not in known:
                what = option.removeprefix("--")
                raise click.UsageError(
                    f"{option}: there is no {what} {name!r} in {offered.path}{did_you_mean(name, known)}"
                )
    if not wish.new and not offered.settings.services:
        raise CannotDo(f"{offered.path} has no services to propose offers for; --new proposes services")


# --- catalogues ----------------------------------------------------------------------------------------------------


async def _catalogues(
    client: Client, target: Target, offered: Offered, wish: Wish, told: Told
) -> tuple[Rows, Mapping[str, bool], list[str]]:
    """The catalogues of the config's providers, who of them takes refills, and what could not be read.

    CannotDo when there is nothing to compare.
    """
    answer = await client.get("/v1/providers")
    running = {one["name"]: one for one in answer.document["providers"] if one.get("configured")}
    kinds = {offered.settings.services[name].kind for name in wish.services}
    kind = next(iter(kinds)) if len(kinds) == 1 else None
    rows: dict[str, list[tuple[CatalogueRow, str | None]]] = {}
    refills: dict[str, bool] = {}
    notes = []
    for name, settings in offered.settings.providers.items():
        one = running.get(name)
        catalogue = (one or {}).get("catalogue") or {}
        if not settings.enabled:
            notes.append(f"{name} is disabled in the config, so it was not looked at")
        elif one is None:
            notes.append(f"the running daemon does not know {name} yet; start it anew with this config")
        elif not catalogue.get("rows"):
            error = f" ({clean(catalogue['error'])})" if catalogue.get("error") else ""
            notes.append(f"there is no catalogue of {name} yet{error}; see {target.command('providers', 'sync', name)}")
        else:
            refills[name] = bool((one.get("capabilities") or {}).get("refill"))
            rows[name] = await _rows(client, name, kind, told)
    if not rows:
        raise CannotDo("\n  ".join(["there is no catalogue to compare:", *(notes or ["the config has no providers"])]))
    return rows, refills, notes


async def _rows(client: Client, name: str, kind: str | None, told: Told) -> list[tuple[CatalogueRow, str | None]]:
    found: list[tuple[CatalogueRow, str | None]] = []
    cursor: str | None = None
    while True:
        told(f"reading the catalogue of {name}: {len(found)} rows")
        page = await _page(client, f"/v1/providers/{name}/services", {"kind": kind, "limit": PAGE, "cursor": cursor})
        found += ((_row(one), one.get("reason")) for one in page["services"])
        cursor = page.get("next_cursor")
        if cursor is None:
            return found


async def _page(client: Client, path: str, query: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(PATIENCE):
        try:
            page: Mapping[str, Any] = (await client.get(path, **query)).document
            return page
        except Refused as refused:
            if not refused.passes:
                raise
            await asyncio.sleep(refused.wait_s or 1)
    raise CannotDo("the daemon has too much to do to show its catalogues; try again later")


def _row(one: Mapping[str, Any]) -> CatalogueRow:
    """A row of the API's as what the rules take."""
    from aggregator.domain.catalogue import CatalogueRow

    return CatalogueRow(
        service=one["service"],
        name=one["name"],
        kind=one["kind"],
        type=one["type"],
        category=one["category"],
        subcategory=one.get("subcategory") or "",
        rate=_money(one.get("rate")),
        minimum=one["min"],
        maximum=one["max"],
        refill=one["refill"],
        cancel=one["cancel"],
        stock=one.get("stock"),
        has_stock=bool(one.get("stock_known")),
        auto_delivery=one["auto_delivery"],
        country=one.get("country") or "",
        learned_per=one.get("rate_per"),
        charged_rate=_money(one.get("charged_rate")),
    )


def _money(value: Mapping[str, str] | None) -> Money | None:
    from aggregator.domain.money import Money

    return Money.parse(value["amount"], value["currency"]) if value is not None else None


# --- comparing -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Market:
    """All offers that can be bought, and why others cannot; `rows` are both, by provider and id."""

    offers: dict[OfferKey, Shown] = field(default_factory=dict)
    doubts: dict[OfferKey, str] = field(default_factory=dict)
    rows: dict[tuple[str, str], list[OfferKey]] = field(default_factory=dict)

    def of(self, offer: OfferSettings) -> list[OfferKey]:
        """The rows that an offer may mean: those of all countries where it names none."""
        rows = self.rows.get((offer.provider, offer.target), [])
        country = offer.country.casefold() if offer.country is not None else None
        return [key for key in rows if country is None or key[2] == country]


def _suggestions(
    offered: Offered, wish: Wish, rows: Rows, refills: Mapping[str, bool], notes: Sequence[str]
) -> Suggestions:
    from aggregator.suggestions import Shelf

    market = _read(offered, rows, refills)
    configured = [offer for service in offered.settings.services.values() for offer in service.offers]
    taken = {key for offer in configured for key in market.of(offer)}
    asked_for = [one for one in market.offers.values() if not wish.providers or one.provider in wish.providers]
    base = Suggestions(offered, wish.least, notes=tuple(notes), compared=len(market.offers))
    if wish.new:
        groups = Shelf(asked_for).groups(taken=taken, least=wish.least)
        shown = [group[:IN_GROUP] for group in groups[: wish.limit]]
        return replace(base, groups=shown, left_out=len(groups) - len(shown))
    shelf = Shelf(asked_for)
    services = offered.settings.services
    names = dict.fromkeys(wish.services or services)
    return replace(
        base, services=[_service(name, services[name], shelf, market, taken, refills, wish) for name in names]
    )


def _read(offered: Offered, rows: Rows, refills: Mapping[str, bool]) -> _Market:
    from aggregator.domain.catalogue import service_type
    from aggregator.suggestions import show

    settings, market = offered.settings, _Market()
    for name, known in rows.items():
        rate_per = {"smm": settings.providers[name].rate_per.smm, "product": settings.providers[name].rate_per.product}
        for row, doubt in known:
            key = (name, row.service, row.country.casefold())
            market.rows.setdefault(key[:2], []).append(key)
            one = show(
                name,
                row,
                refills=refills[name],
                rate_per=rate_per,
                currency=settings.currency,
                exchange_rates=settings.exchange_rates,
            )
            if doubt is None and service_type(row.kind, row.type) is None:
                doubt = f"its type {row.type!r} is none that can be ordered"
            if doubt is None and one is None:
                doubt = "its name is too long to be compared"
            if doubt is not None or one is None:
                market.doubts[key] = doubt or ""
            else:
                market.offers[key] = one
    return market


def _service(
    name: str,
    service: ServiceSettings,
    shelf: Shelf,
    market: _Market,
    taken: set[OfferKey],
    refills: Mapping[str, bool],
    wish: Wish,
) -> Found:
    ours, notes = _ours(service, market)
    if service.refill.required:
        notes.append("it wants offers that can be refilled, so others are not proposed")
    proposals = [
        one
        for one in shelf.like(ours, taken=taken, least=wish.least)
        if not service.refill.required or (one.offer.row.refill and refills[one.offer.provider])
    ]
    shown = proposals[: wish.limit]
    return Found(name, service, ours, shown, len(proposals) - len(shown), notes)


def _ours(service: ServiceSettings, market: _Market) -> tuple[list[Shown], list[str]]:
    """The offers of a service to compare with, and why others are left out."""
    ours: list[Shown] = []
    notes = []
    for offer in service.offers:
        label = clean(f"{offer.provider}/{offer.target}")
        keys = market.of(offer)
        if not keys:
            notes.append(f"{label} is in no catalogue that was read, so nothing was compared with it")
        elif len(keys) > 1:
            notes.append(f"{label} takes any country, so nothing was compared with it; name one in the config")
        elif keys[0] in market.doubts:
            notes.append(f"{label} was not compared: {clean(market.doubts[keys[0]])}")
        else:
            ours.append(market.offers[keys[0]])
    notes += _disagreement(ours)
    return ours, notes


def _disagreement(ours: Sequence[Shown]) -> Iterable[str]:
    """A service whose own offers seem to be two things: each is compared for itself, and a person should look."""
    if not ours:
        return
    for other in ours[1:]:
        if not set(ours[0].ware.keys) & set(other.ware.keys):
            first, second = (clean(f"{one.provider}/{one.row.service}") for one in (ours[0], other))
            said = clean(ours[0].ware.says()), clean(other.ware.says())
            yield f"its own offers seem to be two things: {first} is {said[0]}; {second} is {said[1]}"
