"""A whole street for the flow's tests: the sandbox's providers on loopback, one house, and every stage driven by hand.

Nothing ticks and nothing sleeps. The house and the sandbox share one clock that only the test moves; `settle` runs the
stages until nothing is due at this instant. When it closes, what the providers really sold is held against the journal.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from unittest.mock import patch

import pytest
from aiohttp import web
from sqlalchemy import Connection, RowMapping, select
from structlog.testing import capture_logs
from structlog.typing import EventDict

from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import Problem, StorageUnavailable
from aggregator.domain.ids import OrderId
from aggregator.domain.numbers import Number
from aggregator.domain.orders import FINAL, Order, OrderState
from aggregator.domain.refills import Refill
from aggregator.flow.base import House, Stage
from aggregator.flow.canceling import Canceling
from aggregator.flow.catalogue_sync import CatalogueSync
from aggregator.flow.counting import Counting
from aggregator.flow.dripping import Dripping
from aggregator.flow.intake import Intake, NewOrder
from aggregator.flow.placement import Placement
from aggregator.flow.polling import Polling
from aggregator.flow.reconcile import Reconcile
from aggregator.flow.refilling import Refilling
from aggregator.flow.remainders import Remainders
from aggregator.flow.routing import Routing
from aggregator.flow.sequencing import Sequencing
from aggregator.flow.sms_watch import SmsWatch
from aggregator.outbound import Outbound
from aggregator.providers.gateway import Gateway
from aggregator.sandbox.account import Account
from aggregator.sandbox.faults import FaultRule
from aggregator.sandbox.ledger import Entry
from aggregator.sandbox.numbers import Number as SandboxNumber
from aggregator.sandbox.orders import Order as SandboxOrder
from aggregator.sandbox.server import create_app
from aggregator.sandbox.service_types import Purchase
from aggregator.sandbox.world import World
from aggregator.storage import attempts, catalogue, claims, deliverables, numbers, refills
from aggregator.storage import orders as order_store
from aggregator.storage.database import Database
from aggregator.storage.tables import CLAIMED
from aggregator.storage.tables import events as events_table
from aggregator.storage.tables import ledger as ledger_table
from tests.support.due import next_due
from tests.support.house import make_house
from tests.support.rows import buy

I = TypeVar("I")  # noqa: E741
T = TypeVar("T")

MOST_ROUNDS: Final = 200
"""A street that is still busy after so many rounds at one instant spins."""
MOST_SHOWN: Final = 60
"""Log lines shown of a test that failed."""
PROVIDERS: Final = {"smmplus": "panel_v2", "smmcheap": "panel_v2", "hstock": "hstockplus"}


on_sqlite: Final = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests that vary what providers say and not what is done to the database: one kind of it is enough."""


def smm(*offers: str, **settings: Any) -> dict[str, Any]:
    """A panel service with offers as `provider/service`."""
    return {"kind": "smm", "offers": [_offer(offer, "service") for offer in offers], **settings}


def product(*offers: str, **settings: Any) -> dict[str, Any]:
    return {"kind": "product", "offers": [_offer(offer, "service") for offer in offers], **settings}


def sms(*offers: str, **settings: Any) -> dict[str, Any]:
    """A service of numbers with offers as `provider/project` or `provider/project/country`."""
    return {"kind": "sms", "offers": [_offer(offer, "project") for offer in offers], **settings}


def _offer(text: str, what: str) -> dict[str, str]:
    provider, wanted, *country = text.split("/")
    return {"provider": provider, what: wanted, **({"country": country[0]} if country else {})}


