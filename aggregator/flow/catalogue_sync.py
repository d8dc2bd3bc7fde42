"""Providers' catalogues, stock and balances are kept fresh, and absurd changes are not believed.

An error, an empty answer or half a catalogue disables nothing that was there. Never decides which offer wins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from aggregator.domain.catalogue import CatalogueRow
from aggregator.domain.events import Draft
from aggregator.domain.sync import Diff, Key, compare, distinct
from aggregator.flow.base import House, Workers, log
from aggregator.flow.readings import take_reading
from aggregator.providers.contract import CataloguePage, Failure, FailureKind
from aggregator.providers.gateway import Gateway
from aggregator.providers.limits import Priority
from aggregator.storage import catalogue, ledger, outbox
from aggregator.storage.database import Connection, RowMapping

PAGE_ROWS: Final = 500
MAX_PAGES: Final = 400
RETRY_S: Final = 30.0
"""A failed sync is tried again this soon, or after the usual interval when that is shorter."""
MAX_TYPE: Final = 100
MAX_COUNTRY: Final = 32
MAX_CURRENCY: Final = 8
"""What the columns hold; PostgreSQL would refuse the whole catalogue for one longer word."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A provider's whole catalogue. What numbers it rents may be unknown while its services are known."""

    services: Sequence[CatalogueRow]
    numbers: Sequence[CatalogueRow] | Failure = ()


