"""Providers' catalogues, stock and balances are kept fresh, and absurd changes are not believed.

An error, an empty answer or half a catalogue disables nothing that was there. Of a catalogue of which a part could not
be had, what came is taken over and nothing counts as removed. Never decides which offer wins.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
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
from aggregator.flow.base import Crews, House, log
from aggregator.flow.readings import take_reading
from aggregator.providers.contract import CataloguePage, Failure, FailureKind
from aggregator.providers.gateway import Gateway
from aggregator.providers.limits import Priority
from aggregator.storage import catalogue, ledger, outbox
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection, RowMapping

PAGE_ROWS: Final = 500
MAX_PAGES: Final = 400
BARREN_PAGES: Final = 3
"""Pages in a row that repeat what is known: after so many the provider is taken to ignore the page."""
ASKED_WAIT_S: Final = 10.0
"""How long a sync that somebody asked for waits for a turn to call; it is made later then."""
_SHOWN: Final = 3
"""Rows of ours that contradict each other, as many as the catalogue's error names."""
RETRY_S: Final = 30.0
"""A failed sync is tried again this soon, or after the usual interval when that is shorter."""
FIRST_RETRY_S: Final = 2.0
"""So soon while a part is missing and something that we sell was never seen: orders wait for it. Doubled every time."""
_MOST_DOUBLED: Final = 16
_FORGET_CHARGES: Final[Mapping[str, object]] = {"charges": None, "charged_rate_units": None}
"""What a believed change of the price does to what charges taught: they were of another price."""
_FORGET_ALL: Final[Mapping[str, object]] = {**_FORGET_CHARGES, "learned_per": None}
"""The same where it became another thing, or costs so much else that its unit is in doubt again."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Rows of a catalogue, and why they are known not to be all."""

    rows: Sequence[CatalogueRow] = ()
    incomplete: str | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """A provider's catalogue. What numbers it rents may be unknown while its services are known."""

    services: Listing
    numbers: Listing | Failure = Listing()


class _NoTurn(Exception):
    """No call could begin for too long; the text says why."""


