"""A provider account over mocked HTTP: typed results, a redacted exchange, pauses and metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from aggregator.domain.catalogue import ACCOUNT_PRODUCT, SERVICE_TYPES
from aggregator.domain.clock import ManualClock
from aggregator.domain.money import Money
from aggregator.domain.orders import OrderState
from aggregator.domain.wire import NotSent
from aggregator.log import Redactor
from aggregator.outbound import Outbound
from aggregator.providers.contract import (
    AddRequest,
    AddSmsRequest,
    BatchForm,
    CancelAsked,
    CancelRefused,
    CataloguePage,
    Consequence,
    Failure,
    FailureKind,
    Inventory,
    Meaning,
    Placed,
    PlacedNumber,
    RefillAccepted,
    RefillRefusal,
    RefillRefused,
    Refused,
    StatusBatch,
    Unclear,
)
from aggregator.providers.gateway import BATCHES_AGAIN_S, EXCERPT_CHARS, Batch, Exchange, Gateway
from aggregator.providers.limits import Priority
from tests.providers.conftest import Mock
from tests.support.house import load_settings

URL = "https://panel.test/api/v2"
KEY = "k-very/secret+0001"
GENERIC = "There was an error processing your request. Please try again later"

FOLLOWERS = AddRequest("1", "smm", SERVICE_TYPES["default"], 1000, "https://instagram.com/username")
ACCOUNTS = AddRequest("2", "product", ACCOUNT_PRODUCT, 2)

Make = Callable[..., Gateway]


@pytest_asyncio.fixture
async def make(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Make]:
    """A gateway with its own settings; the mock answers for its provider."""
    async with Outbound() as outbound:

        def gateway(dialect: str = "panel_v2", name: str = "panel", **settings: Any) -> Gateway:
            usual = {"dialect": dialect, "url": URL, "api_key": KEY, "requests_per_second": 0, **settings}
            loaded = load_settings(tmp_path, json.dumps({"providers": {name: usual}}))
            return Gateway(name, loaded.providers[name], outbound, Redactor(loaded.secrets()), clock)

        yield gateway


@pytest.fixture
def panel(make: Make) -> Gateway:
    return make("panel_v2")


@pytest.fixture
def hstock(make: Make) -> Gateway:
    return make("hstockplus", "hstock")


def calls(provider: str, action: str, result: str) -> float:
    labels = {"provider": provider, "action": action, "result": result}
    return REGISTRY.get_sample_value("aggregator_provider_calls_total", labels) or 0.0


def timed(provider: str, action: str) -> float:
    labels = {"provider": provider, "action": action}
    return REGISTRY.get_sample_value("aggregator_provider_call_seconds_count", labels) or 0.0


# --- purchases -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "result"),
    [
        ({"order": 23501}, Placed("23501")),
        ({"order": "23501"}, Placed("23501")),
        ({"order": "507f1f77bcf86cd799439011"}, Placed("507f1f77bcf86cd799439011")),
        ({"status": "success", "order": 23501}, Placed("23501")),
    ],
)
async def test_a_placed_purchase_is_told_with_its_id(
    panel: Gateway, hstock: Gateway, mock: Mock, reply: dict[str, Any], result: Placed
) -> None:
    for gateway in (panel, hstock):
        mock.post(URL, payload=reply)
        assert (await gateway.add(FOLLOWERS))[0] == result


async def test_a_purchase_is_asked_for_as_the_document_says(panel: Gateway, mock: Mock) -> None:
    mock.post(URL, payload={"order": 1})
    await panel.add(FOLLOWERS)
    assert mock.forms == [
        {
            "key": KEY,
            "action": "add",
            "service": "1",
            "link": "https://instagram.com/username",
            "quantity": "1000",
        }
    ]


@pytest.mark.parametrize(
    ("status", "text", "meaning", "consequence"),
    [
        (200, "Insufficient balance", Meaning.FUNDS, Consequence.NEXT_OFFER),
        (200, "neworder.error.not_enough_funds", Meaning.FUNDS, Consequence.NEXT_OFFER),
        (200, "Incorrect service ID", Meaning.SERVICE, Consequence.NEXT_OFFER),
        (200, "Quantity less than minimal 100", Meaning.QUANTITY, Consequence.NEXT_OFFER),
        (200, "Out of stock", Meaning.STOCK, Consequence.NEXT_OFFER),
        (200, "Bad Link", Meaning.LINK, Consequence.CALLERS_FAULT),
        (200, "neworder.error.link_duplicate", Meaning.ACTIVE_ORDER, Consequence.LATER),
        (200, "Invalid API key", Meaning.AUTH, Consequence.PROVIDER_DOWN),
        (401, "Invalid API key", Meaning.AUTH, Consequence.PROVIDER_DOWN),
        (422, "You have active order with this link.", Meaning.ACTIVE_ORDER, Consequence.LATER),
    ],
)
async def test_a_listed_reason_is_a_refusal(
    panel: Gateway, hstock: Gateway, mock: Mock, status: int, text: str, meaning: Meaning, consequence: Consequence
) -> None:
    for gateway in (panel, hstock):
        mock.post(URL, status=status, payload={"error": text})
        result, _ = await gateway.add(FOLLOWERS)
        assert isinstance(result, Refused)
        assert (result.meaning, result.consequence, result.text) == (meaning, consequence, text)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, json.dumps({"error": GENERIC})),
        (200, '{"success":true}'),
        (200, "null"),
        (200, ""),
        (200, "<!DOCTYPE html><title>Just a moment...</title>"),
        (200, '{"order": 2350'),
        (500, '{"error":"Insufficient balance"}'),
        (502, "<h1>Web server is down</h1>"),
        (302, ""),
        (404, "{}"),
        (200, json.dumps({"error": "Order not found"})),
    ],
)
async def test_what_proves_nothing_is_unclear(
    panel: Gateway, hstock: Gateway, mock: Mock, status: int, body: str
) -> None:
    for gateway in (panel, hstock):
        mock.post(URL, status=status, body=body)
        result, exchange = await gateway.add(FOLLOWERS)
        assert isinstance(result, Unclear)
        assert (exchange.status, exchange.body) == (status, body)


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (TimeoutError(), "timeout"),
        (aiohttp.ServerDisconnectedError(), "closed"),
        (aiohttp.ClientOSError(104, "Connection reset by peer"), "connection_lost"),
        (aiohttp.ClientPayloadError("Response payload is not completed"), "truncated"),
    ],
)
async def test_a_lost_answer_is_unclear_for_a_reason_that_stays_the_same(
    panel: Gateway, mock: Mock, raised: Exception, reason: str
) -> None:
    mock.post(URL, exception=raised)
    result, exchange = await panel.add(FOLLOWERS)
    assert isinstance(result, Unclear)
    assert result.reason == reason
    assert exchange.outcome.startswith("lost: ")
    assert (exchange.status, exchange.body) == (None, None)


def refused_connection() -> aiohttp.ClientConnectorError:
    key = aiohttp.client_reqrep.ConnectionKey("panel.test", 443, True, True, None, None, None)
    return aiohttp.ClientConnectorError(key, ConnectionRefusedError(111, "Connection refused"))


async def test_a_connection_that_was_never_made_is_not_sent(panel: Gateway, mock: Mock) -> None:
    mock.post(URL, exception=refused_connection())
    result, exchange = await panel.add(FOLLOWERS)
    assert isinstance(result, NotSent)
    assert exchange.outcome.startswith("not_sent: ")


async def test_a_purchase_that_was_lost_is_sent_once(panel: Gateway, mock: Mock) -> None:
    mock.post(URL, exception=aiohttp.ServerDisconnectedError(), repeat=True)
    await panel.add(FOLLOWERS)
    assert len(mock.forms) == 1


async def test_an_idempotency_key_travels_in_its_header_and_not_in_the_form(panel: Gateway, mock: Mock) -> None:
    mock.post(URL, payload={"order": 1})
    await panel.add(AddRequest("1", "smm", SERVICE_TYPES["default"], 10, "https://x.test", idempotency_key="att_1"))
    [[call]] = mock.requests.values()
    assert call.kwargs["headers"]["Idempotency-Key"] == "att_1"
    assert "att_1" not in mock.forms[0].values()
    assert call.kwargs["allow_redirects"] is False


async def test_numbers_are_rented_and_told_one_by_one(hstock: Gateway, mock: Mock) -> None:
    mock.post(URL, payload={"orders": [{"order": 1, "phone": "15550100"}, {"order": 2, "phone": "15550101"}]})
    result, _ = await hstock.add_sms(AddSmsRequest("65f0aa", 3, "us"))
    assert isinstance(result, Placed)
    assert result.numbers == (PlacedNumber("1", "15550100"), PlacedNumber("2", "15550101"))
    assert mock.forms[0]["action"] == "add_sms"


async def test_a_rental_that_timed_out_is_unclear(hstock: Gateway, mock: Mock) -> None:
    mock.post(URL, exception=TimeoutError())
    result, _ = await hstock.add_sms(AddSmsRequest("65f0aa"))
    assert result == Unclear("timeout", "timeout")


# --- the exchange ----------------------------------------------------------------------------------------------------


def whole(exchange: Exchange) -> str:
    return json.dumps(exchange.as_json(), ensure_ascii=False) + repr(exchange)


@pytest.mark.parametrize(
    "echoed",
    [
        KEY,
        "k-very%2Fsecret%2B0001",
        "k-very\\/secret+0001",
    ],
)
async def test_the_key_is_nowhere_even_when_the_provider_echoes_it(panel: Gateway, mock: Mock, echoed: str) -> None:
    mock.post(URL, body='{"error":"Invalid API key ' + echoed + '"}')
    result, exchange = await panel.add(FOLLOWERS)
    assert isinstance(result, Refused)
    for told in (whole(exchange), repr(result)):
        assert KEY not in told
        assert echoed not in told
    assert "[secret]" in (exchange.body or "")
    assert "key" not in dict(exchange.request)
    assert dict(exchange.request)["action"] == "add"


@pytest.mark.parametrize("before", range(EXCERPT_CHARS - len(KEY) - 2, EXCERPT_CHARS + 2))
async def test_no_part_of_the_key_survives_where_a_long_answer_is_cut(panel: Gateway, mock: Mock, before: int) -> None:
    mock.post(URL, body="x" * before + KEY + "x" * 5000)
    _, exchange = await panel.add(FOLLOWERS)
    assert exchange.body is not None
    assert len(exchange.body) <= EXCERPT_CHARS
    assert "k-" not in exchange.body


async def test_an_answer_of_nothing_but_the_key_leaves_nothing_of_it(panel: Gateway, mock: Mock) -> None:
    mock.post(URL, body=KEY * 10_000)
    _, exchange = await panel.add(FOLLOWERS)
    assert "k-" not in (exchange.body or "")
    assert "secret+" not in (exchange.body or "")


async def test_a_link_that_holds_a_secret_is_redacted_in_the_request(panel: Gateway, mock: Mock) -> None:
    mock.post(URL, payload={"order": 1})
    _, exchange = await panel.add(AddRequest("1", "smm", SERVICE_TYPES["default"], 10, f"https://x.test/?t={KEY}"))
    assert KEY not in whole(exchange)


@pytest.mark.parametrize(
    "body",
    [
        '{"order": 5, "accounts": ["user1:pass1", "user2:pass2"]}',
        '{"order": 5, "ACCOUNTS" : "user1:pass1"}',
        '{"order": 5, "accounts": ["user1:pass1", "us',
        '[{"order": 5, "data": {"accounts": {"0": "user1:pass1"}}}]',
    ],
)
async def test_accounts_in_the_answer_to_a_purchase_never_stand_in_its_exchange(
    hstock: Gateway, mock: Mock, body: str
) -> None:
    mock.post(URL, body=body)
    _, exchange = await hstock.add(ACCOUNTS)
    assert "pass1" not in whole(exchange)
    assert "order" in (exchange.body or "")


async def test_nul_and_broken_utf8_do_not_reach_the_journal(panel: Gateway, mock: Mock) -> None:
    mock.post(URL, body=b'\x00{"order"\xff\xfe')
    _, exchange = await panel.add(FOLLOWERS)
    assert "\x00" not in (exchange.body or "")
    json.dumps(exchange.as_json()).encode()


async def test_the_exchange_says_how_long_it_took(panel: Gateway, mock: Mock, clock: ManualClock) -> None:
    mock.post(URL, payload={"order": 1}, callback=lambda *_, **__: clock.advance(1.5))
    _, exchange = await panel.add(FOLLOWERS)
    assert exchange.ms == 1500


# --- statuses --------------------------------------------------------------------------------------------------------


async def test_a_batch_of_statuses_is_one_call(panel: Gateway, mock: Mock) -> None:
    mock.post(
        URL,
        payload={
            "1": {
                "charge": "0.27819",
                "start_count": "3572",
                "status": "Partial",
                "remains": "157",
                "currency": "USD",
            },
            "10": {"error": "Incorrect order ID"},
            "100": {"charge": "1.44219", "start_count": "", "status": "In progress", "remains": None},
        },
    )
    answer = await panel.statuses(["1", "10", "100", "1000"])
    assert isinstance(answer, StatusBatch)
    assert set(answer.reports) == {"1", "100"}
    first = answer.reports["1"]
    assert (first.state, first.charge, first.start_count, first.remains) == (
        OrderState.PARTIAL,
        Money.parse("0.27819", "USD"),
        3572,
        157,
    )
    assert answer.reports["100"].start_count is None
    assert answer.errors["10"][0] is Meaning.UNKNOWN_ORDER
    assert [form["orders"] for form in mock.forms] == ["1,10,100,1000"]


async def test_one_order_alone_is_asked_for_by_the_form_that_every_provider_knows(
    panel: Gateway, hstock: Gateway, mock: Mock
) -> None:
    for gateway in (panel, hstock):
        mock.post(URL, payload={"status": "Completed", "charge": "0.9", "remains": "0"})
        answer = await gateway.statuses(["23501"])
        assert isinstance(answer, StatusBatch)
        assert answer.reports["23501"].state is OrderState.COMPLETED
    assert [form.get("order") for form in mock.forms] == ["23501", "23501"]


async def test_a_product_order_hands_over_its_accounts_in_the_report_alone(hstock: Gateway, mock: Mock) -> None:
    mock.post(URL, payload={"status": "Completed", "charge": "50.00", "accounts": ["user1:pass1", "user2:pass2"]})
    answer = await hstock.status("7")
    assert isinstance(answer, StatusBatch)
    assert answer.reports["7"].accounts == ("user1:pass1", "user2:pass2")
    assert "pass1" not in repr(answer)


async def test_an_unknown_word_concludes_nothing(panel: Gateway, mock: Mock) -> None:
    mock.post(URL, payload={"status": "Marinating", "charge": "1", "remains": "5"})
    answer = await panel.status("1")
    assert isinstance(answer, StatusBatch)
    assert (answer.reports["1"].state, answer.reports["1"].word) == (None, "Marinating")


async def test_a_provider_without_batches_is_asked_one_by_one_and_tried_again_later(
    panel: Gateway, clock: ManualClock
) -> None:
    assert (panel.batches, panel.status_batch) == (True, 100)
    assert panel.use_batch(Batch(BatchForm.SINGLE))
    assert (panel.batches, panel.status_batch) == (False, 1)
    clock.advance(BATCHES_AGAIN_S - 1)
    assert not panel.batches
    clock.advance(1)
    assert (panel.batches, panel.status_batch) == (True, 100)


async def test_a_limit_that_was_found_out_is_tried_again_later(panel: Gateway, clock: ManualClock) -> None:
    """It may have been a passing fault: without that it would be halved and halved again, and never grow."""
    assert panel.use_batch(Batch(BatchForm.ORDER, 12))
    clock.advance(BATCHES_AGAIN_S - 1)
    assert panel.status_batch == 12
    clock.advance(1)
    assert (panel.batch, panel.status_batch) == (Batch(BatchForm.ORDER), 100)
    assert panel.use_batch(Batch(BatchForm.ORDER, 50))
    assert panel.status_batch == 50


async def test_a_dialect_without_batches_never_believes_in_them(hstock: Gateway, clock: ManualClock) -> None:
    clock.advance(10 * BATCHES_AGAIN_S)
    assert (hstock.batches, hstock.status_batch) == (False, 1)


# --- questions that are not answered ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"payload": {"error": "Invalid API key"}}, FailureKind.AUTH),
        ({"status": 401, "payload": {"error": "whatever"}}, FailureKind.AUTH),
        ({"status": 429}, FailureKind.RATE_LIMIT),
        ({"payload": {"error": "Rate limit reached, please slow down"}}, FailureKind.RATE_LIMIT),
        ({"payload": {"error": GENERIC}}, FailureKind.ERROR),
        ({"body": "<!DOCTYPE html>Just a moment…"}, FailureKind.UNREADABLE),
        ({"status": 503, "body": "down"}, FailureKind.UNREADABLE),
        ({"body": ""}, FailureKind.UNREADABLE),
        ({"body": "null"}, FailureKind.UNREADABLE),
        ({"exception": TimeoutError()}, FailureKind.LOST),
        ({"exception": aiohttp.ServerDisconnectedError()}, FailureKind.LOST),
        ({"exception": refused_connection()}, FailureKind.NOT_SENT),
    ],
)
async def test_a_question_without_an_answer_is_a_failure_of_its_kind(
    panel: Gateway, mock: Mock, answer: dict[str, Any], kind: FailureKind
) -> None:
    for ask in (panel.balance, panel.services, lambda: panel.status("1"), lambda: panel.statuses(["1", "2"])):
        mock.post(URL, **answer)
        result = await ask()
        assert isinstance(result, Failure)
        assert result.kind is kind
        assert KEY not in repr(result)


async def test_a_balance_is_exact_and_in_its_currency(panel: Gateway, make: Make, mock: Mock) -> None:
    mock.post(URL, payload={"balance": "100.84292", "currency": "USD"})
    assert await panel.balance() == Money.parse("100.84292", "USD")
    mock.post(URL, body='{"balance": 0.1}')
    assert await make(currency="EUR").balance() == Money.parse("0.1", "EUR")


async def test_the_catalogue_is_read_and_its_mistakes_are_marked(panel: Gateway, mock: Mock) -> None:
    mock.post(
        URL,
        payload=[
            {"service": 1, "name": "Followers", "type": "Default", "category": "First", "rate": "0.90", "min": "50",
             "max": "10000", "refill": True, "cancel": True},
            {"service": "2", "name": "Absurd", "rate": "120481927710.83", "min": 1, "max": 5},
            {"service": 3, "name": "Free", "rate": "0", "min": 1, "max": 5},
            {"name": "nameless"},
        ],
    )  # fmt: skip
    page = await panel.services()
    assert isinstance(page, CataloguePage)
    assert [(row.service, row.problem is None) for row in page.rows] == [("1", True), ("2", False), ("3", False)]
    assert page.unreadable == 1
    assert page.rows[0].rate == Money.parse("0.90", "USD")


async def test_a_limit_goes_with_the_page_where_the_document_has_it(
    panel: Gateway, hstock: Gateway, mock: Mock
) -> None:
    for gateway in (panel, hstock):
        mock.post(URL, payload={"services": [], "total": 700, "page": 2, "limit": 500, "total_pages": 2})
        page = await gateway.services(2, 500)
        assert isinstance(page, CataloguePage)
    assert (mock.forms[0]["page"], "limit" in mock.forms[0]) == ("2", False)
    assert (mock.forms[1]["page"], mock.forms[1]["limit"]) == ("2", "500")


async def test_stock_is_asked_for_one_service(hstock: Gateway, mock: Mock) -> None:
    mock.post(URL, payload={"service": 2, "stock": 42, "available": True})
    assert await hstock.inventory("2") == Inventory("2", 42, True)


# --- refills and cancels ---------------------------------------------------------------------------------------------


async def test_refills_are_told_for_each_order(panel: Gateway, mock: Mock) -> None:
    mock.post(URL, payload=[{"order": 1, "refill": 7}, {"order": 3, "refill": {"error": "Incorrect order ID"}}])
    results, exchange = await panel.refills(["1", "2", "3"], "key-1")
    assert not isinstance(results, NotSent)
    assert results["1"] == RefillAccepted("7")
    assert isinstance(results["2"], Unclear)
    refused = results["3"]
    assert isinstance(refused, RefillRefused)
    assert refused.refusal is RefillRefusal.UNKNOWN_ORDER
    assert dict(exchange.request)["orders"] == "1,2,3"


async def test_a_single_refill_uses_the_single_form(panel: Gateway, mock: Mock) -> None:
    mock.post(URL, payload={"refill": "1"})
    results, _ = await panel.refills(["23501"])
    assert results == {"23501": RefillAccepted("1")}
    assert mock.forms[0]["order"] == "23501"


async def test_refills_whose_answer_is_lost_are_all_unclear(panel: Gateway, mock: Mock) -> None:
    mock.post(URL, exception=TimeoutError())
    results, _ = await panel.refills(["1", "2"])
    assert results == {"1": Unclear("timeout", "timeout"), "2": Unclear("timeout", "timeout")}


async def test_refills_that_never_left_are_not_sent(panel: Gateway, mock: Mock) -> None:
    mock.post(URL, exception=refused_connection())
    results, _ = await panel.refills(["1", "2"])
    assert isinstance(results, NotSent)


async def test_cancels_are_told_for_each_order(panel: Gateway, mock: Mock) -> None:
    mock.post(URL, payload=[{"order": 9, "cancel": {"error": "Incorrect order ID"}}, {"order": 2, "cancel": 1}])
    results, _ = await panel.cancels(["9", "2"])
    assert not isinstance(results, NotSent)
    assert isinstance(results["9"], CancelRefused)
    assert isinstance(results["2"], CancelAsked)


# --- rate limits -----------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's clock stands still, so that a pause can be read off exactly."""
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 1000.0)


