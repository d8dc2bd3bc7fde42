"""A look at all that a config names, before anybody relies on it: each provider and each endpoint is asked once.

What providers answer is judged in a database of its own, by the rules that orders are routed by; the daemon's is only
looked at. Nothing is bought. Endpoints get a signed `webhook.test`.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet

from aggregator import __version__
from aggregator.config import ProviderSettings, ServiceSettings, Settings, WebhookSettings
from aggregator.domain import webhooks
from aggregator.domain.catalogue import PRICE_PER
from aggregator.domain.clock import Clock, SteadyClock
from aggregator.domain.errors import StorageUnavailable
from aggregator.domain.ids import new_id
from aggregator.domain.money import Money
from aggregator.flow.base import House
from aggregator.flow.catalogue_sync import CatalogueSync
from aggregator.flow.health import Health
from aggregator.flow.readings import take_reading
from aggregator.flow.storefront import Priced, Shelf, shelf
from aggregator.flow.views import load_world
from aggregator.log import Redactor
from aggregator.outbound import Delivered, Outbound
from aggregator.providers.contract import Failure
from aggregator.providers.gateway import Gateway, build_gateways
from aggregator.providers.limits import Priority
from aggregator.storage import catalogue, outbox
from aggregator.storage.database import Database, open_database
from aggregator.storage.deliverables import Sealer
from aggregator.storage.migrate import NewerSchema, migrate, versions
from aggregator.web.hook_documents import shown_url

Told = Callable[[str], None]
NOT_LISTED: Final = "not in the provider's catalogue"


@dataclass(frozen=True, slots=True)
class ProviderFound:
    """What a provider answered. `trouble` None: its balance and its catalogue came, whole; `None` of the figures where
    nobody knows them."""

    name: str
    dialect: str
    enabled: bool
    trouble: str | None = None
    balance: Money | None = None
    services: int | None = None
    can: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def works(self) -> bool:
        return self.enabled and self.trouble is None

    def as_json(self) -> dict[str, object]:
        return {
            "dialect": self.dialect,
            "enabled": self.enabled,
            "works": self.works,
            "reason": self.trouble,
            "balance": self.balance.as_json() if self.balance is not None else None,
            "services": self.services,
            "can": list(self.can),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class OfferFound:
    """An offer as it stands now: what it asks for `per` pieces in the config's currency, or why nothing goes there."""

    provider: str
    target: str
    reason: str | None
    price: Money | None = None
    per: int | None = None
    minimum: int | None = None
    maximum: int | None = None
    stock: int | None = None
    listed: bool = True

    def as_json(self) -> dict[str, object]:
        return {
            "offer": f"{self.provider}/{self.target}",
            "works": self.reason is None,
            "reason": self.reason,
            "price": self.price.as_json() if self.price is not None else None,
            "price_per": self.per,
            "min": self.minimum,
            "max": self.maximum,
            "stock": self.stock,
        }


@dataclass(frozen=True, slots=True)
class ServiceFound:
    """A service with its offers, the one that would win the smallest order first."""

    name: str
    kind: str
    offers: tuple[OfferFound, ...]

    @property
    def works(self) -> bool:
        return any(offer.reason is None for offer in self.offers)

    def as_json(self) -> dict[str, object]:
        return {"kind": self.kind, "works": self.works, "offers": [offer.as_json() for offer in self.offers]}


@dataclass(frozen=True, slots=True)
class EndpointFound:
    """What an endpoint answered to a test event."""

    name: str
    url: str
    enabled: bool
    trouble: str | None = None
    seconds: float = 0.0

    def as_json(self) -> dict[str, object]:
        works = self.enabled and self.trouble is None
        return {"enabled": self.enabled, "works": works, "reason": self.trouble, "seconds": round(self.seconds, 3)}