@contextmanager
def after_each(call: str, then: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """Do something after each of these calls of a gateway, before anybody has its answer."""
    real = getattr(Gateway, call)

    async def called(gateway: Gateway, *args: Any, **named: Any) -> Any:
        answer = await real(gateway, *args, **named)
        await then()
        return answer

    with patch.object(Gateway, call, called):
        yield


class ShakyDatabase:
    """The database of a test, with writes that fail when the test says so."""

    def __init__(self, real: Database) -> None:
        self._real = real
        self.kind = real.kind
        self.refuse = 0
        """So many writes are refused before anything is written."""
        self.forget = 0
        """So many writes are carried out, and then their answer is lost."""
        self.writes = 0

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._real.read(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        return await self._shaken(lambda: self._real.write(work))

    async def write_together(self, work: Callable[[Connection, Sequence[I]], Sequence[T]], item: I) -> T:
        return await self._shaken(lambda: self._real.write_together(work, item))

    async def _shaken(self, write: Callable[[], Awaitable[T]]) -> T:
        self.writes += 1
        if self.refuse:
            self.refuse -= 1
            raise StorageUnavailable("the disk is full, says the test")
        result = await write()
        if self.forget:
            self.forget -= 1
            raise StorageUnavailable("the connection is gone, says the test")
        return result

    async def close(self) -> None:
        await self._real.close()


class Street:
    """Providers, house and stages. `restart` is a new run of the daemon over the same database and providers."""

    def __init__(
        self, database: Database, clock: ManualClock, folder: Path, world: World, outbound: Outbound, config: str
    ) -> None:
        self.clock = clock
        self.world = world
        self.database = ShakyDatabase(database)
        self.audited = True
        """Whether what was sold is held against the journal at the end; a test that lies to `resolve` says False."""
        self.sold = asyncio.Event()
        """Set by the first purchase that a provider accepts."""
        record = world.ledger.record

        def recorded(*args: Any, **values: Any) -> None:
            record(*args, **values)
            self.sold.set()

        world.ledger.record = recorded  # type: ignore[method-assign]
        self.said: list[EventDict] = []
        """What was logged."""
        self._folder = folder
        self._outbound = outbound
        self._config = config
        self._build()

    def _build(self) -> None:
        self.house: House = make_house(self.database, self.clock, self._folder, self._config, outbound=self._outbound)
        self.routing = Routing(self.house)
        self.intake = Intake(self.house)
        self.placement = Placement(self.house)
        self.polling = Polling(self.house)
        self.reconcile = Reconcile(self.house)
        self.canceling = Canceling(self.house)
        self.dripping = Dripping(self.house)
        self.remainders = Remainders(self.house)
        self.refilling = Refilling(self.house)
        self.counting = Counting(self.house, self._outbound)
        self.sms_watch = SmsWatch(self.house)
        self.sync = CatalogueSync(self.house, synced=self.routing.sync_ended)
        self.sequencing = Sequencing(self.house)
        self.stages: tuple[Stage, ...] = (
            self.reconcile,
            self.routing,
            self.placement,
            self.polling,
            self.sms_watch,
            self.canceling,
            self.dripping,
            self.remainders,
            self.refilling,
            self.counting,
            self.sequencing,
        )
        self._woken: set[str] = set()
        for stage in self.stages:
            self.house.wakeups.on(stage.name, partial(self._woken.add, stage.name))

    async def begin(self) -> None:
        """What a daemon does at its start, in the daemon's order, and the first sync."""
        now, names = self.clock.now(), list(self.house.settings.providers)
        await self.database.write(lambda c: claims.void_all(c, CLAIMED))
        await self.database.write(lambda c: catalogue.ensure_providers(c, names, now))
        await self.house.health.load()
        await self.intake.refresh()
        await self.reconcile.run_once()

    async def synced(self) -> None:
        """Catalogues and balances are read."""
        await self.sync.run_once()
        await self.sync.idle()
        await self.intake.refresh()

    async def restart(self, *, synced: bool = True) -> None:
        """The daemon died; another one begins."""
        sealer = self.house.sealer
        self._build()
        object.__setattr__(self.house, "sealer", sealer)
        await self.begin()
        if synced:
            await self.synced()

    async def close(self) -> None:
        for stage in (*self.stages, self.sync):
            await stage.stop(0)
        if self.audited:
            await self.audit()

    # --- time ---

    async def tick(self) -> int:
        """Every stage once, each to its end; how much was begun."""
        begun = 0
        for stage in self.stages:
            begun += await stage.run_once()
            await stage.idle()
        return begun

    async def settle(self) -> datetime | None:
        """Run the stages that are due, or were woken, until none is at this instant; when one will be, if ever."""
        for _ in range(MOST_ROUNDS):
            now = self.clock.now()
            due = await self.due()
            wanted = self._woken | {name for name, moment in due.items() if moment <= now}
            self._woken.clear()
            begun = 0
            for stage in [one for one in self.stages if one.name in wanted]:
                begun += await stage.run_once()
                await stage.idle()
            if not begun and not self._woken:
                return min(due.values(), default=None)
        raise AssertionError(f"the stages still find work after {MOST_ROUNDS} rounds at one instant")

    async def advance(self, seconds: float) -> None:
        """Let time pass as a daemon sees it pass: from each moment at which something is due to the next."""
        end = self.clock.now() + timedelta(seconds=seconds)
        due = await self.settle()
        while (now := self.clock.now()) < end:
            moment = end if due is None or due <= now else min(due, end)
            self.clock.advance((moment - now).total_seconds())
            due = await self.settle()

    async def leap(self, seconds: float) -> None:
        """Let time pass while nobody works, as for a machine that slept, and then do what is due."""
        self.clock.advance(seconds)
        await self.settle()

    async def next(self) -> None:
        """Go to the next moment at which something is due, and do it."""
        due = await self.settle()
        assert due is not None, "nothing will ever be due"
        assert due > self.clock.now(), "something is due that no stage does"
        self.clock.advance((due - self.clock.now()).total_seconds())
        await self.settle()

    async def due(self) -> dict[str, datetime]:
        """When each of the stages has something to do, now or earlier if it has already. What somebody works on is due
        when his claim ends."""
        mine = {stage.name for stage in self.stages}
        found: dict[str, datetime] = {}
        for stage, moment in await self.database.read(next_due):
            if stage in mine:
                found[stage] = min(moment, found.get(stage, moment))
        return found

    async def until(self, number: int, *states: OrderState, most_s: float = 3600) -> Order:
        """Let time pass until the order is in one of these states (any final one when none is named)."""
        wanted = states or tuple(FINAL)
        end = self.clock.now() + timedelta(seconds=most_s)
        while (order := await self.order(number)).state not in wanted:
            assert self.clock.now() < end, f"order {number} is still {order.state}, not {', '.join(wanted)}"
            await self.next()
        return order

    # --- what callers do ---

    def wish(self, service: str, quantity: int | None = 1000, link: str | None = None, **fields: Any) -> NewOrder:
        return NewOrder("shop", service, quantity, link, **fields)

    async def take(
        self, service: str, quantity: int | None = 1000, link: str | None = "https://example.com/a", **fields: Any
    ) -> Order:
        """An order that was accepted."""
        (result,) = (await self.intake.take([self.wish(service, quantity, link, **fields)])).results
        assert isinstance(result, Order), result
        return result

    async def bought(self, service: str, quantity: int | None = 1000, **fields: Any) -> Order:
        """An order that some provider took."""
        order = await self.take(service, quantity, **fields)
        await self.settle()
        bought = await self.order(order.number)
        assert bought.provider_order, f"{bought.state}: {bought.error_detail}"
        return bought

    async def given(self, service: str, count: int) -> list[Order]:
        """So many orders that the provider of the service's first offer works on, without the calls to buy them."""
        offer = self.house.settings.services[service].offers[0]
        account, now = self.account(offer.provider), self.world.now()
        wishes = [self.wish(service, 500, f"https://example.com/{place}") for place in range(count)]
        taken = [order for order in (await self.intake.take(wishes)).results if isinstance(order, Order)]
        assert offer.service is not None
        goods = account.services[offer.service]
        account.set_balance(account.balance_at(now) + 10 * count, now)
        ids = [account.buy(goods, Purchase(order.link or "", 500, {}), now, self.world.links).id for order in taken]

        def write(connection: Connection) -> list[Order]:
            pairs = zip(taken, ids, strict=True)
            return [
                buy(connection, order, provider=offer.provider, provider_order=theirs, at=self.clock.now())
                for order, theirs in pairs
            ]

        self.audited = False  # there is no purchase in the ledger
        return await self.database.write(write)

    async def refused(self, wish: NewOrder) -> Problem:
        """Why an order was not accepted; nothing of it is stored."""
        before = await self.count()
        (result,) = (await self.intake.take([wish])).results
        assert isinstance(result, Problem), result
        assert await self.count() == before
        return result

    # --- what is stored ---

    async def count(self) -> int:
        found = await self.database.read(lambda c: order_store.page(c, order_store.Filters(), before=None, limit=5000))
        return len(found)

    async def order(self, number: int) -> Order:
        order = await self.database.read(lambda c: order_store.load(c, number))
        assert order is not None
        return order

    async def orders(self) -> list[Order]:
        found = await self.database.read(lambda c: order_store.page(c, order_store.Filters(), before=None, limit=5000))
        return sorted(found, key=lambda order: order.number)

    async def attempts(self, number: int) -> Sequence[RowMapping]:
        return await self.database.read(lambda c: attempts.of_order(c, number))

    async def events(self, number: int) -> list[str]:
        """Types of an order's events, in order."""
        return [event["type"] for event in await self.told(number)]

    async def told(self, number: int, only: str | None = None) -> list[dict[str, Any]]:
        """Bodies of an order's events, in order."""
        query = select(events_table.c.body, events_table.c.type).where(events_table.c.order_number == number)
        ordered = query.order_by(events_table.c.sequence)
        rows = await self.database.read(lambda c: [(row[0], row[1]) for row in c.execute(ordered)])
        return [json.loads(body) for body, kind in rows if only in (None, kind)]

    async def general_events(self) -> list[str]:
        query = select(events_table.c.type).where(events_table.c.order_number.is_(None)).order_by(events_table.c.seq)
        return await self.database.read(lambda c: [row[0] for row in c.execute(query)])

    async def numbers(self, order: Order) -> tuple[Number, ...]:
        owners: Mapping[int, OrderId] = {order.number: order.id}
        return (await self.database.read(lambda c: numbers.of_orders(c, owners))).get(order.id, ())

    async def refills(self, order: Order) -> tuple[Refill, ...]:
        owners: Mapping[int, OrderId] = {order.number: order.id}
        return (await self.database.read(lambda c: refills.of_orders(c, owners))).get(order.id, ())

    async def booked(self, order: Order) -> list[tuple[str, int]]:
        """What the ledger has of an order: charge or refund, and 10^-8 units; what we pay is negative."""
        query = select(ledger_table.c.kind, ledger_table.c.units).where(ledger_table.c.order_number == order.number)
        ordered = query.order_by(ledger_table.c.id)
        return await self.database.read(lambda c: [(row[0], row[1]) for row in c.execute(ordered)])

    async def accounts(self, order: Order) -> list[str]:
        return await self.database.read(lambda c: deliverables.read(c, self.house.sealer, order.number))

    async def column(self, table: Any, key: int, name: str) -> Any:
        """One column of an order's, number's or refill's row."""
        identity = table.primary_key.columns.values()[0]
        query = select(table.c[name]).where(identity == key)
        return await self.database.read(lambda c: c.execute(query).scalar_one())

    # --- what the providers did ---

    def account(self, name: str) -> Account:
        return self.world.accounts[name]

    def upstream(self, order: Order) -> SandboxOrder:
        """The order as the provider has it."""
        assert order.provider is not None
        assert order.provider_order is not None
        return self.account(order.provider).orders[order.provider_order]

    def rented(self, number: Number) -> SandboxNumber:
        return self.account(number.provider).numbers[number.provider_order]

    def purchases(self, *accounts: str) -> list[Entry]:
        """What was really sold."""
        return [
            entry
            for entry in self.world.ledger.entries()
            if entry.action in ("add", "add_sms") and (not accounts or entry.account in accounts)
        ]

    def refills_asked(self) -> list[Entry]:
        """Refills that the providers accepted."""
        return [entry for entry in self.world.ledger.entries() if entry.action == "refill"]

    def calls(self, account: str, action: str) -> int:
        """Calls of an action so far, refused and faulted ones too."""
        shown: Any = self.world.calls.shown()
        count = shown.get(account, {}).get("actions", {}).get(action, {}).get("calls", 0)
        assert isinstance(count, int)
        return count

    def ids_asked(self, account: str, action: str = "status") -> list[int]:
        """How many ids each call carried."""
        shown: Any = self.world.calls.shown()
        found = shown.get(account, {}).get("actions", {}).get(action, {}).get("id_counts", [])
        return list(found)

    def break_with(self, *rules: FaultRule) -> None:
        self.world.faults.replace(rules)

    def hurry(self, provider: str, timeout_s: float = 0.25) -> None:
        """Wait only so long for this provider, in real seconds."""
        gateway = self.house.gateways[provider]
        gateway.settings = gateway.settings.model_copy(update={"timeout_s": timeout_s})

    def refusing_after(self, call: str, writes: int) -> AbstractContextManager[None]:
        """So many writes are refused after each of these calls of a gateway."""

        async def refuse() -> None:
            self.database.refuse = writes

        return after_each(call, refuse)

    async def audit(self) -> None:
        """Invariants 2 and 3 against the only witness that cannot be fooled: every purchase that a provider accepted
        is a known attempt of one order, no order was bought twice, and what counts as bought really was."""
        known: dict[str, RowMapping] = {}
        for order in await self.orders():
            known |= {row["id"]: row for row in await self.attempts(order.number)}
        per_order: Counter[int] = Counter()
        for entry in self.purchases():
            row = known.get(entry.idempotency_key or "")
            assert row is not None, f"nobody knows of the purchase {entry}"
            assert row["state"] in ("placed", "unclear", "placing"), f"{row['state']}, but it was sold: {entry}"
            assert row["state"] != "placed" or row["provider_order"] == entry.order, (row["provider_order"], entry)
            per_order[row["order_number"]] += 1
        doubled = [number for number, count in per_order.items() if count > 1]
        assert not doubled, f"bought twice: {doubled}"
        sold = {entry.idempotency_key for entry in self.purchases()}
        invented = [row["id"] for row in known.values() if row["state"] == "placed" and row["id"] not in sold]
        assert not invented, f"placed, but never sold: {invented}"


@asynccontextmanager
async def a_street(
    database: Database,
    clock: ManualClock,
    folder: Path,
    services: Mapping[str, Any],
    *,
    seed: int = 1,
    synced: bool = True,
    settings: Mapping[str, Any] | None = None,
    **providers: Mapping[str, Any],
) -> AsyncIterator[Street]:
    """A street with these services; `providers` change the settings of one of them, `settings` the whole config."""
    world = World(seed=seed, clock=lambda: clock.now().timestamp())
    runner = web.AppRunner(create_app(world), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        config = {
            "providers": {
                name: {
                    "dialect": dialect,
                    "url": f"http://{host}:{port}/{name}/api/v2",
                    "api_key": f"sandbox-{name}-key",
                    "requests_per_second": 0,
                    **providers.get(name, {}),
                }
                for name, dialect in PROVIDERS.items()
            },
            "services": dict(services),
            **(settings or {}),
        }
        async with Outbound() as outbound:
            # Log lines are kept and not written: a street says a lot, and rendering it is what costs most.
            with capture_logs() as said:
                street = Street(database, clock, folder, world, outbound, json.dumps(config))
                street.said = said
                await street.begin()
                if synced:
                    await street.synced()
                try:
                    yield street
                except BaseException:
                    street.audited = False
                    raise
                finally:
                    print(*said[-MOST_SHOWN:], sep="\n")
                    await street.close()
    finally:
        await runner.cleanup()