@pytest.mark.parametrize(
    ("answer", "quiet_s"),
    [
        ({"status": 429, "headers": {"Retry-After": "17"}}, 17.0),
        ({"status": 429}, 5.0),
        ({"status": 429, "payload": {"error": "Rate limit reached, please slow down"}}, 5.0),
        ({"payload": {"error": "Rate limit reached, please slow down"}}, 5.0),
        ({"payload": {"error": "You can only send 1 request per second"}}, 5.0),
        ({"payload": {"error": "Too many requests. Try again in 20 seconds"}}, 20.0),
        ({"status": 429, "headers": {"Retry-After": "99999"}}, 3600.0),
        ({"status": 503, "headers": {"Retry-After": "60"}}, 60.0),
        ({"payload": {"error": GENERIC}}, 0.0),
        ({"payload": {"order": 1}}, 0.0),
    ],
)
@pytest.mark.usefixtures("frozen")
async def test_a_rate_limit_quiets_the_whole_account(
    panel: Gateway, make: Make, mock: Mock, answer: dict[str, Any], quiet_s: float
) -> None:
    mock.post(URL, **answer)
    await panel.add(FOLLOWERS)
    assert panel.quiet_s == quiet_s
    other = make(name="other")
    mock.post(URL, **answer)
    await other.balance()
    assert other.quiet_s == quiet_s


