"""What people read: evidence in words, tables with and without a terminal, problems with their remedy."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aggregator.cli.evidence import evidence_words
from aggregator.cli.order_view import show_whole
from aggregator.cli.output import Page, emit_answer
from aggregator.cli.problems import problem_words
from aggregator.cli.providers import books_words, show_provider, state_of
from aggregator.cli.target import Target
from aggregator.cli.words import charged, clean, event_words, money, when

TARGET = Target("http://127.0.0.1:1", "http://127.0.0.1:1", key="secret-key", key_from="--key", options=("--url", "u"))
AT = "2026-11-21T18:00:00.000Z"
USD = {"amount": "0.09", "currency": "USD"}
ORDER: dict[str, Any] = {
    "id": "ord_1",
    "number": 7,
    "service": "plus",
    "kind": "smm",
    "state": "unclear",
    "link": "https://example.com/\x1b[2J",
    "quantity": 100,
    "params": {"comments": "one\ntwo"},
    "provider": "smmplus",
    "expected_cost": USD,
    "error": {"type": "purchase-unclear", "detail": "timeout"},
    "created_at": AT,
}
BALANCE = {"kind": "balance", "at": AT, "balance": "1000.00", "certain": "1000.00", "difference": "0.00"}
ATTEMPT: dict[str, Any] = {
    "ordinal": 1,
    "state": "unclear",
    "provider": "smmplus",
    "service": "1",
    "expected_cost": USD,
    "candidates": [{"provider": "smmplus", "service": "1", "eligible": True, "reason": "chosen: it", "cost": USD}],
    "detail": "timeout",
    "evidence": [],
    "exchange": {"request": {"action": "add", "quantity": "100"}, "outcome": "lost: timeout", "status": None, "ms": 5},
    "sent_at": AT,
}


def words_of(*evidence: dict[str, Any]) -> list[str]:
    return [text for _, text in evidence_words({**ATTEMPT, "evidence": evidence})]


@pytest.mark.parametrize(
    ("one", "words"),
    [
        ({**BALANCE, "shown": "unmoved", "sharp": True}, "not debited by then. Speaks for not bought"),
        ({**BALANCE, "shown": "debited", "sharp": True, "difference": "-0.09"}, "do the 0.09 add up: bought"),
        ({**BALANCE, "shown": "undecided", "sharp": True}, "more than one set of them explains it: says nothing"),
        ({**BALANCE, "shown": "undecided", "sharp": False}, "No purchase explains the difference: says nothing"),
        ({"kind": "verdict", "verdict": "bought"}, "Concluded: it was bought. Only its id at smmplus is unknown"),
        ({"kind": "verdict", "verdict": "not_bought"}, "Concluded: it was not bought"),
        ({"kind": "difference", "difference": "-1.00"}, "differed from the books by -1.00, and nobody knows why"),
        ({"kind": "active_order"}, "speaks for bought"),
        ({"kind": "asked"}, "asked again, for a refund that could hide the debit"),
        ({"kind": "kept", "by": "unclear", "orders": ["ord_1"], "more": 0}, "ord_1, unclear too, may have been bought"),
        (
            {"kind": "kept", "by": "refunds", "orders": ["a", "b"], "more": 3},
            "a refund of a, b and 3 more may have come",
        ),
        ({"kind": "kept", "by": "refunds"}, "a refund of very many orders may have come"),
        ({"kind": "kept", "by": "unanswered"}, "not everybody at smmplus has answered yet"),
        ({"kind": "clock", "forward_s": 3.5}, "put forward by 3.5 s"),
        ({"kind": "clock", "forward_s": -3.5}, "put back by 3.5 s"),
        ({"kind": "repeated", "result": "placed", "detail": "placed as 5"}, "under the same key: placed, placed as 5"),
        ({"kind": "recovered", "provider_order": "55"}, "The order 55 at smmplus can only be this one"),
        ({"kind": "person", "by": "boss", "outcome": "placed"}, "boss said: it was bought"),
        ({"kind": "person", "by": "boss", "outcome": "not_placed"}, "boss said: it was not bought"),
        ({"kind": "of_tomorrow", "at": AT, "moon": 1}, 'of_tomorrow: {"moon": 1}'),
    ],
)
def test_each_piece_of_evidence_has_its_words(one: dict[str, Any], words: str) -> None:
    assert words in words_of(one)[0]


def test_readings_that_say_the_same_stand_together() -> None:
    same = [{**BALANCE, "shown": "unmoved", "sharp": True, "at": f"2026-11-21T18:00:0{n}.000Z"} for n in range(3)]
    told = list(evidence_words({**ATTEMPT, "evidence": [*same, {"kind": "asked", "at": AT}]}))
    assert [at for at, _ in told] == ["2026-11-21 18:00:00Z", "2026-11-21 18:00:00Z"]
    assert told[0][1].endswith("(seen 3 times, last at 2026-11-21 18:00:02Z)")
    assert words_of() == [
        "None yet. The provider's balance is read from time to time while it may still tell something."
    ]


def test_an_unclear_order_ends_with_what_to_decide_and_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    show_whole(Page(), TARGET, ORDER, [ATTEMPT], [])
    said = capsys.readouterr().out
    told, _, desk = said.partition("To decide")
    assert told.startswith("order 7  unclear\n")
    for words in (
        *("2026-11-21 18:00:00Z to smmplus, for its service 1", "action=add, quantity=100"),
        *("no answer: timeout after 5 ms", "should cost  0.09 USD", "None yet."),
        "\n      aggregator orders resolve 7 --placed ID --url u\n",
        "\n      aggregator orders resolve 7 --not-placed --url u\n",
    ):
        assert words in desk, words
    assert "twice" not in desk
    assert "\x1b" not in said
    assert "secret-key" not in said
    bought = {**ATTEMPT, "evidence": [{"kind": "verdict", "at": AT, "verdict": "bought"}]}
    show_whole(Page(), TARGET, ORDER, [bought], [])
    assert "the balance says that it was bought: this would buy it twice" in capsys.readouterr().out


def test_of_a_resolved_order_the_evidence_stays_readable(capsys: pytest.CaptureFixture[str]) -> None:
    said = {"kind": "person", "at": AT, "by": "boss", "outcome": "placed"}
    show_whole(Page(), TARGET, {**ORDER, "state": "pending"}, [{**ATTEMPT, "state": "placed", "evidence": [said]}], [])
    out = capsys.readouterr().out
    assert "evidence   2026-11-21 18:00:00Z  boss said: it was bought." in out
    assert "To decide" not in out


def test_the_same_is_shown_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(force_terminal=True, width=60, file=io.StringIO(), color_system=None, markup=False, emoji=False)
    odd = {**ORDER, "reference": "[bold]:smile:", "numbers": [{"number": 1, "phone": "+1", "codes": [{"code": "55"}]}]}
    odd["refills"] = [{"number": 1, "state": "pending", "drop": 5, "requested_at": AT}]
    event = {"type": "order.dropped", "timestamp": AT, "data": {"sequence": 3, "order": odd, "drop": 5}}
    show_whole(Page(console), TARGET, odd, [ATTEMPT], [event])
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "[bold]:smile:" in said
    assert "aggregator orders resolve 7 --not-placed --url u" in said
    assert "5 lost" in said
    assert "\x1b[2J" not in said
    assert capsys.readouterr().out == ""


def test_plain_tables_are_aligned_whatever_the_width_of_their_letters(capsys: pytest.CaptureFixture[str]) -> None:
    Page().table(("name", ">count"), [("日本", "5"), ("abc", "1000")], indent=1)
    assert capsys.readouterr().out == " NAME  COUNT\n 日本      5\n abc    1000\n"


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        ("plain – текст 👍🏽", "plain – текст 👍🏽"),
        ("👨\u200d👩", "👨\u200d👩"),
        ("a\u00a0b", "a b"),
        ("\x1b[31m\r\n\x9b", "\\x1b[31m\\r\\n\\x9b"),
        ("\u202eabc\ud800", "\\u202eabc\\ud800"),
        (5, "5"),
    ],
)
def test_nothing_that_is_printed_steers_the_terminal(raw: object, safe: str) -> None:
    assert clean(raw) == safe


def test_json_is_the_apis_own_and_safe_on_a_terminal(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = '{"a":"\u009b1m","b":"ü","c":0.10}'.encode()
    emit_answer(body, json.loads(body))
    assert capsysbinary.readouterr().out == body + b"\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    emit_answer(body, json.loads(body))
    assert capsysbinary.readouterr().out.decode() == '{\n  "a": "\\u009b1m",\n  "b": "ü",\n  "c": 0.1\n}\n'


@pytest.mark.parametrize(
    ("problem", "status", "wait_s", "words"),
    [
        (
            {"type": "urn:aggregator:problem:invalid-field", "title": "A field is not valid", "field": "quantity"},
            *(422, 0, "A field is not valid\n  what to do: mend --quantity"),
        ),
        ({"type": "x:invalid-field", "title": "T", "field": "params.comments.3"}, 422, 0, "mend --param comments=…"),
        ({"type": "x:invalid-field", "title": "T", "field": "provider_order"}, 422, 0, "mend --placed"),
        (
            {"type": "x:unknown-service", "title": "T", "detail": "d"},
            422,
            0,
            "T\n  d\n  what to do: see aggregator serv",
        ),
        ({"type": "x:unknown-order", "title": "T"}, 404, 0, "see aggregator orders list --url u"),
        ({"type": "x:unauthenticated", "title": "T"}, 401, 0, "the key came from --key; give one of the daemon's"),
        ({"type": "x:forbidden", "title": "T"}, 403, 0, "the key came from --key; give another"),
        ({"type": "x:unavailable", "title": "T"}, 503, 2, "try again in 2 s"),
        (
            {"type": "x:internal", "title": "T", "instance": "urn:aggregator:request:ab-1"},
            500,
            0,
            "for the request ab-1",
        ),
        ({"type": "x:conflict", "title": "T", "detail": "not now"}, 409, 0, "T\n  not now"),
        ({}, 418, 0, "HTTP 418"),
        (
            {"title": "T", "errors": [{"field": "a", "detail": "b"}, {"field": "c", "detail": "d\x1b"}]},
            *(422, 0, "T\n  a: b\n  c: d\\x1b"),
        ),
    ],
)
def test_a_problem_says_what_to_do(problem: dict[str, Any], status: int, wait_s: float, words: str) -> None:
    said = problem_words(problem, status, wait_s, TARGET)
    assert words in said
    assert "secret-key" not in said


def test_without_a_key_the_remedy_is_to_give_one() -> None:
    said = problem_words({"type": "x:unauthenticated", "title": "T"}, 401, 0, Target("http://a", "http://a"))
    assert said == "T\n  what to do: give a key with --key-file or $AGGREGATOR_KEY"


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        ("order.accepted", {}, ""),
        ("order.placed", {}, "at smmplus as -, expected cost 0.09 USD"),
        ("order.progress", {"order": {"remains": 5, "quantity": 9, "start_count": 0}}, "5 of 9 left, start count 0"),
        ("order.progress", {"order": {"start_count": 3}}, "start count 3"),
        ("order.partial", {"order": {"charge": USD, "remains": 5, "quantity": 9}}, "charge 0.09 USD, 5 of 9 left"),
        ("order.failed", {"order": {"error": {"detail": "nobody"}}}, "nobody"),
        ("order.unclear", {}, "nobody knows whether it was bought: timeout"),
        ("order.delivery", {"total": 2}, "2 of 100 accounts delivered"),
        ("order.dropped", {"drop": 5}, "5 lost"),
        ("refill.requested", {"refill": {"number": 1, "drop": 5}}, "refill 1 for 5 lost"),
        ("refill.completed", {"refill": {"number": 1}}, "refill 1"),
        ("refill.rejected", {"refill": {"number": 1}, "reason": "no"}, "refill 1: no"),
        ("sms.number", {"number": {"phone": "+1"}}, "+1"),
        ("sms.code", {"number": {"phone": "+1"}, "code": {"code": "55"}}, "+1: 55"),
        ("something.new", {}, ""),
    ],
)
def test_each_event_has_its_words(kind: str, more: dict[str, Any], words: str) -> None:
    assert event_words({"type": kind, "data": {"order": ORDER, **more}}) == words


def test_values_in_words() -> None:
    assert (money(None), money(USD)) == ("-", "0.09 USD")
    assert (when(None), when(AT), when("soon")) == ("-", "2026-11-21 18:00:00Z", "soon")
    assert (charged(ORDER), charged({"charge": USD}), charged({})) == ("~0.09 USD", "0.09 USD", "-")


def test_a_provider_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    ledger = {"certain": USD, "difference": {"amount": "-1.00", "currency": "USD"}, "readings": 2, "debits_seen": 4}
    ledger["candidates"] = [{"kind": "refund", "order": "ord_1", "amount": "1.00"}]
    one: dict[str, Any] = {
        "name": "p",
        "configured": True,
        "enabled": True,
        "up": False,
        "breaker": {"open": True, "reason": "timeouts", "since": AT, "until": AT},
        "catalogue": {"error": "HTTP 500"},
        "balance_low": True,
        "ledger": ledger,
    }
    show_provider(Page(), one)
    said = capsys.readouterr().out
    for words in (
        *("provider p  down", "differ by -1.00 USD (seen 2 times)", "down since 2026-11-21 18:00:00Z: timeouts"),
        *("the last sync failed: HTTP 500", "below min_balance", "refund  ord_1  -          1.00"),
    ):
        assert words in said, words
    assert books_words({**ledger, "difference": None}) == "agree, 0.09 USD certain"
    assert books_words(None) == "-"
    assert state_of({**one, "up": True}) == "up"
    assert state_of({**one, "paused": True}) == "paused"
    assert state_of({**one, "enabled": False}) == "disabled"
    assert state_of({**one, "configured": False}) == "not in the config"


def test_commands_to_type_next_are_quoted_for_a_shell() -> None:
    target = Target("http://localhost", "unix:/a", config=Path("/a b"), options=("--config", "/a b"))
    assert target.command("orders", "show", "1") == "aggregator orders show 1 --config '/a b'"
    assert target.how_to_start == "aggregator run --config '/a b'"