@dataclass(frozen=True, slots=True)
class Findings:
    """All of it, in the config's order."""

    database: str
    database_trouble: bool = False
    providers: tuple[ProviderFound, ...] = ()
    services: tuple[ServiceFound, ...] = ()
    endpoints: tuple[EndpointFound, ...] = ()
    problems: tuple[str, ...] = field(init=False)
    """What a person has to mend before it can work, a sentence each."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "problems", tuple(self._problems()))

    def _problems(self) -> Iterator[str]:
        if self.database_trouble:
            yield f"database: {self.database}"
        for provider in self.providers:
            if provider.enabled and provider.trouble is not None:
                yield f"providers.{provider.name}: {provider.trouble}"
        answered = {provider.name for provider in self.providers if provider.works}
        for service in self.services:
            for offer in service.offers:
                if not offer.listed and offer.provider in answered:
                    yield f"services.{service.name}: {offer.provider}/{offer.target} is {NOT_LISTED}"
            if not service.works:
                yield f"services.{service.name}: nobody could take an order now"
        for endpoint in self.endpoints:
            if endpoint.enabled and endpoint.trouble is not None:
                yield f"webhooks.{endpoint.name}: {endpoint.trouble}"


async def look(settings: Settings, redactor: Redactor, told: Told = lambda _: None) -> Findings:
    """Ask everybody, all at once; `told` hears of each as its answer comes. Bounded by the config's time-outs."""
    clock = SteadyClock()
    outbound = Outbound(user_agent=f"aggregator/{__version__}")
    try:
        with tempfile.TemporaryDirectory(prefix="aggregator-check-") as folder:
            database = open_database(f"sqlite:///{Path(folder) / 'check.db'}")
            try:
                await migrate(database)
                house = await _house(settings, redactor, clock, database, outbound)
                asked = _ask_providers(house, told), _ask_endpoints(settings, clock, outbound, redactor, told)
                providers, endpoints = await asyncio.gather(*asked)
                services = await _services(house)
            finally:
                await database.close()
    finally:
        await outbound.close()
    words, trouble = await look_at_database(settings)
    return Findings(words, trouble, providers, services, endpoints)


async def _house(settings: Settings, redactor: Redactor, clock: Clock, database: Database, outbound: Outbound) -> House:
    names = list(settings.providers)
    now = clock.now()
    await database.write(lambda c: catalogue.ensure_providers(c, names, now))
    return House(
        settings=settings,
        database=database,
        gateways=build_gateways(settings.providers.items(), outbound, redactor, clock),
        health=Health(database, clock, names),
        clock=clock,
        sealer=Sealer(Fernet.generate_key().decode()),  # nothing is delivered here
    )


async def _timed(work: Awaitable[str | None], clock: Clock) -> tuple[str | None, float]:
    began = clock.monotonic()
    return await work, clock.monotonic() - began


# --- providers and services


async def _ask_providers(house: House, told: Told) -> tuple[ProviderFound, ...]:
    sync = CatalogueSync(house)
    names = house.settings.providers.items()
    try:
        return tuple(await asyncio.gather(*(_ask_provider(house, sync, *one, told) for one in names)))
    finally:
        await sync.stop(0)


async def _ask_provider(
    house: House, sync: CatalogueSync, name: str, settings: ProviderSettings, told: Told
) -> ProviderFound:
    if not settings.enabled:
        return ProviderFound(name, settings.dialect, False)
    gateway = house.gateways[name]
    trouble, seconds = await _timed(_trouble_with(house, sync, gateway), house.clock)
    row = await house.database.read(lambda c: catalogue.health(c)[name])
    told(f"provider {name}")
    return ProviderFound(
        name,
        settings.dialect,
        True,
        trouble,
        Money(row["balance_units"], row["balance_currency"]) if row["balance_units"] is not None else None,
        row["catalogue_rows"],
        _abilities(gateway),
        seconds,
    )


async def _trouble_with(house: House, sync: CatalogueSync, gateway: Gateway) -> str | None:
    reading = await take_reading(house, gateway, Priority.CATALOGUE)
    balance = (reading.text or str(reading.kind)) if isinstance(reading, Failure) else None
    complaint = await sync.sync(gateway, wait_s=None)
    found = [f"balance: {balance}" if balance else "", f"catalogue: {complaint}" if complaint else ""]
    if balance is not None and balance == complaint:
        return balance
    return "; ".join(text for text in found if text) or None