@pytest.mark.parametrize(
    ("text", "quiet_s"),
    [
        ("Please wait 5 minutes", 300.0),
        ("Flood control: wait 20 sec", 20.0),
        ("API limit reached", 5.0),
        ("Request limit per minute reached", 5.0),
        ("Limit of requests per minute exceeded", 5.0),
        ("Please wait", 0.0),
        (GENERIC, 0.0),
    ],
)
@pytest.mark.usefixtures("frozen")
async def test_a_question_turned_away_for_a_while_quiets_the_account(
    make: Make, mock: Mock, text: str, quiet_s: float
) -> None:
    asks: list[Callable[[Gateway], Awaitable[object]]] = [
        lambda one: one.balance(),
        lambda one: one.services(),
        lambda one: one.statuses(["1", "2"]),
    ]
    for number, ask in enumerate(asks):
        panel = make(name=f"panel{number}")
        mock.post(URL, payload={"error": text})
        await ask(panel)
        assert panel.quiet_s == quiet_s


@pytest.mark.parametrize(
    ("text", "quiet_s"), [("Too many requests, wait 20 seconds", 20.0), ("Incorrect order ID", 0.0), (GENERIC, 0.0)]
)
@pytest.mark.usefixtures("frozen")
async def test_a_rate_limit_told_of_each_order_quiets_the_account(
    make: Make, mock: Mock, text: str, quiet_s: float
) -> None:
    async def told(name: str, answer: object, ask: Callable[[Gateway], Awaitable[object]]) -> float:
        gateway = make(name=name)
        mock.post(URL, payload=answer)
        await ask(gateway)
        return gateway.quiet_s

    error = {"error": text}
    cases: list[tuple[str, object, Callable[[Gateway], Awaitable[object]]]] = [
        ("status", {"1": error, "2": error}, lambda one: one.statuses(["1", "2"])),
        ("refill", error, lambda one: one.refills(["1", "2"])),
        ("one-refill", error, lambda one: one.refills(["1"])),
        ("each-refill", [{"order": 1, "refill": error}], lambda one: one.refills(["1", "2"])),
        ("cancel", [{"order": 1, "cancel": error}], lambda one: one.cancels(["1", "2"])),
        ("refill-status", [{"refill": 1, "status": error}], lambda one: one.refill_statuses(["1", "2"])),
    ]
    for name, answer, ask in cases:
        assert await told(name, answer, ask) == quiet_s, name


