"""How calls come in at the panel door: keys, forms, methods; every mistake is the protocol's one form of error."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp import FormData
from structlog.testing import capture_logs

from aggregator.config.callers import Panel
from aggregator.domain.catalogue import PARAMS
from aggregator.domain.errors import StorageUnavailable
from aggregator.providers.contract import CONSEQUENCES, Consequence, Meaning
from aggregator.providers.meanings import meaning_of
from aggregator.storage import orders
from aggregator.web.panel.fields import LARGE
from aggregator.web.panel.words import Refused, Word
from tests.web.panel.support import ADMIN, LINK, OLD, OTHER, READER, SMM, STOCK, PanelDoors

ADD = {"key": SMM, "action": "add", "service": "1", "link": LINK, "quantity": "1000"}


def _part(header: bytes) -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="key"\r\n' + header + b"\r\n\r\n\xff!\r\n--x--\r\n"


@pytest.mark.parametrize("key", ["", "wrong-key-0123456789", "käse", "x" * 5000, "\x7f"])
async def test_a_key_that_is_none_is_an_invalid_one(sqlite_doors: PanelDoors, key: str) -> None:
    answer = await sqlite_doors.panel("balance", key=key)
    # A control character is refused before anybody looks whose key it is.
    assert answer == {"error": "Invalid API key" if key != "\x7f" else "Incorrect key"}


async def test_no_key_at_all_is_an_invalid_one(sqlite_doors: PanelDoors) -> None:
    assert (await sqlite_doors.send(b"action=balance"))[0] == {"error": "Invalid API key"}
    assert (await sqlite_doors.send(b""))[0] == {"error": "Invalid API key"}


@pytest.mark.parametrize(("key", "words"), [(SMM, "Incorrect request"), (STOCK, "Invalid action")])
async def test_an_unknown_action_is_told_in_the_documents_words(sqlite_doors: PanelDoors, key: str, words: str) -> None:
    for action in ("", "drop", "ADD", "__init__"):
        assert await sqlite_doors.panel(action, key=key) == {"error": words}


async def test_a_reader_may_look_but_not_buy(sqlite_doors: PanelDoors) -> None:
    answer = await sqlite_doors.panel("add", key=READER, service=1, link=LINK, quantity=1000)
    assert answer == {"error": "Invalid API key: this needs a key with the scope admin or orders"}
    assert await sqlite_doors.stored() == 0
    for action in ("refill", "cancel", "add_sms"):
        assert "scope" in (await sqlite_doors.panel(action, key=READER, order=1, orders="1", project_id=3))["error"]
    assert "balance" in await sqlite_doors.panel("balance", key=READER)


async def test_calls_come_as_form_json_or_multipart(sqlite_doors: PanelDoors) -> None:
    bodies: list[tuple[bytes, str | None]] = [
        (urlencode(ADD).encode(), "application/x-www-form-urlencoded"),
        (urlencode(ADD).encode(), "application/x-www-form-urlencoded; charset=UTF-8"),
        (urlencode(ADD).encode(), "text/plain"),
        (json.dumps(ADD).encode(), "application/json"),
        (json.dumps({**ADD, "service": 1, "quantity": 1000, "runs": None}).encode(), "application/json; charset=utf-8"),
        (json.dumps(ADD).encode(), "application/x-www-form-urlencoded"),
    ]
    for body, kind in bodies:
        assert "order" in (await sqlite_doors.send(body, kind))[0], (body, kind)
    form = FormData()
    for name, value in ADD.items():
        form.add_field(name, value, content_type="text/plain")
    async with sqlite_doors.client.post("/api/v2/", data=form) as reply:
        assert "order" in json.loads(await reply.text())
    assert await sqlite_doors.stored() == len(bodies) + 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "application/json"),
        (b"[1, 2]", "application/json"),
        (b'{"key": {"a": 1}}', "application/json"),
        (b'{"key": 0.5}', "application/json"),
        (b"\xff\xfe", "application/x-www-form-urlencoded"),
        (b"key=%ff%fe", "application/x-www-form-urlencoded"),
        (b"&".join(b"a=1" for _ in range(2000)), "application/x-www-form-urlencoded"),
        (json.dumps({str(n): 1 for n in range(2000)}).encode(), "application/json"),
        (b"--x\r\nnonsense", "multipart/form-data; boundary=x"),
        (b"nonsense", "multipart/form-data"),
        (_part(b"Content-Type: text/plain; charset=nonsense"), "multipart/form-data; boundary=x"),
        (_part(b"Content-Transfer-Encoding: base64"), "multipart/form-data; boundary=x"),
        (_part(b"Content-Transfer-Encoding: nonsense"), "multipart/form-data; boundary=x"),
        (_part(b"Content-Encoding: gzip"), "multipart/form-data; boundary=x"),
        (_part(b"Content-Encoding: nonsense"), "multipart/form-data; boundary=x"),
        (b"<html>", "text/html"),
        (b"x" * 2_000_000, "application/x-www-form-urlencoded"),
    ],
    ids=range(17),
)
async def test_what_cannot_be_read_is_an_error_of_the_protocol(
    sqlite_doors: PanelDoors, body: bytes, kind: str
) -> None:
    with capture_logs() as lines:
        answer, _ = await sqlite_doors.send(body, kind)
    assert list(answer) == ["error"]
    assert answer["error"]
    # Nobody without a key writes a traceback into the log.
    assert "request_failed" not in {line["event"] for line in lines}


async def test_a_file_is_no_parameter(sqlite_doors: PanelDoors) -> None:
    form = FormData(ADD)
    form.add_field("comments", b"nice", filename="comments.txt")
    async with sqlite_doors.client.post("/api/v2", data=form) as reply:
        assert json.loads(await reply.text()) == {"error": "Incorrect request"}
    assert await sqlite_doors.stored() == 0


@pytest.mark.parametrize("name", ["link", "comments", "reference", "key", "x" * 200])
async def test_control_characters_are_in_no_parameter(sqlite_doors: PanelDoors, name: str) -> None:
    body = urlencode({**ADD, name: f"{SMM}\x00"}).encode()
    answer, _ = await sqlite_doors.send(body)
    assert answer["error"] in ("Bad Link", f"Incorrect {name[:64]}")
    assert await sqlite_doors.stored() == 0


async def test_reads_come_by_get_too_and_purchases_only_for_keys_that_may(sqlite_doors: PanelDoors) -> None:
    for query in ({"key": SMM, "action": "balance"}, {"key": SMM, "action": "services"}):
        answer, _ = await sqlite_doors.send(None, None, method="GET", query=query)
        assert "error" not in answer
    for action in ("add", "refill", "cancel", "add_sms"):
        answer, _ = await sqlite_doors.send(None, None, method="GET", query={**ADD, "action": action, "orders": "1"})
        assert answer == {"error": "Incorrect request: send this action by POST"}
    assert await sqlite_doors.stored() == 0
    answer, _ = await sqlite_doors.send(None, None, method="GET", query={**ADD, "key": OLD})
    assert "order" in answer
    async with sqlite_doors.client.head("/api/v2", params={**ADD, "key": OLD}) as head:
        assert head.status == 405
    assert await sqlite_doors.stored() == 1


async def test_a_post_may_have_its_key_in_the_query(sqlite_doors: PanelDoors) -> None:
    body = urlencode({name: value for name, value in ADD.items() if name != "key"}).encode()
    assert "order" in (await sqlite_doors.send(body, query={"key": SMM, "quantity": "5"}))[0]


async def test_a_query_and_a_key_are_in_no_log(sqlite_doors: PanelDoors) -> None:
    with capture_logs() as lines:
        await sqlite_doors.send(None, None, method="GET", query={**ADD, "key": OLD})
        await sqlite_doors.panel("add", service=1, link="https://secret.example/", quantity=1)
    text = json.dumps(lines, default=str)
    assert [line["action"] for line in lines if line["event"] == "request"] == ["add", "add"]
    for secret in (OLD, SMM, "secret.example", "instagram.com"):
        assert secret not in text


async def test_too_many_calls_are_told_to_slow_down(sqlite_doors: PanelDoors) -> None:
    answers = [await sqlite_doors.panel("balance", key="quick-key-0123456789") for _ in range(4)]
    assert {"error": "Rate limit reached, please slow down"} in answers
    body = urlencode({"key": "quick-key-0123456789", "action": "balance"}).encode()
    _, headers = await sqlite_doors.send(body)
    assert headers["Retry-After"] == "1"


async def test_open_orders_are_limited(sqlite_doors: PanelDoors) -> None:
    key = "small-key-0123456789"
    await sqlite_doors.add(key=key)
    answer = await sqlite_doors.panel("add", key=key, service=1, link=LINK, quantity=1000)
    assert answer == {"error": "Rate limit reached, please slow down"}


async def test_a_database_that_is_away_proves_nothing(sqlite_doors: PanelDoors, monkeypatch: Any) -> None:
    async def away(*_: object) -> None:
        raise StorageUnavailable("the disk is full")

    monkeypatch.setattr(sqlite_doors.intake, "take", away)
    answer = await sqlite_doors.panel("add", service=1, link=LINK, quantity=1000)
    assert answer == {"error": "There was an error processing your request. Please try again later"}


async def test_what_nobody_foresaw_proves_nothing(sqlite_doors: PanelDoors, monkeypatch: Any) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(sqlite_doors.intake, "take", broken)
    with capture_logs() as lines:
        answer = await sqlite_doors.panel("add", service=1, link=LINK, quantity=1000)
    assert answer == {"error": "There was an error processing your request. Please try again later"}
    assert any(line["event"] == "request_failed" for line in lines)


@pytest.mark.parametrize("panel", ["smm_plus", "hstockplus"])
@pytest.mark.parametrize(
    ("word", "about", "meaning"),
    [
        (Word.KEY, "", Meaning.AUTH),
        (Word.SCOPE, "admin or orders", Meaning.AUTH),
        (Word.RATE_LIMIT, "", Meaning.RATE_LIMIT),
        (Word.SERVICE, "", Meaning.SERVICE),
        (Word.ORDER, "", Meaning.UNKNOWN_ORDER),
        (Word.STOCK, "", Meaning.STOCK),
        (Word.QUANTITY, "", Meaning.QUANTITY),
        (Word.MINIMUM, 100, Meaning.QUANTITY),
        (Word.MAXIMUM, 5000, Meaning.QUANTITY),
        (Word.LINK, "", Meaning.LINK),
        (Word.PARAMETER, "comments", Meaning.PARAMETERS),
        *((Word.PARAMETER, name, None) for name in sorted(PARAMS)),
        (Word.TOO_LARGE, "", Meaning.PARAMETERS),
        (Word.BUSY, "", Meaning.GENERIC),
    ],
)
def test_every_refusal_of_a_purchase_is_one_that_our_own_dialects_know(
    word: Word, about: object, meaning: Meaning | None, panel: Panel
) -> None:
    """One that is not would leave a buyer not knowing, although nothing was taken. None: any that proves so."""
    read = meaning_of(Refused(word, about).sentence(panel))
    if meaning is None:
        assert CONSEQUENCES[read] in (Consequence.NEXT_OFFER, Consequence.CALLERS_FAULT)
    else:
        assert read is meaning


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
async def test_ten_thousand_comments_are_one_parameter(sqlite_doors: PanelDoors, kind: str) -> None:
    await sqlite_doors.change("2", minimum=1)
    comments = "\n".join(f"nice {n} 👍" for n in range(8_000))
    fields = {**ADD, "service": "5", "comments": comments}
    body = (json.dumps(fields) if kind.endswith("json") else urlencode(fields)).encode()
    assert len(body) > LARGE
    answer, _ = await sqlite_doors.send(body, kind)
    order = await sqlite_doors.house.database.read(lambda c: orders.load(c, answer["order"]))
    assert order is not None
    assert (order.quantity, order.params["comments"]) == (8_000, comments)


async def test_what_is_too_large_is_refused_in_words_that_prove_it(sqlite_doors: PanelDoors) -> None:
    body = urlencode({**ADD, "comments": "x" * 2_000_000}).encode()
    assert (await sqlite_doors.send(body))[0] == {"error": "Request is too large"}


async def test_a_refusal_does_not_log_what_was_sent(sqlite_doors: PanelDoors) -> None:
    with capture_logs() as lines:
        answer = await sqlite_doors.panel("add", service=1, link=LINK, quantity="pasted-key")
    assert answer == {"error": "Incorrect quantity"}
    assert "pasted-key" not in json.dumps(lines, default=str)
    assert [line["field"] for line in lines if line["event"] == "panel_refused"] == ["quantity"]


async def test_a_foreign_order_is_an_unknown_one(sqlite_doors: PanelDoors) -> None:
    number = await sqlite_doors.add()
    assert await sqlite_doors.panel("status", key=OTHER, order=number) == {"error": "Incorrect order ID"}
    assert await sqlite_doors.panel("status", key=STOCK, order=number) == {"error": "Order not found"}
    assert (await sqlite_doors.panel("status", key=ADMIN, order=number))["status"] == "Pending"
    assert (await sqlite_doors.panel("status", key=READER, order=number))["status"] == "Pending"
