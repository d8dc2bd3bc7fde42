"""Taking orders: checked field by field, durable with their event, once per idempotency key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import func, select

from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import Problem, ProblemKind, StorageUnavailable
from aggregator.domain.money import Money
from aggregator.domain.orders import Order, OrderState
from aggregator.flow.intake import Idempotency, NewOrder, Taken
from aggregator.storage.database import Database
from aggregator.storage.tables import events, idempotency_keys
from tests.support.flow import Street, a_street, on_sqlite, product, smm, sms

LINK = "https://example.com/a"
SERVICES = {
    "followers": smm("smmplus/1", "smmcheap/1"),
    "comments": smm("smmplus/2"),
    "starter": smm("smmplus/3"),
    "seo": smm("smmplus/4"),
    "comments-pack": smm("smmplus/5"),
    "mentions": smm("smmplus/6"),
    "mentions-list": smm("smmplus/8"),
    "hashtag": smm("smmplus/9"),
    "user-followers": smm("smmplus/10"),
    "media": smm("smmplus/11"),
    "comment-likes": smm("smmplus/12"),
    "replies": smm("smmplus/13"),
    "poll": smm("smmplus/14"),
    "groups": smm("smmplus/15"),
    "posts": smm("smmplus/16"),
    "traffic": smm("smmplus/17"),
    "gone": smm("smmplus/999"),
    "gmail": product("hstock/2"),
    "code": sms("hstock/65f0aa/us"),
}


@pytest_asyncio.fixture
async def street(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Street]:
    settings = {"exchange_rates": {"EUR": "1.08"}}
    async with a_street(database, clock, tmp_path, SERVICES, settings=settings) as one:
        yield one


def answer(results: Sequence[Order | Problem]) -> tuple[int, str]:
    return 201, json.dumps([str(result.id if isinstance(result, Order) else result) for result in results])


def once(key: str = "k-1", fingerprint: bytes = b"f-1", owner: str = "shop") -> Idempotency:
    return Idempotency(owner, key, fingerprint, answer)


async def stored(street: Street, table: Any = events) -> int:
    query = select(func.count()).select_from(table)
    return await street.database.read(lambda c: c.execute(query).scalar_one())


# --- what is taken


async def test_a_taken_order_is_durable_with_its_event_before_it_is_answered(street: Street) -> None:
    order = await street.take("followers", reference="shop-778", metadata={"a": [1, None]})
    assert (order.state, order.number > 0, order.sequence) == (OrderState.ACCEPTED, True, 1)
    assert await street.order(order.number) == order
    (told,) = await street.told(order.number)
    assert (told["type"], told["data"]["sequence"], told["data"]["order"]["id"]) == ("order.accepted", 1, order.id)
    assert told["data"]["order"]["reference"] == "shop-778"
    assert "params" not in told["data"]["order"]


DERIVED: list[tuple[str, dict[str, Any], int]] = [
    ("followers", {"quantity": 500, "link": LINK}, 500),
    ("comments", {"link": LINK, "params": {"comments": "\n".join(f"nice {n}" for n in range(12))}}, 12),
    ("comments", {"link": LINK, "params": {"comments": "\r\n".join("abcdefghij") + "\r\n \r\n"}}, 10),
    ("comments", {"link": LINK, "quantity": 10, "params": {"comments": "\n".join("abcdefghij")}}, 10),
    ("starter", {"link": LINK}, 1),
    ("starter", {"link": LINK, "quantity": 1}, 1),
    ("comments-pack", {"link": LINK, "params": {"comments": "a\nb\nc"}}, 1),
    ("mentions", {"link": LINK, "quantity": 20, "params": {"usernames": "a\nb"}}, 20),
    ("mentions-list", {"link": LINK, "params": {"usernames": "a\nb\nc"}}, 3),
    ("replies", {"link": LINK, "params": {"username": "me", "comments": "a\nb"}}, 2),
    ("poll", {"link": LINK, "quantity": 10, "params": {"answer_number": "2"}}, 10),
    ("posts", {"params": {"username": "me", "min": "10", "max": "20", "delay": "0", "posts": "3"}}, 60),
    ("posts", {"params": {"username": "me", "min": "10", "max": "20", "delay": "0"}}, 20),
    ("followers", {"quantity": 500, "link": LINK, "params": {"runs": "2", "interval": "60"}}, 1000),
    ("gmail", {"quantity": 3}, 3),
    ("code", {"quantity": 10, "params": {"country": "us"}}, 10),
]


@on_sqlite
async def test_each_type_takes_its_parameters_and_derives_its_quantity(street: Street) -> None:
    for service, fields, quantity in DERIVED:
        order = await street.take(service, fields.get("quantity"), fields.get("link"), params=fields.get("params", {}))
        assert (order.service, order.quantity) == (service, quantity)
        assert order.params == fields.get("params", {})
    await street.settle()
    for order in await street.orders():
        assert order.state in (OrderState.PENDING, OrderState.IN_PROGRESS), (order.service, order.error_detail)
    sent = {entry.service: entry for entry in street.purchases("smmplus") if entry.service in ("2", "8", "13")}
    assert all("quantity" not in entry.params for entry in sent.values())
    assert "\r" not in sent["2"].params["comments"]


# --- what is not

MANY = "\n".join("abcdefghijkl")
WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("nothing", {}, "service", "there is no service"),
    ("followers", {"quantity": None}, "quantity", "is required"),
    ("followers", {"quantity": 49}, "quantity", "must be 50 to 10000 or 50 to 5000, got 49"),
    ("followers", {"quantity": 10_001}, "quantity", "must be"),
    ("followers", {"quantity": 0}, "quantity", "must be"),
    ("followers", {"quantity": -5}, "quantity", "must be"),
    ("followers", {"quantity": 10**16}, "quantity", "must be from 1 to"),
    ("followers", {"quantity": 6000, "provider": "smmcheap"}, "quantity", "must be 50 to 5000, got 6000"),
    ("followers", {"link": None}, "link", "is required"),
    ("followers", {"link": ""}, "link", "is required"),
    ("followers", {"link": "https://example.com/" + "x" * 2100}, "link", "at most 2048"),
    ("followers", {"link": "https://example.com/\x00"}, "link", "U+0000"),
    ("followers", {"link": "https://example.com/\ud800"}, "link", "U+D800"),
    ("followers", {"reference": "x" * 256}, "reference", "at most 255"),
    ("followers", {"reference": "a\x00"}, "reference", "U+0000"),
    ("followers", {"provider": "hstock"}, "provider", "it has smmcheap, smmplus"),
    ("followers", {"provider": "nobody"}, "provider", "no offer"),
    ("followers", {"max_cost": Money(0, "USD")}, "max_cost", "more than 0"),
    ("followers", {"max_cost": Money(-1, "USD")}, "max_cost", "more than 0"),
    ("followers", {"max_cost": Money(5, "GBP")}, "max_cost", "no exchange rate for GBP"),
    ("followers", {"metadata": {"a": "x" * 5000}}, "metadata", "at most 4096"),
    ("followers", {"params": {"colour": "red"}}, "params.colour", "no service type takes"),
    ("followers", {"params": {"runs": "2"}}, "params.interval", "together with runs"),
    ("followers", {"params": {"interval": "2"}}, "params.runs", "together with interval"),
    ("followers", {"params": {"runs": "two", "interval": "5"}}, "params.runs", "whole number"),
    ("followers", {"params": {"runs": "２", "interval": "5"}}, "params.runs", "whole number"),
    ("followers", {"params": {"comments": "x" * 100_001}}, "params.comments", "at most 100000"),
    ("followers", {"params": {"comments": "\ud800"}}, "params.comments", "U+D800"),
    ("comments", {"quantity": None}, "params.comments", "at least one line"),
    ("comments", {"quantity": None, "params": {"comments": " \n "}}, "params.comments", "at least one line"),
    ("comments", {"quantity": None, "params": {"comments": "a\nb"}}, "quantity", "must be 10 to 1500, got 2"),
    ("comments", {"quantity": 11, "params": {"comments": MANY}}, "quantity", "derives it (12 here)"),
    ("starter", {"quantity": 2}, "quantity", "derives it (1 here)"),
    ("comments-pack", {"quantity": None}, "params.comments", "is required"),
    ("seo", {"quantity": 100}, "params.keywords", "is required"),
    ("mentions", {"quantity": 20}, "params.usernames", "is required"),
    ("mentions-list", {"quantity": None}, "params.usernames", "at least one line"),
    ("hashtag", {"quantity": 20}, "params.hashtag", "is required"),
    ("user-followers", {"quantity": 20}, "params.username", "is required"),
    ("media", {"quantity": 20}, "params.media", "is required"),
    ("comment-likes", {"quantity": 20}, "params.username", "is required"),
    ("replies", {"quantity": None, "params": {"comments": "a\nb"}}, "params.username", "is required"),
    ("poll", {"quantity": 20}, "params.answer_number", "is required"),
    ("groups", {"quantity": 50}, "params.groups", "is required"),
    ("posts", {"quantity": None, "params": {"username": "a", "min": "1"}}, "params.max", "is required"),
    ("traffic", {"quantity": 100}, "params.country", "is required"),
    ("gmail", {"quantity": 51}, "quantity", "must be 1 to 50"),
    ("code", {"quantity": 11}, "quantity", "1 to 10 numbers"),
    ("code", {"quantity": None}, "quantity", "is required"),
]


@on_sqlite
async def test_every_wrong_field_is_named_and_nothing_is_stored(street: Street) -> None:
    before = await stored(street)
    for service, fields, field, why in WRONG:
        usual: dict[str, Any] = {"quantity": 1000, "link": LINK}
        problem = await street.refused(NewOrder("shop", service, **{**usual, **fields}))
        assert (problem.field, why in problem.detail) == (field, True), (service, fields, str(problem))
        kind = ProblemKind.UNKNOWN_SERVICE if field == "service" else ProblemKind.INVALID_FIELD
        assert problem.kind is kind
    assert await stored(street) == before


@on_sqlite
async def test_before_the_first_sync_an_order_is_taken_on_trust_and_judged_by_routing(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    async with a_street(database, clock, tmp_path, SERVICES, synced=False) as street:
        comments = await street.take("comments", None, params={"comments": "\n".join("abcdefghij")})
        too_few = await street.take("followers", 7)
        assert comments.quantity == 10
        await street.synced()
        await street.settle()
        assert (await street.order(comments.number)).state is OrderState.PENDING
        waiting = await street.order(too_few.number)
        assert waiting.state is OrderState.ACCEPTED
        assert "takes 50 to 5000, the order wants 7" in str(waiting.error_detail)


async def test_a_bad_order_of_a_batch_does_not_hurt_its_neighbours(street: Street) -> None:
    wishes: list[NewOrder | Problem] = [
        street.wish("followers", 500, LINK),
        street.wish("followers", 1, LINK),
        Problem(ProblemKind.INVALID_FIELD, "is no object", "orders.2"),
        street.wish("followers", 500, "https://example.com/\x00"),
        street.wish("gmail", 2),
    ]
    taken = await street.intake.take(wishes)
    assert [type(result).__name__ for result in taken.results] == ["Order", "Problem", "Problem", "Problem", "Order"]
    assert [order.service for order in await street.orders()] == ["followers", "gmail"]


async def test_an_order_that_could_not_be_stored_is_not_answered(street: Street) -> None:
    street.database.refuse = 1
    with pytest.raises(StorageUnavailable):
        await street.intake.take([street.wish("followers", 500, LINK)], once())
    assert (await street.count(), await stored(street, idempotency_keys)) == (0, 0)


# --- once


async def test_the_same_key_twenty_times_at_once_is_one_order(street: Street) -> None:
    wish = street.wish("followers", 500, LINK)
    results = await asyncio.gather(*(street.intake.take([wish], once()) for _ in range(20)), return_exceptions=True)
    (order,) = await street.orders()
    answered = [result for result in results if isinstance(result, Taken)]
    running = [result for result in results if isinstance(result, Problem)]
    assert len(answered) + len(running) == 20
    assert {problem.kind for problem in running} <= {ProblemKind.IDEMPOTENCY_RUNNING}
    assert [taken.results for taken in answered if taken.replayed is None] == [(order,)]
    body = answer([order])[1]
    assert {taken.replayed.body for taken in answered if taken.replayed} <= {body}
    again = await street.intake.take([wish], once())
    assert again.replayed is not None
    assert (again.replayed.status, again.replayed.body) == (201, body)
    await street.settle()
    assert len(street.purchases()) == 1
    assert await street.count() == 1


async def test_a_key_belongs_to_its_caller_and_to_one_request(street: Street) -> None:
    wish = street.wish("followers", 500, LINK)
    await street.intake.take([wish], once())
    with pytest.raises(Problem) as other_body:
        await street.intake.take([wish], once(fingerprint=b"f-2"))
    assert (other_body.value.kind, other_body.value.field) == (ProblemKind.IDEMPOTENCY_MISMATCH, "Idempotency-Key")
    assert (await street.intake.take([wish], once(owner="other"))).replayed is None
    assert (await street.intake.take([wish], once("k-2"))).replayed is None
    assert (await street.intake.take([wish])).replayed is None
    assert await street.count() == 4


async def test_a_refusal_is_an_answer_that_is_kept_too(street: Street) -> None:
    wish = street.wish("followers", 1, LINK)
    first = await street.intake.take([wish], once())
    assert isinstance(first.results[0], Problem)
    again = await street.intake.take([wish], once())
    assert again.replayed is not None
    assert again.replayed.body == answer(first.results)[1]
    assert await street.count() == 0


async def test_a_commit_whose_answer_was_lost_is_found_by_its_key(street: Street) -> None:
    wish = street.wish("followers", 500, LINK)
    street.database.forget = 1
    with pytest.raises(StorageUnavailable):
        await street.intake.take([wish], once())
    again = await street.intake.take([wish], once())
    (order,) = await street.orders()
    assert again.replayed is not None
    assert order.id in again.replayed.body
    await street.settle()
    assert len(street.purchases()) == 1


async def test_a_key_outlives_a_restart(street: Street) -> None:
    wish = street.wish("followers", 500, LINK)
    await street.intake.take([wish], once())
    await street.restart()
    assert (await street.intake.take([wish], once())).replayed is not None
    assert await street.count() == 1


async def test_different_keys_at_once_are_different_orders(street: Street) -> None:
    wish = street.wish("followers", 500, LINK)
    taken = await asyncio.gather(*(street.intake.take([wish], once(f"k-{number}")) for number in range(20)))
    numbers = [result.number for one in taken for result in one.results if isinstance(result, Order)]
    assert len(set(numbers)) == len(await street.orders()) == 20