class CatalogueSync:
    name = "catalogue_sync"

    def __init__(self, house: House, *, synced: Callable[[str], None] = lambda _: None) -> None:
        self._house = house
        self._synced = synced
        self._crews = Crews(house, self.name, lambda gateway: 2 if gateway.settings.enabled else 0)
        self._busy: set[tuple[str, str]] = set()
        self._not_before: dict[tuple[str, str], datetime] = {}
        self._doors: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._lacking: Counter[str] = Counter()
        """Syncs in a row that did not bring a provider's whole catalogue."""

    async def run_once(self) -> int:
        now = self._house.clock.now()
        begun = 0
        for column, work in (("next_catalogue_at", self._sync), ("next_balance_at", self._balance)):
            # What ends while the database is read looks due in what was read, and is not.
            busy = set(self._busy)
            due = await self._house.database.read(partial(catalogue.due, column=column, now=now))
            for provider in due:
                crew, key = self._crews.at(provider), (column, provider)
                if crew is None or key in busy | self._busy:
                    continue
                if key in self._not_before and now < self._not_before[key]:
                    continue
                self._busy.add(key)
                gateway, workers = crew
                workers.start(self._once(key, work, gateway))
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
        await self._crews.idle()

    async def stop(self, grace_s: float) -> None:
        await self._crews.stop(0)

    # --- catalogue ---

    async def _sync(self, gateway: Gateway) -> None:
        try:
            await self.sync(gateway, wait_s=None)
        finally:
            self._synced(gateway.name)

    async def sync(self, gateway: Gateway, *, wait_s: float | None = ASKED_WAIT_S) -> str | None:
        """Fetch and store one provider's catalogue; why it, or a part of it, was not believed, or None.

        `wait_s` bounds each wait for a turn; where it passes, nothing is learned of the provider, and the sync is due.
        """
        try:
            async with self._door(gateway, wait_s):
                fetched = await self._fetch(gateway, wait_s)
                await self._house.health.note(gateway.name, fetched)
                diff = await self._house.database.write(lambda c: self._record(c, gateway, fetched))
        except _NoTurn as late:
            now = self._house.clock.now()
            await self._house.database.write(
                lambda c: catalogue.set_health(c, gateway.name, now, next_catalogue_at=now)
            )
            self._house.wakeups.wake(self.name)
            return str(late)
        complaint = diff.complaint
        self._lacking[gateway.name] = 0 if complaint is None else self._lacking[gateway.name] + 1
        say = log.info if complaint is None else log.warning
        say(
            "catalogue_synced" if diff.refused is None else "catalogue_refused",
            provider=gateway.name,
            added=len(diff.added),
            changed=len(diff.changed),
            missing=len(diff.missing),
            reason=complaint,
        )
        self._house.wakeups.wake("sequencing", "intake", "routing")
        return complaint

    @asynccontextmanager
    async def _door(self, gateway: Gateway, wait_s: float | None) -> AsyncIterator[None]:
        """One sync of a provider at a time: two at once would both insert what is new."""
        door = self._doors[gateway.name]
        try:
            async with asyncio.timeout(wait_s):
                await door.acquire()
        except TimeoutError:
            raise _NoTurn("another sync of this provider is still running") from None
        try:
            yield
        finally:
            door.release()

    @asynccontextmanager
    async def _turn(self, gateway: Gateway, wait_s: float | None) -> AsyncIterator[None]:
        """A turn to call; the call inside may take as long as any."""
        if wait_s is not None and gateway.quiet_s > wait_s:
            raise _NoTurn(f"the provider wants no call for {gateway.quiet_s:.0f} s; it is synced after that")
        try:
            async with asyncio.timeout(wait_s) as patience, gateway.turn(Priority.CATALOGUE):
                patience.reschedule(None)
                yield
        except TimeoutError:
            if not patience.expired():
                raise
            late = f"other calls left no turn for it in {wait_s or 0:.0f} s; it is synced as soon as there is one"
            raise _NoTurn(late) from None

    async def _fetch(self, gateway: Gateway, wait_s: float | None) -> Fetched | Failure:
        services = await self._services(gateway, wait_s)
        if isinstance(services, Failure):
            return services
        if not gateway.capabilities.sms:
            return Fetched(services)
        async with self._turn(gateway, wait_s):
            projects = await gateway.sms_projects()
        if isinstance(projects, CataloguePage):
            rows, unreadable = projects.rows, projects.unreadable
            return Fetched(services, Listing(rows, _unread(unreadable, len(rows) + unreadable)))
        return Fetched(services, Listing() if projects.kind is FailureKind.UNSUPPORTED else projects)

    async def _services(self, gateway: Gateway, wait_s: float | None) -> Listing | Failure:
        """Every page. One that fails makes the whole catalogue unknown where pages are documented; elsewhere asking for
        one was a guess, and the catalogue is not complete."""
        rows: list[CatalogueRow] = []
        seen: set[str] = set()
        paged = gateway.capabilities.paged_catalogue
        page, pages, total, counted, unreadable, barren, repeats = 0, 1, 0, 0, 0, 0, 0
        gap: str | None = None
        while barren < BARREN_PAGES and (page < pages or 0 < counted < total):
            page += 1
            if page > MAX_PAGES:
                return Failure(FailureKind.UNREADABLE, f"the catalogue has more than {MAX_PAGES} pages")
            async with self._turn(gateway, wait_s):
                answer = await gateway.services(page, PAGE_ROWS if paged else 0)
            if isinstance(answer, Failure):
                if paged or page == 1:
                    return answer
                gap = f"page {page} of it cannot be had: {_told(answer)}"
                break
            pages, total = max(pages, answer.pages), max(total, answer.total or 0)
            fresh = [row for row in answer.rows if row.service not in seen]
            if not fresh and 0 < total <= counted:
                break  # all is there, however many pages it claims
            if not answer.rows and not answer.unreadable:
                if page < pages and (paged or page == 1):
                    return Failure(FailureKind.UNREADABLE, f"page {page} of {pages} of the catalogue is empty")
                gap = f"page {page} of {pages} is empty" if page < pages else None
                break
            if not fresh and page > 1:  # a page again, or a provider that gives the same one whatever it is asked for
                barren, repeats = barren + 1, repeats + 1
                if page >= pages:
                    break
                continue
            barren = 0
            # A row twice in one answer is in the provider's total twice; on two pages it may stand in another's place.
            counted += len(fresh) + answer.unreadable
            unreadable += answer.unreadable
            seen.update(row.service for row in fresh)
            rows.extend(answer.rows)
        if gap is None and counted < total:
            gap = f"it has {total} rows by its own word and showed {counted}"
        elif gap is None and repeats and not total:
            gap = f"it has {pages} pages by its own word, and not all of them showed something new"
        return Listing(rows, _joined(gap, _unread(unreadable, counted)))

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
        remark = self._contradictions(gateway, diff.contradicted)
        wait_s = float(gateway.settings.catalogue_every_s)
        values: dict[str, object] = {
            "catalogue_error": _joined(diff.complaint, remark),
            "services_shrunk": shrunk[0],
            "numbers_shrunk": shrunk[1],
        }
        if services.refused is None:
            values |= {"catalogue_at": now, "catalogue_rows": catalogue.sizes(connection).get(gateway.name, 0)}
        elif not services.shrunk or shrunk[0] <= 1:
            wait_s = min(RETRY_S, wait_s)  # one that stays small is given as much time as any other to grow again
        if diff.complaint is not None and self._sells_unknown(connection, gateway):
            wait_s = min(wait_s, FIRST_RETRY_S * 2 ** min(self._lacking[gateway.name], _MOST_DOUBLED))
        values["next_catalogue_at"] = now + timedelta(seconds=wait_s)
        catalogue.set_health(connection, gateway.name, now, **values)
        if self._may_be_bought(gateway, diff):
            order_store.look_again(connection, now)
        return diff

    def _may_be_bought(self, gateway: Gateway, diff: Diff) -> bool:
        """Whether something that we sell came, or became something that an order may have waited for."""
        ours = _Ours(self._house, gateway.name)
        news = (*diff.added, *(change.after for change in diff.changed if not change.sold_out))
        return any(row.problem is None and (row.service, row.country) in ours for row in news)

    def _sells_unknown(self, connection: Connection, gateway: Gateway) -> bool:
        """Whether an offer of ours is of something that this provider has never shown."""
        ours = _Ours(self._house, gateway.name)
        found = catalogue.offer_rows(connection, [(gateway.name, service) for service in ours.services])
        return not ours.all_among((row.service, row.country) for rows in found.values() for row, _ in rows)

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
        doubted, values = catalogue.doubted(stored), {**settings.exchange_rates, settings.currency: Decimal(1)}
        one_each = partial(distinct, stored=before, doubted=doubted, values=values)
        judge = partial(
            compare,
            gone=gone,
            doubted=doubted,
            told={key: told[row["id"]] for key, row in stored.items() if row["id"] in told},
            values=values,
        )
        seen_often = [count + 1 >= BELIEVED_AFTER for count in shrunk]
        old_numbers = {key: row for key, row in before.items() if row.kind == "sms"}
        old_services = {key: row for key, row in before.items() if row.kind != "sms"}
        # Of a service and a project that share id and country, one row can be kept: the one that was there.
        listed, gap = one_each(map(_fitted, fetched.services.rows)), fetched.services.incomplete
        fresh = {key: row for key, row in listed.items() if key not in old_numbers}
        if isinstance(fetched.numbers, Failure):
            numbers = Diff(refused=f"numbers: {_told(fetched.numbers)}")
        else:
            rented = one_each(map(_fitted, fetched.numbers.rows))
            rented = {key: row for key, row in rented.items() if key not in fresh and key not in old_services}
            known = rented or old_numbers.keys() - gone
            unlisted = f"numbers: {fetched.numbers.incomplete}" if fetched.numbers.incomplete is not None else None
            numbers = Diff(incomplete=unlisted)
            if known:
                numbers = judge(old_numbers, rented, believe_shrink=seen_often[1], incomplete=unlisted)
            if numbers.refused is not None:
                numbers = replace(numbers, refused=f"numbers: {numbers.refused}")
        only_numbers = not fresh and not old_services.keys() - gone and bool(numbers.added or numbers.same)
        if only_numbers:
            return Diff(incomplete=gap), numbers
        return judge(old_services, fresh, believe_shrink=seen_often[0], incomplete=gap), numbers

    def _contradictions(self, gateway: Gateway, rows: Sequence[CatalogueRow]) -> str | None:
        """What the operator should know of services of ours that the catalogue states in several ways at once."""
        ours = _Ours(self._house, gateway.name)
        found = [row for row in rows if row.problem is None and (row.service, row.country) in ours]
        if not found:
            return None
        told = [
            f"service {row.service} is also stated as {row.rivals}, which is not believed" for row in found[:_SHOWN]
        ]
        more = [f"{len(found) - _SHOWN} more are stated several times"] if len(found) > _SHOWN else []
        return "; ".join((*told, *more))

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

    @property
    def services(self) -> list[str]:
        return sorted({service for service, _ in self._keys})

    def all_among(self, known: Iterable[Key]) -> bool:
        shown = {key for service, country in known for key in ((service, country.casefold()), (service, None))}
        return self._keys <= shown


def _counted(before: int, diff: Diff) -> int:
    """How many syncs in a row have shown a shrunken catalogue. A failure, an empty answer and an incomplete one show
    nothing."""
    if diff.shrunk:
        return before + 1
    return before if diff.complaint is not None else 0


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


def _unread(unreadable: int, rows: int) -> str | None:
    if not unreadable:
        return None
    return f"{unreadable} of its {rows} rows could not be read, so none counts as removed"


def _joined(*reasons: str | None) -> str | None:
    return "; ".join(reason for reason in reasons if reason is not None) or None


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