class CatalogueSync:
    name = "catalogue_sync"

    def __init__(self, house: House, *, synced: Callable[[str], None] = lambda _: None) -> None:
        self._house = house
        self._synced = synced
        self._workers = {name: Workers(f"catalogue_sync:{name}", 2) for name in house.gateways}
        self._busy: set[tuple[str, str]] = set()
        self._not_before: dict[tuple[str, str], datetime] = {}
        self._doors = {name: asyncio.Lock() for name in house.gateways}

    async def run_once(self) -> int:
        now = self._house.clock.now()
        begun = 0
        for column, work in (("next_catalogue_at", self._sync), ("next_balance_at", self._balance)):
            # What ends while the database is read looks due in what was read, and is not.
            busy = set(self._busy)
            due = await self._house.database.read(partial(catalogue.due, column=column, now=now))
            for provider in due:
                gateway = self._house.gateways.get(provider)
                key = (column, provider)
                if gateway is None or not gateway.settings.enabled or key in busy | self._busy:
                    continue
                if key in self._not_before and now < self._not_before[key]:
                    continue
                self._busy.add(key)
                self._workers[provider].start(self._once(key, work, gateway))
                begun += 1
        return begun

    async def _once(
        self, key: tuple[str, str], work: Callable[[Gateway], Coroutine[Any, Any, None]], gateway: Gateway
    ) -> None:
        try:
            await work(gateway)
        except Exception:
            # Nothing was recorded, not even when to try again: the provider must not be asked at every tick for that.
            self._not_before[key] = self._house.clock.now() + timedelta(seconds=RETRY_S)
            raise
        finally:
            self._busy.discard(key)

    async def idle(self) -> None:
        await asyncio.gather(*(workers.idle() for workers in self._workers.values()))

    async def stop(self, grace_s: float) -> None:
        await asyncio.gather(*(workers.stop(0) for workers in self._workers.values()))

    # --- catalogue ---

    async def _sync(self, gateway: Gateway) -> None:
        try:
            await self.sync(gateway)
        finally:
            self._synced(gateway.name)

    async def sync(self, gateway: Gateway) -> str | None:
        """Fetch and store one provider's catalogue; why it, or a part of it, was not believed, or None."""
        # Two at once would both insert what is new.
        async with self._doors[gateway.name]:
            fetched = await self._fetch(gateway)
            await self._house.health.note(gateway.name, fetched)
            diff = await self._house.database.write(lambda c: self._record(c, gateway, fetched))
        say = log.info if diff.refused is None else log.warning
        say(
            "catalogue_synced" if diff.refused is None else "catalogue_refused",
            provider=gateway.name,
            added=len(diff.added),
            changed=len(diff.changed),
            missing=len(diff.missing),
            reason=diff.refused,
        )
        self._house.wakeups.wake("sequencing", "intake")
        return diff.refused

    async def _fetch(self, gateway: Gateway) -> Fetched | Failure:
        services = await self._services(gateway)
        if isinstance(services, Failure):
            return services
        if not gateway.capabilities.sms:
            return Fetched(services)
        async with gateway.turn(Priority.CATALOGUE):
            projects = await gateway.sms_projects()
        if isinstance(projects, CataloguePage):
            return Fetched(services, projects.rows)
        return Fetched(services, () if projects.kind is FailureKind.UNSUPPORTED else projects)

    async def _services(self, gateway: Gateway) -> list[CatalogueRow] | Failure:
        """Every page; a page that fails makes the whole catalogue unknown, because half of one is worse than none."""
        rows: list[CatalogueRow] = []
        seen: set[str] = set()
        page, pages = 1, 1
        limit = PAGE_ROWS if gateway.capabilities.paged_catalogue else 0
        while page <= pages:
            if page > MAX_PAGES:
                return Failure(FailureKind.UNREADABLE, f"the catalogue has more than {MAX_PAGES} pages")
            async with gateway.turn(Priority.CATALOGUE):
                answer = await gateway.services(page, limit)
            if isinstance(answer, Failure):
                return answer
            if not answer.rows and page < answer.pages:
                return Failure(FailureKind.UNREADABLE, f"page {page} of {answer.pages} of the catalogue is empty")
            fresh = {row.service for row in answer.rows} - seen
            if not fresh:
                break  # the end, or a provider that answers the same page whatever it is asked for
            seen |= fresh
            rows.extend(answer.rows)
            pages, page = max(pages, answer.pages), page + 1
        return rows

    def _record(self, connection: Connection, gateway: Gateway, fetched: Fetched | Failure) -> Diff:
        """Write what is believed, and when to look again."""
        now = self._house.clock.now()
        if isinstance(fetched, Failure):
            services, numbers = Diff(refused=f"{fetched.kind}: {fetched.text}"), Diff()
        else:
            services, numbers = self._store(connection, gateway, fetched)
        diff = services + numbers
        wait_s = float(gateway.settings.catalogue_every_s)
        values: dict[str, object] = {"catalogue_error": diff.refused}
        if services.refused is None:
            values |= {"catalogue_at": now, "catalogue_rows": catalogue.sizes(connection).get(gateway.name, 0)}
        else:
            wait_s = min(RETRY_S, wait_s)
        values["next_catalogue_at"] = now + timedelta(seconds=wait_s)
        catalogue.set_health(connection, gateway.name, now, **values)
        return diff

    def _store(self, connection: Connection, gateway: Gateway, fetched: Fetched) -> tuple[Diff, Diff]:
        """What became of the services and of the numbers: two answers, each believed or refused for itself."""
        now = self._house.clock.now()
        ledger.lock(connection, gateway.name)  # before the rows, as whoever learns from charges does
        stored = catalogue.stored_rows(connection, gateway.name)
        services, numbers = self._diffs(stored, fetched)
        diff = services + numbers
        currency = gateway.settings.currency
        catalogue.insert_rows(connection, gateway.name, diff.added, currency, now)
        for change in diff.changed:
            row_id = stored[change.after.service, change.after.country]["id"]
            values = {**catalogue.columns(change.after, currency), "seen_at": now, "missing": 0}
            if change.after.has_stock:
                values["stock_at"] = now
            if change.price_changed:
                values |= {"charges": None, "charged_rate_units": None}  # they were of another price
            catalogue.update_row(connection, row_id, now, values, priced=change.priced)
        catalogue.mark_seen(connection, [stored[key]["id"] for key in diff.same], now)
        catalogue.mark_missing(connection, [stored[key]["id"] for key in diff.missing])
        self._tell(connection, gateway, diff, stored)
        return services, numbers

    @staticmethod
    def _diffs(stored: Mapping[Key, RowMapping], fetched: Fetched) -> tuple[Diff, Diff]:
        gone = {key for key, row in stored.items() if row["missing"] >= catalogue.GONE_AFTER}
        before = {key: catalogue.row_from(row, gone=False) for key, row in stored.items()}
        old_numbers = {key: row for key, row in before.items() if row.kind == "sms"}
        old_services = {key: row for key, row in before.items() if row.kind != "sms"}
        # Of a service and a project that share id and country, one row can be kept: the one that was there.
        fresh = {key: row for key, row in distinct(map(_fitted, fetched.services)).items() if key not in old_numbers}
        if isinstance(fetched.numbers, Failure):
            numbers = Diff(refused=f"numbers: {fetched.numbers.kind}: {fetched.numbers.text}")
        else:
            rented = distinct(map(_fitted, fetched.numbers))
            rented = {key: row for key, row in rented.items() if key not in fresh and key not in old_services}
            numbers = compare(old_numbers, rented, gone) if rented or old_numbers.keys() - gone else Diff()
            if numbers.refused is not None:
                numbers = Diff(refused=f"numbers: {numbers.refused}")
        only_numbers = not fresh and not old_services.keys() - gone and bool(numbers.added or numbers.same)
        return Diff() if only_numbers else compare(old_services, fresh, gone), numbers

    def _tell(
        self, connection: Connection, gateway: Gateway, diff: Diff, stored: Mapping[tuple[str, str], RowMapping]
    ) -> None:
        """Events for what matters to the operator: the services that some offer of ours sells."""
        now = self._house.clock.now()
        ours = _Ours(self._house, gateway.name)
        drafts: list[Draft] = []
        for change in diff.changed:
            row = change.after
            if (row.service, row.country) not in ours:
                continue
            about: dict[str, object] = {"provider": gateway.name, "service": row.service, "country": row.country}
            if change.price_changed:
                prices = {
                    "before": change.before.rate.as_json() if change.before.rate else None,
                    "after": row.rate.as_json() if row.rate else None,
                }
                drafts.append(Draft("catalogue.price_changed", {**about, **prices}))
            if change.sold_out:
                drafts.append(Draft("catalogue.out_of_stock", about))
            if row.problem and not change.before.problem:
                drafts.append(Draft("catalogue.quarantined", {**about, "reason": row.problem}))
        for row in diff.added:
            if (row.service, row.country) in ours and row.problem:
                about = {"provider": gateway.name, "service": row.service, "country": row.country}
                drafts.append(Draft("catalogue.quarantined", {**about, "reason": row.problem}))
        for service, country in diff.missing:
            if (service, country) in ours and stored[service, country]["missing"] + 1 == catalogue.GONE_AFTER:
                about = {"provider": gateway.name, "service": service, "country": country}
                drafts.append(Draft("catalogue.removed", about))
        for draft in drafts:
            outbox.append_general(connection, draft, now)

    # --- balance ---

    async def _balance(self, gateway: Gateway) -> None:
        await take_reading(self._house, gateway, Priority.CATALOGUE)


class _Ours:
    """What our offers buy from one provider, as keys of its catalogue; a project without a country is all of them."""

    def __init__(self, house: House, provider: str) -> None:
        self._keys = {
            (offer.target, offer.country.casefold() if offer.country else None)
            for service in house.settings.services.values()
            for offer in service.offers
            if offer.provider == provider
        }

    def __contains__(self, key: Key) -> bool:
        service, country = key
        return (service, None) in self._keys or (service, country.casefold()) in self._keys


def _fitted(row: CatalogueRow) -> CatalogueRow:
    """The row as the database can hold it; what had to be cut or dropped is a problem of the row."""
    cut = replace(
        row,
        type=row.type[:MAX_TYPE],
        country=row.country[:MAX_COUNTRY],
        rate=row.rate if row.rate is None or row.rate.units >= 0 else None,
    )
    if cut == row or row.problem is not None:
        return cut
    return replace(cut, problem="its type, country or price is none that can be stored")
