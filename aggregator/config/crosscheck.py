"""What settings mean together: names that must exist once, offers that must fit their provider and kind.

Works on the file's raw values, so that its problems are listed beside those of single settings. Anything of an
unexpected shape is passed over here: that is reported where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from aggregator.config.models import DIALECT_KINDS
from aggregator.config.places import TcpAddress, parse_address
from aggregator.config.problems import did_you_mean
from aggregator.config.secret import SecretError, Sources

Found = Iterator[tuple[tuple[str | int, ...], str]]


def crosscheck(data: Mapping[str, Any], sources: Sources) -> Found:
    """Every problem between settings, as (path, message)."""
    yield from _repeated_names("keys", _list(data.get("keys")))
    yield from _repeated_names("webhooks", _list(data.get("webhooks")))
    yield from _repeated_keys(_list(data.get("keys")), sources)
    yield from _open_doors(data)
    yield from _own_rate(data)
    yield from _services(data)
    yield from _webhook_services(data)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _repeated_names(section: str, entries: list[Any]) -> Found:
    first: dict[str, int] = {}
    for index, entry in enumerate(entries):
        name = _mapping(entry).get("name")
        if not isinstance(name, str):
            continue
        if name in first:
            yield (section, index, "name"), f"{name} is already the name of {section}[{first[name]}]"
        first.setdefault(name, index)


def _repeated_keys(entries: list[Any], sources: Sources) -> Found:
    first: dict[str, str] = {}
    for index, entry in enumerate(entries):
        key = _mapping(entry).get("key")
        values: list[tuple[tuple[str | int, ...], object]] = [(("keys", index, "key"), key)]
        if isinstance(key, list):
            values = [
                (("keys", index, "key", number, "value"), _mapping(item).get("value"))
                for number, item in enumerate(key)
            ]
        for path, text in values:
            if not isinstance(text, str):
                continue
            try:
                value = sources.resolve(text).reveal()
            except SecretError:
                continue
            if value in first:
                yield path, f"is the same key as one of {first[value]}; a key must tell who calls"
            first.setdefault(value, f"keys[{index}]")


def _open_doors(data: Mapping[str, Any]) -> Found:
    if data.get("keys"):
        return
    for index, entry in enumerate(_list(_mapping(data.get("http")).get("listen"))):
        try:
            address = parse_address(entry)
        except PydanticCustomError:
            continue
        if isinstance(address, TcpAddress) and not address.is_loopback:
            message = f"{address} can be reached from outside, which needs keys: add some, or listen on unix:/path"
            yield ("http", "listen", index), message


def _own_rate(data: Mapping[str, Any]) -> Found:
    currency = data.get("currency", "USD")
    if isinstance(currency, str) and currency in _mapping(data.get("exchange_rates")):
        yield ("exchange_rates", currency), "is `currency` itself, which is always worth 1; remove it"


def _services(data: Mapping[str, Any]) -> Found:
    providers = _mapping(data.get("providers"))
    panel_ids: dict[int, str] = {}
    for name, raw in _mapping(data.get("services")).items():
        service = _mapping(raw)
        panel_id = service.get("panel_id")
        if isinstance(panel_id, int) and not isinstance(panel_id, bool):
            if panel_id in panel_ids:
                yield ("services", name, "panel_id"), f"{panel_id} is already that of services.{panel_ids[panel_id]}"
            panel_ids.setdefault(panel_id, name)
        first: dict[tuple[object, ...], int] = {}
        for index, entry in enumerate(_list(service.get("offers"))):
            offer = _mapping(entry)
            path = ("services", name, "offers", index)
            yield from _offer(path, service.get("kind"), offer, providers)
            identity = tuple(str(offer.get(part)) for part in ("provider", "service", "project", "country"))
            if identity in first and offer:
                yield path, f"is the same offer as offers[{first[identity]}]"
            first.setdefault(identity, index)


def _webhook_services(data: Mapping[str, Any]) -> Found:
    services = _mapping(data.get("services"))
    for index, entry in enumerate(_list(data.get("webhooks"))):
        for place, name in enumerate(_list(_mapping(entry).get("services"))):
            if isinstance(name, str) and name not in services:
                yield (
                    ("webhooks", index, "services", place),
                    f"there is no service {name}{did_you_mean(name, services)}",
                )


def _offer(path: tuple[str | int, ...], kind: object, offer: dict[str, Any], providers: dict[str, Any]) -> Found:
    name = offer.get("provider")
    if isinstance(name, str):
        if name not in providers:
            yield (*path, "provider"), f"there is no provider {name}{did_you_mean(name, providers)}"
        dialect = _mapping(providers.get(name)).get("dialect")
        kinds = DIALECT_KINDS.get(dialect) if isinstance(dialect, str) else None
        if kinds is not None and kind in ("smm", "product", "sms") and kind not in kinds:
            able = ", ".join(sorted(d for d, of in DIALECT_KINDS.items() if kind in of))
            yield (
                (*path, "provider"),
                f"{name} speaks {dialect}, which sells no {kind} services; dialects that do: {able}",
            )
    if kind not in ("smm", "product", "sms") or not offer:
        return
    needed, foreign = ("project", ("service",)) if kind == "sms" else ("service", ("project", "country"))
    if offer.get(needed) is None:
        yield (*path, needed), f"is required for a service of kind {kind}"
    for part in foreign:
        if offer.get(part) is not None:
            yield (*path, part), f"does not belong to a service of kind {kind}, which takes {needed}"
