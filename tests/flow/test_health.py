"""Who counts as down: kept over restarts, told once each way, and seen by routing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Connection, select

from aggregator.domain.breaker import FAILURES_TO_OPEN, FIRST_PAUSE, LONGEST_PAUSE
from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import StorageUnavailable
from aggregator.domain.money import Money
from aggregator.domain.routing import ProviderView
from aggregator.flow.base import House
from aggregator.flow.health import Condition, Health, Standing
from aggregator.flow.views import LONG_QUIET_S, load_world, provider_view
from aggregator.outbound import Outbound
from aggregator.providers.contract import Failure, FailureKind, StatusBatch
from aggregator.storage import catalogue
from aggregator.storage.database import Database
from aggregator.storage.tables import events
from tests.support import rows
from tests.support.house import make_house

ACCOUNT = {"dialect": "panel_v2", "url": "https://panel.test/api/v2", "api_key": "k-panel-0001"}
CONFIG = {"providers": {"smmplus": ACCOUNT, "other": {**ACCOUNT, "enabled": False}}}
LOST = Failure(FailureKind.LOST, "timeout")


@pytest_asyncio.fixture
async def house(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[House]:
    async with Outbound() as outbound:
        house = make_house(database, clock, tmp_path, json.dumps(CONFIG), outbound=outbound)
        await database.write(lambda c: catalogue.ensure_providers(c, ["smmplus", "other"], clock.now()))
        yield house


@pytest.fixture
def health(house: House) -> Health:
    return house.health


async def told(database: Database) -> list[tuple[str, dict[str, Any]]]:
    def read(connection: Connection) -> list[tuple[str, dict[str, Any]]]:
        found = connection.execute(select(events.c.type, events.c.body).order_by(events.c.seq))
        return [(row[0], json.loads(row[1])["data"]) for row in found]

    return await database.read(read)


async def goes_down(health: Health, provider: str = "smmplus") -> None:
    for _ in range(FAILURES_TO_OPEN):
        await health.note(provider, LOST)


# --- what counts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FailureKind.LOST, FailureKind.NOT_SENT, FailureKind.UNREADABLE])
async def test_consecutive_failures_bring_a_provider_down(health: Health, kind: FailureKind) -> None:
    for _ in range(FAILURES_TO_OPEN - 1):
        await health.note("smmplus", Failure(kind, "why"))
    assert health.down_reason("smmplus") is None
    await health.note("smmplus", Failure(kind, "why"))
    assert health.down_reason("smmplus") == "why"
    assert health.down_reason("other") is None


async def test_a_wrong_key_brings_it_down_at_once(health: Health) -> None:
    await health.note("smmplus", Failure(FailureKind.AUTH, "Invalid API key"))
    assert health.down_reason("smmplus") == "Invalid API key"


@pytest.mark.parametrize(
    "kind", [FailureKind.NOT_FOUND, FailureKind.ERROR, FailureKind.UNSUPPORTED, FailureKind.RATE_LIMIT]
)
async def test_what_is_said_of_one_order_does_not_speak_of_the_provider(health: Health, kind: FailureKind) -> None:
    for _ in range(3 * FAILURES_TO_OPEN):
        await health.note("smmplus", Failure(kind, "why"))
    assert health.down_reason("smmplus") is None


async def test_an_answer_in_between_starts_the_count_anew(health: Health) -> None:
    for _ in range(3):
        for _ in range(FAILURES_TO_OPEN - 1):
            await health.note("smmplus", LOST)
        await health.note("smmplus", StatusBatch())
    assert health.down_reason("smmplus") is None


async def test_a_failure_without_a_text_has_a_reason_all_the_same(health: Health) -> None:
    await health.note("smmplus", Failure(FailureKind.AUTH, ""))
    assert health.down_reason("smmplus") == "auth"


async def test_after_the_pause_it_may_be_tried_and_one_failure_closes_it_off_for_longer(
    health: Health, clock: ManualClock
) -> None:
    await goes_down(health)
    clock.advance(FIRST_PAUSE.total_seconds())
    assert health.down_reason("smmplus") is None
    await health.note("smmplus", LOST)
    clock.advance(FIRST_PAUSE.total_seconds())
    assert health.down_reason("smmplus") == "timeout"


# --- what is told and kept -------------------------------------------------------------------------------------------


async def test_down_and_up_are_told_once_each(health: Health, database: Database) -> None:
    for _ in range(2):
        await goes_down(health)
        await goes_down(health)
        await health.answered("smmplus")
        await health.answered("smmplus")
    down = ("provider.down", {"provider": "smmplus", "reason": "timeout"})
    up = ("provider.up", {"provider": "smmplus"})
    assert await told(database) == [down, up, down, up]


async def test_a_few_failures_are_not_told(health: Health, database: Database) -> None:
    await health.note("smmplus", LOST)
    await health.answered("smmplus")
    assert await told(database) == []


async def test_what_was_known_survives_a_restart(house: House, clock: ManualClock, database: Database) -> None:
    await goes_down(house.health)
    restarted = Health(database, clock, ["smmplus", "other"])
    assert restarted.down_reason("smmplus") is None
    await restarted.load()
    assert restarted.down_reason("smmplus") == "timeout"
    await restarted.answered("smmplus")
    assert [name for name, _ in await told(database)] == ["provider.down", "provider.up"]


async def test_a_count_that_began_before_a_restart_goes_on(
    house: House, clock: ManualClock, database: Database
) -> None:
    for _ in range(FAILURES_TO_OPEN - 1):
        await house.health.note("smmplus", LOST)
    restarted = Health(database, clock, ["smmplus"])
    await restarted.load()
    await restarted.note("smmplus", LOST)
    assert restarted.down_reason("smmplus") == "timeout"


async def test_many_reports_at_once_are_told_in_order_and_leave_one_truth(
    health: Health, clock: ManualClock, database: Database
) -> None:
    reports = [health.note("smmplus", LOST) for _ in range(20)]
    reports += [health.note("smmplus", StatusBatch())]
    reports += [health.note("smmplus", LOST) for _ in range(20)]
    await asyncio.gather(*reports)
    names = [name for name, _ in await told(database)]
    assert names in (["provider.down"], ["provider.down", "provider.up", "provider.down"])
    again = Health(database, clock, ["smmplus"])
    await again.load()
    assert again._breakers == {"smmplus": health._breakers["smmplus"]}


async def test_a_change_that_could_not_be_written_is_told_by_the_next_report(
    health: Health, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_work: Callable[[Connection], Any]) -> Any:
        raise StorageUnavailable("the disk is full")

    for _ in range(FAILURES_TO_OPEN - 1):
        await health.note("smmplus", LOST)
    with monkeypatch.context() as broken:
        broken.setattr(database, "write", full)
        with pytest.raises(StorageUnavailable):
            await health.note("smmplus", LOST)
    await health.note("smmplus", LOST)
    assert [name for name, _ in await told(database)] == ["provider.down"]


async def test_a_change_that_was_written_although_its_answer_was_lost_is_undone_and_told_by_the_next_answer(
    health: Health, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = database.write

    async def forgetful(work: Callable[[Connection], Any]) -> Any:
        await write(work)
        raise StorageUnavailable("the connection was lost in the COMMIT")

    for _ in range(FAILURES_TO_OPEN - 1):
        await health.note("smmplus", LOST)
    with monkeypatch.context() as broken:
        broken.setattr(database, "write", forgetful)
        with pytest.raises(StorageUnavailable):
            await health.note("smmplus", LOST)
    await health.answered("smmplus")
    assert [name for name, _ in await told(database)] == ["provider.down", "provider.up"]
    assert (await database.read(catalogue.health))["smmplus"]["down_since"] is None


async def test_a_provider_that_came_up_although_the_answer_was_lost_can_go_down_again_and_tells_it(
    health: Health, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = database.write

    async def forgetful(work: Callable[[Connection], Any]) -> Any:
        await write(work)
        raise StorageUnavailable("the connection was lost in the COMMIT")

    await goes_down(health)
    with monkeypatch.context() as broken:
        broken.setattr(database, "write", forgetful)
        with pytest.raises(StorageUnavailable):
            await health.answered("smmplus")
    await goes_down(health)
    assert [name for name, _ in await told(database)] == ["provider.down", "provider.up", "provider.down"]
    assert health.down_reason("smmplus") == "timeout"


async def test_a_provider_that_nobody_configured_harms_nothing(health: Health) -> None:
    await health.answered("stranger")
    await health.failed("stranger", "why")
    assert health.down_reason("stranger") is None


# --- how a person sees it ---


async def standing(house: House, health: Health | None = None, *, enabled: bool = True) -> Standing:
    row = (await house.database.read(catalogue.health))["smmplus"]
    return (health or house.health).standing("smmplus", row, enabled=enabled)


async def test_a_provider_that_never_answered_is_not_up_and_says_why_from_the_first_failure(house: House) -> None:
    new = await standing(house)
    assert (new.condition, new.up, new.reason) == (Condition.NEVER_ANSWERED, False, "no call has succeeded yet")
    await house.health.note("smmplus", Failure(FailureKind.UNREADABLE, "answers HTML", cause="html"))
    assert await standing(house) == Standing(Condition.NEVER_ANSWERED, False, "answers HTML", "html")


async def test_one_that_answered_is_up_then_failing_then_down_then_up_again(house: House, clock: ManualClock) -> None:
    await house.health.note("smmplus", StatusBatch())
    assert await standing(house) == Standing(Condition.UP, True)
    await house.health.note("smmplus", LOST)
    assert await standing(house) == Standing(Condition.FAILING, False, "timeout", "lost")
    await goes_down(house.health)
    assert await standing(house) == Standing(Condition.DOWN, False, "timeout", "lost")
    clock.advance(LONGEST_PAUSE.total_seconds())
    assert house.health.down_reason("smmplus") is None, "it may be tried"
    assert (await standing(house)).condition is Condition.DOWN, "and until that succeeds it is what it was"
    await house.health.note("smmplus", StatusBatch())
    assert await standing(house) == Standing(Condition.UP, True)


async def test_what_an_earlier_run_knew_counts(house: House, clock: ManualClock) -> None:
    await house.database.write(lambda c: catalogue.set_health(c, "smmplus", clock.now(), catalogue_at=clock.now()))
    await house.health.note("smmplus", LOST)
    restarted = Health(house.database, clock, ["smmplus"])
    await restarted.load()
    assert (await standing(house, restarted)).condition is Condition.FAILING
    await goes_down(house.health)
    await restarted.load()
    assert await standing(house, restarted) == Standing(Condition.DOWN, False, "timeout")


async def test_a_pause_hides_neither_that_it_answers_nor_that_it_does_not(house: House, clock: ManualClock) -> None:
    await house.health.note("smmplus", StatusBatch())
    await house.database.write(lambda c: catalogue.set_health(c, "smmplus", clock.now(), paused=True))
    assert await standing(house) == Standing(Condition.PAUSED, True, "paused by an operator")
    await goes_down(house.health)
    assert await standing(house) == Standing(Condition.PAUSED, False, "paused by an operator; timeout", "lost")


async def test_a_disabled_provider_is_not_up(house: House) -> None:
    await house.health.note("smmplus", StatusBatch())
    found = await standing(house, enabled=False)
    assert (found.condition, found.up) == (Condition.DISABLED, False)


async def test_a_catalogue_that_was_not_taken_over_is_told_although_the_provider_is_up(
    house: House, clock: ManualClock
) -> None:
    await house.health.note("smmplus", StatusBatch())
    await house.database.write(
        lambda c: catalogue.set_health(c, "smmplus", clock.now(), catalogue_error="the catalogue is empty")
    )
    assert await standing(house) == Standing(Condition.UP, True, "the catalogue is empty", "catalogue_refused")


async def test_answers_do_not_hide_that_purchases_fail(house: House) -> None:
    await house.health.note("smmplus", StatusBatch())
    await house.health.failed("smmplus", "lost: timeout", purchase=True)
    await house.health.note("smmplus", StatusBatch())
    assert await standing(house) == Standing(Condition.FAILING, False, "lost: timeout", "purchase")
    await house.health.answered("smmplus", purchase=True)
    assert (await standing(house)).up


# --- how routing sees it ---------------------------------------------------------------------------------------------


async def seen(house: House, name: str = "smmplus") -> ProviderView:
    world = await house.database.read(lambda c: load_world(c, []))
    return provider_view(house, name, house.settings.providers[name], world)


async def test_a_new_provider_is_not_synced_and_has_no_known_balance(house: House) -> None:
    assert await seen(house) == ProviderView("smmplus", synced=False, rate_per={"smm": 1000, "product": 1})
    assert not (await seen(house, "other")).enabled


async def test_a_provider_that_is_down_says_why(house: House) -> None:
    await goes_down(house.health)
    assert (await seen(house)).down_reason == "timeout"


async def test_a_paused_provider_is_paused(house: House, clock: ManualClock) -> None:
    await house.database.write(lambda c: catalogue.set_health(c, "smmplus", clock.now(), paused=True))
    assert (await seen(house)).paused


async def test_a_long_pause_that_a_rate_limit_asked_for_sends_orders_elsewhere(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda: 1000.0)
    limiter = house.gateways["smmplus"]._limiter
    limiter.pause(LONG_QUIET_S)
    assert (await seen(house)).down_reason is None
    limiter.pause(LONG_QUIET_S + 1)
    assert (await seen(house)).down_reason == "its rate limit asks for a longer pause"


async def test_what_is_being_bought_is_in_flight_until_it_is_known(house: House, clock: ManualClock) -> None:
    database = house.database
    await database.write(
        lambda c: catalogue.set_health(c, "smmplus", clock.now(), balance_units=10**9, balance_currency="USD")
    )
    assert (await seen(house)).in_flight == Money(0, "USD")
    placing = await database.write(lambda c: rows.place(c, rows.accept(c)))
    await database.write(lambda c: rows.lose(c, rows.accept(c)))
    assert (await seen(house)).in_flight == Money.parse("1.80", "USD")
    await database.write(lambda c: rows.buy(c, placing))
    view = await seen(house)
    assert (view.balance, view.in_flight) == (Money(10**9, "USD"), Money.parse("0.90", "USD"))


async def test_what_is_in_flight_in_another_currency_is_not_taken_from_the_balance(
    house: House, clock: ManualClock
) -> None:
    await house.database.write(
        lambda c: catalogue.set_health(c, "smmplus", clock.now(), balance_units=10**9, balance_currency="EUR")
    )
    await house.database.write(lambda c: rows.place(c, rows.accept(c)))
    assert (await seen(house)).in_flight == Money(0, "EUR")
