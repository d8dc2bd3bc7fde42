"""Suggestions as they are printed: tables for people, one JSON document for programs, lines for the config.

The lines hold every setting that a service has already, so that whoever replaces its block by them loses none. An offer
that differs in something grave is a comment, with what differs: it takes a person to remove the `#`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import click
import yaml

from aggregator.cli.output import Page, emit_answer, json_line
from aggregator.cli.words import NOTHING, clean, cut, shown
from aggregator.suggestions import cheapest_first

if TYPE_CHECKING:
    from aggregator.cli.suggest import Found, Suggestions
    from aggregator.suggestions import Proposal, Shown

NAME: Final = 48
"""Letters of a name in a table."""
NOTE: Final = 100
"""Letters of a name in a line of the config."""
_SLUG: Final = re.compile(r"[^a-z0-9]+")


# --- tables --------------------------------------------------------------------------------------------------------


def print_table(found: Suggestions, *, new: bool) -> None:
    page = Page()
    if new:
        _print_groups(page, found)
    else:
        _print_services(page, found)
    for note in found.notes:
        page.line(note, style="yellow")
    if any(one.proposals for one in found.services) or found.groups:
        page.line(f"The same command with --yaml prints the lines for `services:` in {clean(found.offered.path)}.")


def _print_services(page: Page, found: Suggestions) -> None:
    """Ours and what is proposed in one table, so that names stand below each other."""
    for one in found.services:
        cheapest = _cheapest(one.ours)
        per = f", prices per {cheapest.per}" if cheapest is not None and cheapest.per != 1 else ""
        page.heading(f"{one.name}: {_counted(len(one.proposals), 'proposal')}{per}")
        if one.proposals:
            page.table(
                ("score", "offer", "like", "name", ">price", ">to ours", *_LIMITS),
                [("ours", _label(offer), "", *_cells(offer, "")) for offer in one.ours]
                + [
                    (
                        str(proposal.likeness.score),
                        _label(proposal.offer),
                        _label(proposal.like),
                        *_cells(proposal.offer, _compared(proposal.offer, cheapest)),
                    )
                    for proposal in one.proposals
                ],
                indent=2,
            )
            _print_reasons(page, one.proposals)
        for note in one.notes:
            page.line(note, indent=2, style="yellow")
        if one.left_out:
            page.line(f"{one.left_out} more with --limit", indent=2)
        page.line()


def _cells(offer: Shown, compared: str) -> tuple[str, ...]:
    return _name(offer), _amount(offer), compared, *_limits(offer)


def _print_groups(page: Page, found: Suggestions) -> None:
    names = service_names(found)
    page.line(f"{_counted(len(found.groups), 'new service')} of {found.compared} offers")
    page.line()
    for name, group in zip(names, found.groups, strict=True):
        per = f", prices per {group[0].offer.per}" if group[0].offer.per != 1 else ""
        page.heading(f"{name}: {clean(group[0].like.ware.says())}{per}")
        page.table(
            ("score", "offer", "name", ">price", *_LIMITS),
            [
                (str(one.likeness.score), _label(one.offer), _name(one.offer), _amount(one.offer), *_limits(one.offer))
                for one in group
            ],
            indent=2,
        )
        _print_reasons(page, group)
        page.line()
    if found.left_out:
        page.line(f"{found.left_out} more with --limit")


def _print_reasons(page: Page, proposals: Sequence[Proposal]) -> None:
    for one in proposals:
        if one.offer is one.like:
            continue
        page.line(f"{_label(one.offer)}  why: {clean('; '.join(one.likeness.why))}", indent=2)
        if one.likeness.differs:
            told = clean("; ".join(map(str, one.likeness.differs)))
            page.line(f"{_label(one.offer)}  differs: {told}", indent=2, style="" if one.likeness.same else "yellow")


_LIMITS: Final = (">min", ">max", ">stock", "refill", "cancel")


def _limits(offer: Shown) -> tuple[str, ...]:
    row = offer.row
    return (
        str(row.minimum),
        str(row.maximum),
        shown(row.stock),
        str(offer.ware.guarantee) if row.kind != "sms" else NOTHING,
        "yes" if row.cancel else "no",
    )


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'s' if number != 1 else ''}"


def _label(offer: Shown) -> str:
    country = f" {offer.row.country}" if offer.row.country else ""
    return clean(f"{offer.provider}/{offer.row.service}{country}")


def _name(offer: Shown) -> str:
    return cut(clean(" ".join(offer.row.name.split())), NAME)


def _amount(offer: Shown) -> str:
    return f"{offer.price.amount} {offer.price.currency}" if offer.price is not None else NOTHING


def _price(offer: Shown) -> str:
    per = f" per {offer.per}" if offer.per != 1 else ""
    return f"{_amount(offer)}{per}"


def _cheapest(ours: Sequence[Shown]) -> Shown | None:
    known = [offer for offer in ours if offer.price is not None]
    return min(known, key=cheapest_first, default=None)


def _share(offer: Shown, cheapest: Shown | None) -> Decimal | None:
    """How much dearer an offer is than the cheapest of ours, in percent; None: nobody can say."""
    if offer.price is None or cheapest is None or cheapest.price is None or not cheapest.price.units:
        return None
    if offer.per != cheapest.per:
        return None
    return (Decimal(offer.price.units) / cheapest.price.units - 1) * 100


def _compared(offer: Shown, cheapest: Shown | None) -> str:
    share = _share(offer, cheapest)
    return NOTHING if share is None else f"{share:+.0f} %" if abs(share) >= 1 else f"{share:+.1f} %"


# --- JSON ----------------------------------------------------------------------------------------------------------


def print_json(found: Suggestions) -> None:
    names = service_names(found)
    document = {
        "config": str(found.offered.path),
        "currency": found.offered.settings.currency,
        "min_score": found.least,
        "compared": found.compared,
        "services": [_service_document(one) for one in found.services],
        "groups": [
            {"service": name, "offers": [_proposal(one, _cheapest([one.like])) for one in group]}
            for name, group in zip(names, found.groups, strict=True)
        ],
        "left_out": found.left_out,
        "notes": list(found.notes),
        "yaml": "\n".join(yaml_lines(found)),
    }
    emit_answer(json_line(document), document)


def _service_document(one: Found) -> dict[str, object]:
    cheapest = _cheapest(one.ours)
    return {
        "service": one.name,
        "kind": one.service.kind,
        "ours": [_offer(offer) for offer in one.ours],
        "proposals": [_proposal(proposal, cheapest) for proposal in one.proposals],
        "left_out": one.left_out,
        "notes": list(one.notes),
    }


def _proposal(one: Proposal, cheapest: Shown | None) -> dict[str, object]:
    share = _share(one.offer, cheapest)
    return {
        **_offer(one.offer),
        "score": one.likeness.score,
        "like": _offer(one.like),
        "dearer_percent": f"{share:.2f}" if share is not None else None,
        "why": list(one.likeness.why),
        "differs": [
            {"what": what.what, "here": what.here, "there": what.there, "grave": what.grave}
            for what in one.likeness.differs
        ],
    }


def _offer(offer: Shown) -> dict[str, object]:
    row = offer.row
    return {
        **_settings_of(offer),
        "name": row.name,
        "type": row.type,
        "category": row.category,
        "price": offer.price.as_json() if offer.price is not None else None,
        "price_per": offer.per,
        "min": row.minimum,
        "max": row.maximum,
        "stock": row.stock,
        "refill": offer.ware.guarantee.given,
        "refill_days": offer.ware.guarantee.days or None,
        "cancel": row.cancel,
    }


# --- the config's lines --------------------------------------------------------------------------------------------


def print_yaml(found: Suggestions) -> None:
    for note in found.notes:
        click.echo(clean(note), err=True)
    lines = list(yaml_lines(found))
    click.echo("\n".join(lines) if lines else "  # nothing to propose")


def yaml_lines(found: Suggestions) -> Iterator[str]:
    """Blocks to put under `services:`, each in the place of the one that it names."""
    for one in found.services:
        if one.proposals:
            yield from _existing(one, found.offered.written[one.name])
    for name, group in zip(service_names(found), found.groups, strict=True):
        yield f"  {name}: # {clean(group[0].like.ware.says())}"
        yield f"    kind: {group[0].offer.row.kind}"
        yield "    offers:"
        yield from map(_line, group)


def _existing(one: Found, written: Mapping[str, Any]) -> Iterator[str]:
    yield f"  {one.name}:"
    yield f"    kind: {one.service.kind}"
    yield "    offers:"
    for offer in written["offers"]:
        yield f"      - {_flow(offer)}"
    yield from map(_line, one.proposals)
    rest = {name: value for name, value in written.items() if name not in ("kind", "offers")}
    for name, value in rest.items():
        yield f"    {_flow({name: value})[1:-1]}"


def _line(one: Proposal) -> str:
    told = [f"{one.likeness.score}", _price(one.offer), cut(clean(" ".join(one.offer.row.name.split())), NOTE)]
    grave = [clean(difference) for difference in one.likeness.differs if difference.grave]
    words = f"{_flow(_settings_of(one.offer))} # {' · '.join(told)}"
    return f"      # - {words} · differs: {'; '.join(grave)}" if grave else f"      - {words}"


def _settings_of(offer: Shown) -> dict[str, str]:
    """An offer as the config writes it."""
    if offer.row.kind != "sms":
        return {"provider": offer.provider, "service": offer.row.service}
    country = {"country": offer.row.country} if offer.row.country else {}
    return {"provider": offer.provider, "project": offer.row.service, **country}


class _Dumper(yaml.SafeDumper):
    """Writes double quotes where quotes are needed, as config.example.yaml does, and never an alias."""

    def choose_scalar_style(self) -> str:
        style: str = super().choose_scalar_style()
        return '"' if style == "'" else style

    def ignore_aliases(self, data: object) -> bool:
        return True


def _flow(value: Mapping[str, Any]) -> str:
    """A mapping in one line of YAML."""
    text: str = yaml.dump(
        dict(value), Dumper=_Dumper, default_flow_style=True, allow_unicode=True, sort_keys=False, width=float("inf")
    )
    return text.strip()


def service_names(found: Suggestions) -> list[str]:
    """A name for each group that neither the config nor another group has."""
    names: list[str] = []
    for group in found.groups:
        names.append(_fresh(_slug(group[0].like), {*found.offered.settings.services, *names}))
    return names


def _slug(leader: Shown) -> str:
    ware = leader.ware
    if ware.kind == "sms":
        words = ["numbers", *sorted(" ".join(sorted(one)) for one in ware.alternatives), *sorted(ware.places)]
    elif ware.kind == "product":
        words = sorted(ware.words)
    else:
        words = [*sorted(ware.platforms), *sorted(ware.objects), *sorted(ware.actions), *sorted(ware.manners)]
        words += [*sorted(ware.figures), *sorted(ware.places), *([] if ware.plain else sorted(ware.unknown))]
        words += [f"r{ware.guarantee.days}"] if ware.guarantee.given and ware.guarantee.days else []
    slug = _SLUG.sub("-", "-".join(words).casefold()).strip("-")[:50].strip("-")
    return slug or f"{ware.kind}-{leader.provider}-{_SLUG.sub('-', leader.row.service.casefold()).strip('-')}"[:50]


def _fresh(name: str, known: Collection[str]) -> str:
    number, fresh = 1, name
    while fresh in known:
        number += 1
        fresh = f"{name}-{number}"
    return fresh
