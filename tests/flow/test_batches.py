"""A batch that was refused whole: the bad id is found, a provider without batches is found out, nobody is flooded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

import pytest

from aggregator.domain.clock import ManualClock
from aggregator.flow.batches import LEFT_OUT, MAX_CALLS, Answered, learn
from aggregator.providers.contract import BatchForm, Failure, FailureKind, Meaning, StatusBatch, StatusReport
from aggregator.providers.gateway import Batch, Gateway, Tries
from aggregator.providers.limits import Limiter, Priority

Answer = Callable[[Sequence[str]], StatusBatch | Failure]

ERROR = Failure(FailureKind.ERROR, "error")
NOT_FOUND = Failure(FailureKind.NOT_FOUND, "Incorrect order ID")
UNSUPPORTED = Failure(FailureKind.UNSUPPORTED, "Incorrect request")
UNREADABLE = Failure(FailureKind.UNREADABLE, "HTTP 502, http_502")
LOST = Failure(FailureKind.LOST, "timeout")


def reports(orders: Sequence[str]) -> StatusBatch:
    """Each report tells whose it is."""
    return StatusBatch({order: StatusReport(f"status of {order}", None) for order in orders})


@dataclass
class FakeGateway:
    """A provider account whose provider is a function of the ids."""

    answer: Answer
    name: str = "panel"
    batch: Batch = field(default_factory=lambda: Batch(BatchForm.ORDERS))
    forms: tuple[BatchForm, ...] = (BatchForm.ORDERS,)
    """What it understands."""
    calls: list[list[str]] = field(default_factory=list)
    limiter: Limiter = field(default_factory=lambda: Limiter(1, 0))
    refusal: StatusBatch | Failure = UNSUPPORTED
    """Its answer to a form that it does not understand."""
    clock: ManualClock = field(default_factory=lambda: ManualClock(datetime(2026, 11, 21, tzinfo=UTC)))

    def __post_init__(self) -> None:
        self.tries = Tries(self.clock)

    def turn(self, priority: Priority) -> object:
        assert priority is Priority.STATUS
        return self.limiter.turn(priority)

    @property
    def batches(self) -> bool:
        return self.batch.form is not BatchForm.SINGLE

    async def statuses(self, orders: Sequence[str], form: BatchForm | None = None) -> StatusBatch | Failure:
        self.calls.append(list(orders))
        if len(orders) > 1 and (form or self.batch.form or BatchForm.ORDERS) not in self.forms:
            return self.refusal
        return self.answer(orders)

    def use_batch(self, batch: Batch) -> bool:
        news, self.batch = batch != self.batch, batch
        return news

    async def ask(self, orders: Sequence[str]) -> StatusBatch | Failure:
        """As polling does: one batch, then what can still be learned."""
        return (await self.learn(orders)).answer

    async def learn(self, orders: Sequence[str]) -> Answered:
        return await learn(cast(Gateway, self), orders, await self.statuses(orders))


def ids(count: int) -> list[str]:
    return [str(number) for number in range(1, count + 1)]


def without_batches(orders: Sequence[str]) -> StatusBatch | Failure:
    return reports(orders) if len(orders) == 1 else UNSUPPORTED


def spoiled_by(*bad: str, failure: Failure = NOT_FOUND) -> Answer:
    return lambda orders: failure if set(orders) & set(bad) else reports(orders)


@pytest.mark.parametrize("bad", ["1", "50", "51", "99", "100"])
@pytest.mark.parametrize("failure", [NOT_FOUND, ERROR])
async def test_one_bad_id_does_not_hide_the_other_ninety_nine(bad: str, failure: Failure) -> None:
    gateway = FakeGateway(spoiled_by(bad, failure=failure))
    answer = await gateway.ask(ids(100))
    assert isinstance(answer, StatusBatch)
    assert set(answer.reports) == set(ids(100)) - {bad}
    assert all(report.word == f"status of {order}" for order, report in answer.reports.items())
    assert len(gateway.calls) <= 15
    assert gateway.batches


async def test_what_was_said_of_the_bad_id_is_kept() -> None:
    answer = await FakeGateway(spoiled_by("7")).ask(ids(10))
    assert isinstance(answer, StatusBatch)
    assert answer.errors == {"7": (Meaning.UNKNOWN_ORDER, "Incorrect order ID")}


async def test_two_bad_ids_are_both_found() -> None:
    gateway = FakeGateway(spoiled_by("13", "87"))
    answer = await gateway.ask(ids(100))
    assert isinstance(answer, StatusBatch)
    assert set(answer.reports) == set(ids(100)) - {"13", "87"}
    assert gateway.batches


async def test_a_provider_without_batches_is_found_out_by_few_calls() -> None:
    gateway = FakeGateway(without_batches)
    answer = await gateway.ask(ids(100))
    assert not gateway.batches
    assert len(gateway.calls) <= 11
    assert isinstance(answer, StatusBatch)
    assert all(report.word == f"status of {order}" for order, report in answer.reports.items())


async def test_a_bad_id_at_a_provider_without_batches_does_not_hide_that_it_has_none() -> None:
    def answers(orders: Sequence[str]) -> StatusBatch | Failure:
        return NOT_FOUND if "1" in orders else without_batches(orders)

    gateway = FakeGateway(answers)
    await gateway.ask(ids(100))
    assert not gateway.batches
    assert len(gateway.calls) <= 16


async def test_one_passing_fault_is_no_proof_of_missing_batches() -> None:
    gateway = FakeGateway(lambda orders: UNREADABLE if len(gateway.calls) == 1 else reports(orders))
    answer = await gateway.ask(ids(2))
    assert isinstance(answer, StatusBatch)
    assert set(answer.reports) == {"1", "2"}
    assert gateway.batches


async def test_a_single_order_is_no_batch_and_proves_nothing_about_batches() -> None:
    gateway = FakeGateway(lambda _: NOT_FOUND)
    assert await gateway.ask(["1"]) == NOT_FOUND
    assert gateway.calls == [["1"]]
    assert gateway.batches


@pytest.mark.parametrize(
    "failure",
    [
        LOST,
        Failure(FailureKind.NOT_SENT, "refused"),
        Failure(FailureKind.AUTH, "Invalid API key"),
        Failure(FailureKind.RATE_LIMIT, "slow down", 17.0),
    ],
)
async def test_a_failure_that_is_not_about_the_batch_asks_nothing_more(failure: Failure) -> None:
    gateway = FakeGateway(lambda _: failure)
    assert await gateway.ask(ids(100)) == failure
    assert len(gateway.calls) == 1


@pytest.mark.parametrize(
    "failure", [LOST, Failure(FailureKind.AUTH, "key"), Failure(FailureKind.RATE_LIMIT, "slow down")]
)
async def test_a_provider_that_goes_away_during_the_search_is_left_alone(failure: Failure) -> None:
    gateway = FakeGateway(lambda orders: ERROR if len(gateway.calls) == 1 else failure)
    assert await gateway.ask(ids(100)) == failure
    assert len(gateway.calls) == 2


async def test_what_was_learned_before_the_provider_went_away_counts() -> None:
    def answers(orders: Sequence[str]) -> StatusBatch | Failure:
        return ERROR if len(orders) == 4 else LOST if "4" in orders else reports(orders)

    answer = await FakeGateway(answers).ask(ids(4))
    assert isinstance(answer, StatusBatch)
    assert set(answer.reports) == {"1", "2"}


@pytest.mark.parametrize("failure", [UNREADABLE, UNSUPPORTED])
async def test_a_provider_that_is_down_is_not_flooded(failure: Failure) -> None:
    gateway = FakeGateway(lambda _: failure)
    assert await gateway.ask(ids(100)) == failure
    assert len(gateway.calls) <= 9
    assert gateway.batches


@pytest.mark.parametrize("failure", [ERROR, NOT_FOUND])
@pytest.mark.parametrize("count", [2, 3, 37, 100])
async def test_a_provider_that_refuses_every_id_is_asked_a_bounded_number_of_times(
    failure: Failure, count: int
) -> None:
    gateway = FakeGateway(lambda _: failure)
    answer = await gateway.ask(ids(count))
    assert not (isinstance(answer, StatusBatch) and answer.reports)
    assert len(gateway.calls) <= 1 + MAX_CALLS
    assert gateway.batches


async def test_somebody_else_found_out_meanwhile_so_nothing_more_is_asked() -> None:
    gateway = FakeGateway(without_batches, batch=Batch(BatchForm.SINGLE))
    assert await gateway.ask(ids(100)) == UNSUPPORTED
    assert len(gateway.calls) == 1


async def test_an_answered_part_with_a_gap_leaves_the_gap_unanswered() -> None:
    def answers(orders: Sequence[str]) -> StatusBatch | Failure:
        return ERROR if len(orders) > 2 else reports([order for order in orders if order != "2"])

    answer = await FakeGateway(answers).ask(ids(4))
    assert isinstance(answer, StatusBatch)
    assert set(answer.reports) == {"1", "3", "4"}


# --- which form, and how many


@pytest.mark.parametrize("count", [2, 3, 100])
async def test_a_provider_that_wants_order_instead_of_orders_is_found_out_by_one_more_call(count: int) -> None:
    gateway = FakeGateway(reports, batch=Batch(), forms=(BatchForm.ORDER,))
    answer = await gateway.ask(ids(count))
    assert isinstance(answer, StatusBatch)
    assert set(answer.reports) == set(ids(count))
    assert len(gateway.calls) == 2
    assert gateway.batch == Batch(BatchForm.ORDER)


async def test_a_provider_that_changes_its_form_is_followed() -> None:
    gateway = FakeGateway(reports, batch=Batch(BatchForm.ORDERS), forms=(BatchForm.ORDER,))
    await gateway.ask(ids(100))
    assert gateway.batch == Batch(BatchForm.ORDER)
    assert len(gateway.calls) <= 12


async def test_the_documented_form_is_kept_once_it_has_answered() -> None:
    gateway = FakeGateway(reports, batch=Batch())
    await gateway.ask(ids(2))
    assert (gateway.batch, len(gateway.calls)) == (Batch(BatchForm.ORDERS), 1)


@pytest.mark.parametrize("text", ["Too many IDs, up to 50", "Maximum 50 orders per request", "limit is 50"])
async def test_a_limit_that_is_named_is_kept(text: str) -> None:
    gateway = FakeGateway(lambda orders: Failure(FailureKind.ERROR, text) if len(orders) > 50 else reports(orders))
    await gateway.ask(ids(100))
    assert (gateway.batch.limit, len(gateway.calls)) == (50, 1)


async def test_a_limit_that_is_not_named_is_found_when_halves_answer_and_the_whole_does_not() -> None:
    gateway = FakeGateway(lambda orders: ERROR if len(orders) > 60 else reports(orders))
    answer = await gateway.ask(ids(100))
    assert isinstance(answer, StatusBatch)
    assert set(answer.reports) == set(ids(100))
    assert (gateway.batch.limit, len(gateway.calls)) == (50, 4)


async def test_a_provider_that_answers_only_the_first_ones_has_that_limit() -> None:
    gateway = FakeGateway(lambda orders: reports(orders[:20]))
    answer = await gateway.ask(ids(30))
    assert isinstance(answer, StatusBatch)
    assert set(answer.reports) == set(ids(30))
    assert (gateway.batch.limit, len(gateway.calls)) == (20, 2)


async def test_a_provider_that_answers_the_first_one_only_has_no_batches() -> None:
    gateway = FakeGateway(lambda orders: reports(orders[:1]))
    await gateway.ask(ids(30))
    assert gateway.batch == Batch(BatchForm.SINGLE)


def knowing(known: Sequence[str], *, alone: Sequence[str] = ()) -> Answer:
    """A batch leaves out what it does not know; `alone` are known to the single form only."""

    def answer(orders: Sequence[str]) -> StatusBatch | Failure:
        if len(orders) == 1:
            return reports(orders) if orders[0] in (*known, *alone) else NOT_FOUND
        return reports([order for order in orders if order in known])

    return answer


async def test_ids_that_an_answer_leaves_out_are_asked_for_alone_before_they_are_unknown_there() -> None:
    gateway = FakeGateway(knowing(ids(20)))
    answer = await gateway.ask(ids(23))
    assert isinstance(answer, StatusBatch)
    assert answer.errors == dict.fromkeys(("21", "22", "23"), (Meaning.UNKNOWN_ORDER, "Incorrect order ID"))
    assert gateway.calls[1:] == [["21", "22", "23"], ["21"], ["22"], ["23"]]
    assert gateway.batch.limit == 100


async def test_an_id_that_is_left_out_every_time_is_not_asked_for_alone_every_time() -> None:
    gateway = FakeGateway(knowing(["1", "3"]))
    answer: StatusBatch | Failure = ERROR
    for _ in range(100):
        answer = await gateway.ask(ids(3))
        assert isinstance(answer, StatusBatch)
        assert answer.errors["2"][0] is Meaning.UNKNOWN_ORDER
        gateway.clock.advance(15)
    assert isinstance(answer, StatusBatch)
    assert answer.errors["2"][1] == LEFT_OUT
    assert len(gateway.calls) <= 100 + 6


async def test_an_id_that_nobody_asked_for_alone_yet_is_not_called_unknown() -> None:
    answer = await FakeGateway(knowing([str(number) for number in range(1, 21, 2)])).ask(ids(20))
    assert isinstance(answer, StatusBatch)
    assert sorted(answer.errors) == ["2", "4", "6", "8"]


@pytest.mark.parametrize("hidden", ["1", "2", "3"])
async def test_an_id_that_only_the_single_form_knows_is_followed_by_it(hidden: str) -> None:
    gateway = FakeGateway(knowing([order for order in ids(3) if order != hidden], alone=[hidden]))
    answer = await gateway.ask(ids(3))
    assert isinstance(answer, StatusBatch)
    assert (set(answer.reports), answer.errors) == (set(ids(3)), {})
    assert gateway.batch == Batch(BatchForm.ORDERS)
    assert len(gateway.calls) <= 3


async def test_of_two_ids_the_one_that_was_left_out_is_asked_for_alone() -> None:
    gateway = FakeGateway(lambda orders: reports(orders[:1]))
    answer = await gateway.ask(["1", "2"])
    assert isinstance(answer, StatusBatch)
    assert set(answer.reports) == {"1", "2"}
    assert gateway.batch == Batch(BatchForm.SINGLE)


async def test_an_id_that_became_visible_a_moment_later_limits_nothing() -> None:
    gateway = FakeGateway(lambda orders: reports(orders[:1] if len(gateway.calls) == 1 else orders))
    answer = await gateway.ask(["1", "2"])
    assert isinstance(answer, StatusBatch)
    assert set(answer.reports) == {"1", "2"}
    assert gateway.batch == Batch(BatchForm.ORDERS)


@pytest.mark.parametrize("count", [2, 3, 8, 100])
async def test_an_answer_that_names_nobody_is_no_batch_and_proves_nothing(count: int) -> None:
    gateway = FakeGateway(lambda orders: reports(orders if len(orders) == 1 else []), batch=Batch())
    answer = await gateway.ask(ids(count))
    assert isinstance(answer, StatusBatch)
    assert answer.errors == {}
    assert len(answer.reports) >= 2
    assert gateway.batch == Batch(BatchForm.SINGLE)


async def test_an_answer_that_names_nobody_leads_to_the_other_form() -> None:
    gateway = FakeGateway(reports, batch=Batch(), forms=(BatchForm.ORDER,))
    gateway.refusal = StatusBatch()
    answer = await gateway.ask(ids(8))
    assert isinstance(answer, StatusBatch)
    assert set(answer.reports) == set(ids(8))
    assert (gateway.batch, len(gateway.calls)) == (Batch(BatchForm.ORDER), 2)


@pytest.mark.parametrize("failure", [UNREADABLE, UNSUPPORTED, ERROR, NOT_FOUND])
async def test_a_search_in_vain_is_not_made_at_every_poll(failure: Failure) -> None:
    gateway = FakeGateway(lambda _: failure, batch=Batch())
    await gateway.ask(ids(8))
    first = len(gateway.calls)
    for _ in range(240):
        gateway.clock.advance(15)
        await gateway.ask(ids(8))
    assert len(gateway.calls) - first <= 240 + 6 * first


async def test_what_changes_at_the_provider_is_searched_for_at_once() -> None:
    failure = ERROR
    gateway = FakeGateway(lambda orders: failure if len(orders) > 1 or failure is ERROR else reports(orders))
    await gateway.ask(ids(8))
    failure = UNSUPPORTED
    assert isinstance(await gateway.ask(ids(8)), StatusBatch)


async def test_an_unreadable_answer_costs_one_more_call() -> None:
    gateway = FakeGateway(lambda _: UNREADABLE, batch=Batch())
    assert await gateway.ask(ids(100)) == UNREADABLE
    assert gateway.calls[1:] == [["1"]]


async def test_a_provider_that_breaks_on_every_batch_and_answers_singles_is_found_out() -> None:
    gateway = FakeGateway(lambda orders: reports(orders) if len(orders) == 1 else UNREADABLE)
    assert isinstance(await gateway.ask(ids(100)), StatusBatch)
    assert gateway.batch == Batch(BatchForm.SINGLE)


@pytest.mark.parametrize("kind", [FailureKind.UNREADABLE, FailureKind.NOT_FOUND, FailureKind.ERROR])
async def test_a_provider_that_named_a_time_is_asked_nothing_more(kind: FailureKind) -> None:
    gateway = FakeGateway(lambda _: Failure(kind, "later", 60.0))
    await gateway.ask(ids(8))
    assert len(gateway.calls) == 1
    gateway = FakeGateway(lambda orders: ERROR if len(orders) == 8 else Failure(kind, "later", 60.0))
    await gateway.ask(ids(8))
    assert len(gateway.calls) == 2


async def test_a_rate_limit_of_some_orders_ends_all_further_questions() -> None:
    limited = StatusBatch({}, {"1": (Meaning.RATE_LIMIT, "Too many requests")})
    gateway = FakeGateway(lambda _: limited)
    assert await gateway.ask(ids(8)) == limited
    assert len(gateway.calls) == 1


async def test_who_spoils_a_batch_is_named() -> None:
    gateway = FakeGateway(spoiled_by("13", "87"))
    assert (await gateway.learn(ids(100))).spoilers == {"13", "87"}
    everybody = FakeGateway(lambda _: NOT_FOUND)
    assert (await everybody.learn(ids(100))).spoilers == frozenset()


async def test_a_generic_error_for_everything_costs_few_calls() -> None:
    gateway = FakeGateway(lambda _: ERROR)
    assert await gateway.ask(ids(100)) == ERROR
    assert len(gateway.calls) <= 7
