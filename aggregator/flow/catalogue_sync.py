"""Providers' catalogues, stock and balances are kept fresh, and absurd changes are not believed.

An error, an empty answer or half a catalogue disables nothing that was there. Never decides which offer wins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Final

from aggregator.domain.catalogue import CatalogueRow
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.events import Draft
from aggregator.domain.money import Money
from aggregator.domain.sizes import MAX_COUNTRY, MAX_TYPE
from aggregator.domain.sync import BELIEVED_AFTER, Believed, Change, Diff, Key, compare, distinct
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
_FORGET_CHARGES: Final[Mapping[str, object]] = {"charges": None, "charged_rate_units": None}
"""What a believed change of the price does to what charges taught: they were of another price."""
_FORGET_ALL: Final[Mapping[str, object]] = {**_FORGET_CHARGES, "learned_per": None}
"""The same where it became another thing, or costs so much else that its unit is in doubt again."""


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
        page, pages, nameless = 1, 1, 0
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
            nameless += answer.unreadable
            fresh = {row.service for row in answer.rows} - seen
            if not fresh:
                break  # the end, or a provider that answers the same page whatever it is asked for
            seen |= fresh
            rows.extend(answer.rows)
            pages, page = max(pages, answer.pages), page + 1
        if nameless:
            log.warning("catalogue_rows_without_id", provider=gateway.name, rows=nameless)
        return rows

    def _record(self, connection: Connection, gateway: Gateway, fetched: Fetched | Failure) -> Diff:
        """Write what is believed, and when to look again."""
        now = self._house.clock.now()
        before = catalogue.health(connection)[gateway.name]
        shrunk = (int(before["services_shrunk"]), int(before["numbers_shrunk"]))
        if isinstance(fetched, Failure):
            services, numbers = Diff(refused=_told(fetched)), Diff()
        else:
            services, numbers = self._store(connection, gateway, fetched, shrunk)
            shrunk = (_counted(shrunk[0], services), _counted(shrunk[1], numbers))
            services, numbers = _with_remedy(services, gateway, shrunk[0]), _with_remedy(numbers, gateway, shrunk[1])
        diff = services + numbers
        wait_s = float(gateway.settings.catalogue_every_s)
        values: dict[str, object] = {
            "catalogue_error": diff.refused,
            "services_shrunk": shrunk[0],
            "numbers_shrunk": shrunk[1],
        }
        if services.refused is None:
            values |= {"catalogue_at": now, "catalogue_rows": catalogue.sizes(connection).get(gateway.name, 0)}
        elif not services.shrunk or shrunk[0] <= 1:
            wait_s = min(RETRY_S, wait_s)  # one that stays small is given as much time as any other to grow again
        values["next_catalogue_at"] = now + timedelta(seconds=wait_s)
        catalogue.set_health(connection, gateway.name, now, **values)
        return diff

    def _store(
        self, connection: Connection, gateway: Gateway, fetched: Fetched, shrunk: tuple[int, int]
    ) -> tuple[Diff, Diff]:
        """What became of the services and of the numbers: two answers, each believed or refused for itself.

        `shrunk`: how many syncs in a row have shown less than half of the services, and of the numbers.
        """
        now = self._house.clock.now()
        ledger.lock(connection, gateway.name)  # before the rows, as whoever learns from charges does
        stored = catalogue.stored_rows(connection, gateway.name)
        services, numbers = self._diffs(connection, gateway, stored, fetched, shrunk)
        diff = services + numbers
        currency = gateway.settings.currency
        catalogue.insert_rows(connection, gateway.name, diff.added, currency, now)
        for change in diff.changed:
            row_id = stored[change.after.service, change.after.country]["id"]
            values = {
                **catalogue.columns(change.after, currency),
                "accepted": change.accepted.as_json() if change.accepted is not None else None,
                "doubts": change.doubts,
                "seen_at": now,
                "missing": 0,
            }
            if change.after.has_stock:
                values["stock_at"] = now
            if change.price_changed:
                values |= _FORGET_CHARGES
            if change.released and change.was != Believed.of(change.after):
                values |= _FORGET_ALL
            catalogue.update_row(connection, row_id, now, values, priced=change.priced)
        catalogue.mark_seen(connection, [stored[key]["id"] for key in diff.same], now)
        catalogue.mark_missing(connection, [stored[key]["id"] for key in diff.missing])
        self._tell(connection, gateway, diff, stored)
        return services, numbers

    def _diffs(
        self,
        connection: Connection,
        gateway: Gateway,
        stored: Mapping[Key, RowMapping],
        fetched: Fetched,
        shrunk: tuple[int, int],
    ) -> tuple[Diff, Diff]:
        gone = {key for key, row in stored.items() if row["missing"] >= catalogue.GONE_AFTER}
        before = {key: catalogue.row_from(row, gone=False) for key, row in stored.items()}
        told = catalogue.told_stock(connection, gateway.name)
        settings = self._house.settings
        judge = partial(
            compare,
            gone=gone,
            doubted=catalogue.doubted(stored),
            told={key: told[row["id"]] for key, row in stored.items() if row["id"] in told},
            values={**settings.exchange_rates, settings.currency: Decimal(1)},
        )
        seen_often = [count + 1 >= BELIEVED_AFTER for count in shrunk]
        old_numbers = {key: row for key, row in before.items() if row.kind == "sms"}
        old_services = {key: row for key, row in before.items() if row.kind != "sms"}
        # Of a service and a project that share id and country, one row can be kept: the one that was there.
        fresh = {key: row for key, row in distinct(map(_fitted, fetched.services)).items() if key not in old_numbers}
        if isinstance(fetched.numbers, Failure):
            numbers = Diff(refused=f"numbers: {_told(fetched.numbers)}")
        else:
            rented = distinct(map(_fitted, fetched.numbers))
            rented = {key: row for key, row in rented.items() if key not in fresh and key not in old_services}
            known = rented or old_numbers.keys() - gone
            numbers = judge(old_numbers, rented, believe_shrink=seen_often[1]) if known else Diff()
            if numbers.refused is not None:
                numbers = replace(numbers, refused=f"numbers: {numbers.refused}")
        only_numbers = not fresh and not old_services.keys() - gone and bool(numbers.added or numbers.same)
        return Diff() if only_numbers else judge(old_services, fresh, believe_shrink=seen_often[0]), numbers

    def _tell(
        self, connection: Connection, gateway: Gateway, diff: Diff, stored: Mapping[tuple[str, str], RowMapping]
    ) -> None:
        """Events for what matters to the operator: the services that some offer of ours sells."""
        now = self._house.clock.now()
        ours = _Ours(self._house, gateway.name)
        drafts: list[Draft] = []
        others = 0
        for change in diff.changed:
            row = change.after
            if (row.service, row.country) not in ours:
                others += change.quarantined
                continue
            about: dict[str, object] = {"provider": gateway.name, "service": row.service, "country": row.country}
            if change.price_changed:
                drafts.append(_price_changed(about, change.was.rate if change.was is not None else None, row.rate))
            if change.sold_out:
                drafts.append(Draft("catalogue.out_of_stock", about))
            if change.quarantined:
                drafts.append(_quarantined(about, row, change.was))
            _say_doubt(gateway.name, change)
        for row in diff.added:
            if not row.problem:
                continue
            if (row.service, row.country) in ours:
                about = {"provider": gateway.name, "service": row.service, "country": row.country}
                drafts.append(_quarantined(about, row, None))
                log.warning("catalogue_row_quarantined", **about, reason=row.problem)
            else:
                others += 1
        if others:
            log.info("catalogue_rows_quarantined", provider=gateway.name, rows=others, ours=False)
        for service, country in diff.missing:
            if (service, country) in ours and stored[service, country]["missing"] + 1 == catalogue.GONE_AFTER:
                about = {"provider": gateway.name, "service": service, "country": country}
                drafts.append(Draft("catalogue.removed", about))
        for draft in drafts:
            outbox.append_general(connection, draft, now)

    # --- balance ---

    async def _balance(self, gateway: Gateway) -> None:
        await take_reading(self._house, gateway, Priority.CATALOGUE)


def release_rows(connection: Connection, house: House, provider: str, service: str, country: str | None) -> list[int]:
    """Believe what a service in quarantine says now; without a country in all its countries. The ids of those rows.

    Problem 404 for a service that the catalogue does not have, 409 for one that there is nothing to believe of.
    """
    now = house.clock.now()
    ledger.lock(connection, provider)  # before the rows, as everywhere
    rows = catalogue.rows_of(connection, provider, service, country, lock=True)
    where = f"the catalogue of {provider}"
    if not rows:
        raise Problem(
            ProblemKind.NOT_FOUND, f"{where} has no such service; GET /v1/providers/{provider}/services lists it"
        )
    held = [row for row in rows if row["problem"] is not None]
    if not held:
        raise Problem(ProblemKind.CONFLICT, "the service is not in quarantine")
    fit = [row for row in held if row["doubts"]]
    if not fit:
        detail = f"nobody could buy it: {held[0]['problem']}; it comes back by itself when {where} is mended"
        raise Problem(ProblemKind.CONFLICT, detail)
    ours = _Ours(house, provider)
    for row in fit:
        typed, was = catalogue.row_from(row, gone=False), catalogue.believed(row)
        values: dict[str, object] = {"problem": None, "accepted": None, "doubts": 0}
        about: dict[str, object] = {"provider": provider, "service": row["service"], "country": row["country"]}
        before = was.rate if was is not None else None
        if was != Believed.of(typed):
            values |= _FORGET_ALL
        if before != typed.rate and (row["service"], row["country"]) in ours:
            outbox.append_general(connection, _price_changed(about, before, typed.rate), now)
        catalogue.update_row(connection, row["id"], now, values, priced=False)
        log.info("catalogue_row_released", **about, cause="operator", reason=row["problem"])
    return [row["id"] for row in fit]


def release_catalogue(connection: Connection, house: House, provider: str) -> None:
    """Believe the next catalogue of this provider although it is less than half of what was known, and ask for it now.

    Problem 409 when none such was seen.
    """
    now = house.clock.now()
    row = catalogue.health(connection).get(provider)
    doubted = [name for name in ("services_shrunk", "numbers_shrunk") if row is not None and row[name]]
    if row is None or not doubted:
        raise Problem(ProblemKind.CONFLICT, "the newest catalogue is not in doubt: it has not shrunk below half")
    values: dict[str, object] = dict.fromkeys(doubted, BELIEVED_AFTER)
    catalogue.set_health(connection, provider, now, **values, next_catalogue_at=now)
    log.info("catalogue_released", provider=provider, cause="operator", reason=row["catalogue_error"])


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


def _counted(before: int, diff: Diff) -> int:
    """How many syncs in a row have shown a shrunken catalogue. A failure and an empty answer show nothing."""
    if diff.shrunk:
        return before + 1
    return before if diff.refused is not None else 0


def _with_remedy(diff: Diff, gateway: Gateway, seen: int) -> Diff:
    if diff.refused is None or not diff.shrunk:
        return diff
    call = f"POST /v1/providers/{gateway.name}/release"
    remedy = (
        f'{seen} of the {BELIEVED_AFTER} syncs in a row that are wanted; {call} with {{"catalogue": true}} does at once'
    )
    return replace(diff, refused=f"{diff.refused} ({remedy})")


def _price_changed(about: Mapping[str, object], before: Money | None, after: Money | None) -> Draft:
    prices = {
        "before": before.as_json() if before is not None else None,
        "after": after.as_json() if after is not None else None,
    }
    return Draft("catalogue.price_changed", {**about, **prices})


def _quarantined(about: Mapping[str, object], row: CatalogueRow, was: Believed | None) -> Draft:
    shown = {
        "reason": row.problem,
        "before": was.as_json() if was is not None else None,
        "after": Believed.of(row).as_json(),
    }
    return Draft("catalogue.quarantined", {**about, **shown})


def _say_doubt(provider: str, change: Change) -> None:
    """A line for each row of ours that goes into quarantine, is doubted for another reason, or comes out again."""
    about = {"provider": provider, "service": change.after.service, "country": change.after.country}
    if change.released:
        returned = change.was is not None and not change.price_changed
        cause = "as it was" if returned else "seen often" if change.was is not None else "mended"
        log.info("catalogue_row_released", **about, cause=cause, reason=change.before.problem)
    elif change.after.problem is not None and change.after.problem != change.before.problem:
        log.warning("catalogue_row_quarantined", **about, reason=change.after.problem)


def _told(failure: Failure) -> str:
    """What the operator reads: the words that advise him, else the bare text with its kind."""
    return failure.text if failure.cause is not None and failure.text else f"{failure.kind}: {failure.text}"


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