def _abilities(gateway: Gateway) -> tuple[str, ...]:
    """What its dialect can do beyond selling, in the words of the config and the API."""
    capabilities = gateway.capabilities
    can = {name: value for name, value in asdict(capabilities).items() if value is True}
    return (*sorted(capabilities.kinds), *sorted(name for name in can if name not in capabilities.kinds))


async def _services(house: House) -> tuple[ServiceFound, ...]:
    services = house.settings.services
    world = await house.database.read(lambda c: load_world(c, services.values()))
    return tuple(
        ServiceFound(name, service.kind, tuple(_offers(service, shelf(house, service, world))))
        for name, service in services.items()
    )


def _offers(service: ServiceSettings, on: Shelf) -> Iterator[OfferFound]:
    for priced in on.priced:
        yield _priced(priced)
    for view, reason in on.refused:
        yield OfferFound(
            view.provider.name,
            f"{view.service}/{view.country}" if view.country else view.service,
            reason,
            per=PRICE_PER[service.kind],
            listed=view.row is not None,
        )


def _priced(priced: Priced) -> OfferFound:
    view, row = priced.offer, priced.row
    target = f"{view.service}/{view.country}" if view.country else view.service
    return OfferFound(view.provider.name, target, None, priced.price, priced.per, row.minimum, row.maximum, row.stock)


# --- endpoints


async def _ask_endpoints(
    settings: Settings, clock: Clock, outbound: Outbound, redactor: Redactor, told: Told
) -> tuple[EndpointFound, ...]:
    async def ask(hook: WebhookSettings) -> EndpointFound:
        url = shown_url(hook.url)
        if not hook.enabled:
            return EndpointFound(hook.name, url, False)
        trouble, seconds = await _timed(_deliver(hook, clock, outbound), clock)
        told(f"webhook {hook.name}")
        return EndpointFound(hook.name, url, True, redactor.text(trouble) if trouble else None, seconds)

    return tuple(await asyncio.gather(*(ask(hook) for hook in settings.webhooks)))


async def _deliver(hook: WebhookSettings, clock: Clock, outbound: Outbound) -> str | None:
    """Send a test event as the daemon would; what is wrong with the answer, or None."""
    now = clock.now()
    event_id = new_id("evt", now)
    body = outbox.render("webhook.test", now, {"endpoint": hook.name, "asked_by": "aggregator check"}).encode()
    keys = [secret.signing_bytes for secret in hook.secrets_at(now)]
    headers = webhooks.headers(event_id, now, body, keys)
    outcome = await outbound.deliver(hook.url, body, headers, float(hook.timeout_s))
    if not isinstance(outcome, Delivered):
        return f"no answer to a test event: {outcome.reason}"
    if 200 <= outcome.status < 300:
        return None
    if outcome.status in (401, 403):
        return f"answers a test event with HTTP {outcome.status}: does it verify with this endpoint's secret?"
    if 300 <= outcome.status < 400:
        return f"answers with HTTP {outcome.status}, and redirects are not followed: is `url` right?"
    return f"answers a test event with HTTP {outcome.status}"


# --- the daemon's database


async def look_at_database(settings: Settings) -> tuple[str, bool]:
    """How the database stands, in words, and whether the daemon could not start with it; it is not changed."""
    path = settings.database.path
    if path is not None and not path.exists():
        return "does not exist yet; `aggregator run` makes it", False
    database = open_database(settings.database.reveal())
    try:
        before, newest = await versions(database)
    except (StorageUnavailable, NewerSchema) as exc:
        return str(exc), True
    finally:
        await database.close()
    if before is None:
        return "is empty; `aggregator run` makes its tables", False
    if before == newest:
        return f"has the newest schema ({newest})", False
    return f"has schema {before}; `aggregator run` brings it to {newest}", False