@pytest.mark.parametrize("text", ["Please wait 30 minutes before requesting a refill", "too soon, wait 23 hours"])
@pytest.mark.usefixtures("frozen")
async def test_a_refill_that_is_too_early_quiets_nobody(panel: Gateway, mock: Mock, text: str) -> None:
    mock.post(URL, payload={"error": text})
    await panel.refills(["1"])
    assert panel.quiet_s == 0


@pytest.mark.parametrize("text", ["Please wait 5 minutes", "Flood control: wait 20 sec", "API limit reached"])
async def test_a_purchase_turned_away_in_vague_words_is_unclear(panel: Gateway, mock: Mock, text: str) -> None:
    mock.post(URL, payload={"error": text})
    assert isinstance((await panel.add(FOLLOWERS))[0], Unclear)


@pytest.mark.parametrize(
    "answer", [{"status": 404, "payload": {"error": "Order not found"}}, {"body": "<html>"}, {"status": 500}]
)
async def test_retry_after_beside_any_failure_delays_questions_and_no_purchases(
    panel: Gateway, mock: Mock, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    now = 1000.0
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    monkeypatch.setattr("aggregator.providers.gateway.asyncio.sleep", sleep)
    mock.post(URL, headers={"Retry-After": "60"}, **answer)
    await panel.statuses(["1", "2"])
    async with panel.turn(Priority.PURCHASE):
        assert slept == []
    async with panel.turn(Priority.STATUS):
        assert slept == [60.0]


async def test_retry_after_beside_a_success_means_nothing(panel: Gateway, mock: Mock) -> None:
    mock.post(URL, headers={"Retry-After": "60"}, payload={"balance": "1", "currency": "USD"})
    await panel.balance()
    async with asyncio.timeout(1), panel.turn(Priority.STATUS):
        assert panel.quiet_s == 0


@pytest.mark.usefixtures("frozen")
async def test_a_paused_account_lets_nobody_begin(panel: Gateway, mock: Mock) -> None:
    mock.post(URL, status=429, headers={"Retry-After": "60"})
    await panel.balance()
    began = asyncio.Event()

    async def purchase() -> None:
        async with panel.turn(Priority.PURCHASE):
            began.set()

    waiting = asyncio.create_task(purchase())
    for _ in range(10):
        await asyncio.sleep(0)
    assert (began.is_set(), panel.waiting) == (False, 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.usefixtures("frozen")
async def test_a_refused_purchase_carries_the_time_that_the_provider_named(panel: Gateway, mock: Mock) -> None:
    mock.post(URL, status=429, headers={"Retry-After": "17"}, payload={"error": "Too many requests"})
    result, _ = await panel.add(FOLLOWERS)
    assert isinstance(result, Refused)
    assert (result.meaning, result.retry_after_s) == (Meaning.RATE_LIMIT, 17.0)


# --- metrics ---------------------------------------------------------------------------------------------------------


async def test_every_call_is_counted_once_by_how_it_ended(make: Make, mock: Mock) -> None:
    gateway = make(name="counted")
    ends: list[tuple[str, dict[str, Any]]] = [
        ("ok", {"payload": {"order": 1}}),
        ("funds", {"payload": {"error": "Insufficient balance"}}),
        ("unclear", {"body": "null"}),
        ("http_500", {"status": 500}),
        ("lost", {"exception": TimeoutError()}),
        ("not_sent", {"exception": refused_connection()}),
    ]
    for _, answer in ends:
        mock.post(URL, **answer)
        await gateway.add(FOLLOWERS)
    assert {result: calls("counted", "add", result) for result, _ in ends} == {result: 1.0 for result, _ in ends}
    assert timed("counted", "add") == len(ends)
    for result, answer in (
        ("ok", {"payload": {"balance": "1"}}),
        ("lost", {"exception": TimeoutError()}),
        ("auth", {"payload": {"error": "Invalid API key"}}),
    ):
        mock.post(URL, **answer)
        await gateway.balance()
        assert calls("counted", "balance", result) == 1
    assert timed("counted", "balance") == 3


async def test_a_status_that_no_standard_knows_gets_no_series_of_its_own(make: Make, mock: Mock) -> None:
    gateway = make(name="inventive")
    for status in (420, 599, 777, 999):
        mock.post(URL, status=status)
        await gateway.add(FOLLOWERS)
    assert calls("inventive", "add", "http_other") == 4
    assert calls("inventive", "add", "http_599") == 0


# --- another config for the same account -----------------------------------------------------------------------------


async def test_a_gateway_with_other_limits_goes_on_with_what_the_one_before_found_out(make: Make) -> None:
    before = make(timeout_s=30)
    before.use_batch(Batch(BatchForm.ORDER, 50))
    before.tries.note("refills", in_vain=True)
    async with before.turn(Priority.PURCHASE):
        after = make(timeout_s=5, max_concurrency=1)
        after.succeed(before)
        asked = asyncio.ensure_future(_one_turn(after))
        await asyncio.sleep(0)
        assert not asked.done(), "the call that is under way has the only place"
    await asked
    assert (after.batch, after.tries.in_vain("refills")) == (Batch(BatchForm.ORDER, 50), True)
    assert after.timeout_s == 5


@pytest.mark.parametrize(
    "other", [{"url": "https://other.test/api/v2"}, {"api_key": "another-key-0001"}, {"dialect": "hstockplus"}]
)
async def test_another_account_under_the_same_name_begins_anew(make: Make, other: dict[str, Any]) -> None:
    before = make()
    before.use_batch(Batch(BatchForm.ORDER, 50))
    before.tries.note("refills", in_vain=True)
    after = make(**other)
    after.succeed(before)
    assert not after.tries.in_vain("refills")
    assert after.batch.limit != 50


async def _one_turn(gateway: Gateway) -> None:
    async with gateway.turn(Priority.PURCHASE):
        return
