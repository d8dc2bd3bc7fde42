"""Every fault over a real socket: what the caller meets, and what the provider really accepted."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import aiohttp
import pytest

from aggregator.sandbox.dialects import ACTIONS
from aggregator.sandbox.faults import FAULTS, FaultBook, FaultRule, read_rules
from aggregator.sandbox.fields import FieldError
from tests.sandbox.support import Site

ACCEPTED = {name for name, fault in FAULTS.items() if fault.stage != "before"}
BOTH = pytest.mark.parametrize("site", [False, True], indirect=True)
"""Whether the web server cancels the handler of a client that left, or lets it find out."""
NO_ANSWER = ["timeout_before", "timeout_after", "reset_before", "reset_after", "close_before", "close_after"]


@pytest.fixture(autouse=True)
def no_server_errors(caplog: pytest.LogCaptureFixture) -> object:
    """A broken connection is what was asked for: the server must not trip over it."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def settled(site: Site, fault: str) -> None:
    """The ledger and the balance say that the call was accepted exactly if the fault's stage says so."""
    accepted = fault in ACCEPTED
    entries = await site.entries()
    assert [entry["fault"] for entry in entries] == ([fault] if accepted else [])
    assert all(entry["withheld"] is (FAULTS[fault].stage == "after") for entry in entries)
    assert site.desk.balance("smmplus") == ("999.10" if accepted else "1000.00")


async def raw(site: Site) -> tuple[bytes, bool]:
    """Everything that comes back on a bare connection, and whether it ended with a reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
    form = b"key=sandbox-smmplus-key&action=add&service=1&quantity=1000&link=https://example.com/p"
    head = "POST /smmplus/api/v2 HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(form) + form)
    received, was_reset = b"", False
    try:
        while piece := await asyncio.wait_for(reader.read(65_536), 5):
            received += piece
    except ConnectionResetError:
        was_reset = True
    writer.close()
    return received, was_reset


@pytest.mark.parametrize("fault", NO_ANSWER)
async def test_no_answer_at_all(site: Site, fault: str) -> None:
    await site.break_with(fault=fault, **({"delay_s": 0.01} if "timeout" in fault else {}))
    assert await raw(site) == (b"", fault.startswith("reset"))
    await settled(site, fault)


@pytest.mark.parametrize("fault", ["reset_after", "close_after"])
async def test_a_lost_answer_is_a_client_error_and_a_post_is_not_repeated(site: Site, fault: str) -> None:
    await site.break_with(fault=fault)
    with pytest.raises(aiohttp.ClientError):
        await site.add()
    await settled(site, fault)


@pytest.mark.parametrize("fault", ["timeout_before", "timeout_after"])
@BOTH
async def test_a_held_call_ends_when_the_client_gives_up(site: Site, fault: str) -> None:
    await site.break_with(fault=fault)
    with pytest.raises(asyncio.TimeoutError):
        async with asyncio.timeout(0.1):
            await site.add()
    await settled(site, fault)
    await site.idle()


@BOTH
async def test_a_delay_answers_after_all_and_only_if_the_client_waits(site: Site) -> None:
    await site.break_with(fault="delay", delay_s=0.06)
    async with site.add() as reply:
        assert await reply.json() == {"order": 23501}
    await settled(site, "delay")
    await site.break_with(fault="delay", delay_s=60)
    with pytest.raises(asyncio.TimeoutError):
        async with asyncio.timeout(0.05):
            await site.add()
    await site.idle()
    await settled(site, "delay")


@BOTH
async def test_a_late_acceptance_happens_although_the_client_has_gone(site: Site) -> None:
    await site.break_with(fault="accept_late", delay_s=0.2)
    with pytest.raises(asyncio.TimeoutError):
        async with asyncio.timeout(0.05):
            await site.add()
    assert await site.entries() == []
    await site.accepted(1)
    await settled(site, "accept_late")


@pytest.mark.parametrize(
    ("fault", "status", "content_type", "part"),
    [
        ("http_500_before", 500, "text/html", "Web server is down"),
        ("http_500_after", 500, "text/html", "Web server is down"),
        ("http_429", 429, "application/json", "Rate limit reached"),
        ("html", 200, "text/html", "Just a moment"),
        ("html_after", 200, "text/html", "Just a moment"),
        ("wrong_json_before", 200, "application/json", "null"),
        ("wrong_json_after", 200, "application/json", "null"),
        ("error_text", 200, "application/json", '{"error": "There was an error processing your request.'),
        ("error_text_after", 200, "application/json", '{"error": "There was an error processing your request.'),
    ],
)
async def test_a_wrong_answer(site: Site, fault: str, status: int, content_type: str, part: str) -> None:
    await site.break_with(fault=fault)
    async with site.add() as reply:
        assert (reply.status, reply.content_type) == (status, content_type)
        assert part in await reply.text()
    await settled(site, fault)


async def test_a_rule_may_set_status_body_type_and_headers(site: Site) -> None:
    await site.break_with(
        fault="wrong_json_after",
        status=422,
        body="[]",
        content_type="text/plain",
        headers={"Retry-After": "7", "content-type": "text/csv"},
    )
    async with site.add() as reply:
        assert (reply.status, await reply.text(), reply.content_type) == (422, "[]", "text/csv")
        assert reply.headers["Retry-After"] == "7"
    await settled(site, "wrong_json_after")
    await site.break_with(fault="error_text", body="Out of stock")
    async with site.add() as reply:
        assert await reply.json() == {"error": "Out of stock"}


@pytest.mark.parametrize("fault", ["truncated_before", "truncated_after"])
async def test_half_the_json_in_a_right_frame(site: Site, fault: str) -> None:
    await site.break_with(fault=fault)
    async with site.add() as reply:
        text = await reply.text()
        assert len(text) == int(reply.headers["Content-Length"]) > 0
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    await settled(site, fault)


@pytest.mark.parametrize("fault", ["short_body_before", "short_body_after"])
async def test_a_body_shorter_than_announced(site: Site, fault: str) -> None:
    await site.break_with(fault=fault)
    with pytest.raises(aiohttp.ClientPayloadError):
        async with site.add() as reply:
            await reply.read()
    await settled(site, fault)
    received, was_reset = await raw(site)
    head, body = received.split(b"\r\n\r\n")
    announced = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    assert 0 < len(body) < announced
    assert not was_reset


@pytest.mark.parametrize("fault", ["redirect", "redirect_after"])
async def test_a_redirect_shows_who_follows_it(site: Site, fault: str) -> None:
    await site.break_with(fault=fault, status=307)
    async with site.add() as reply:
        assert (reply.status, reply.headers["Location"]) == (307, "/smmplus/redirected")
    assert "(redirected)" not in (await site.control("calls"))["accounts"]["smmplus"]["actions"]
    await settled(site, fault)
    async with site.session.post(site.server.make_url("/smmplus/redirected"), data={"key": "x"}):
        counted = (await site.control("calls"))["accounts"]["smmplus"]["actions"]
    assert counted["(redirected)"]["calls"] == 1


@pytest.mark.parametrize("fault", ["huge", "huge_after"])
async def test_a_huge_body(site: Site, fault: str) -> None:
    await site.break_with(fault=fault)
    async with site.add() as reply:
        body = await reply.read()
    assert len(body) > 10 * 1024 * 1024
    assert list(json.loads(body)) == ["error"]
    await settled(site, fault)


@BOTH
async def test_a_client_that_leaves_a_huge_body_ends_it(site: Site) -> None:
    await site.break_with(fault="huge")
    reply = await site.add()
    reply.close()
    await site.idle()
    await settled(site, "huge")


def test_every_fault_is_met_by_a_test_of_this_file() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [fault for fault in FAULTS if f'"{fault}"' not in source] == []


async def test_a_fault_meets_only_its_account_and_action(site: Site) -> None:
    await site.break_with(fault="http_500_before", account="smmcheap", action="add")
    async with site.add() as reply:
        assert reply.status == 200
    async with site.post("smmcheap", "balance") as reply:
        assert reply.status == 200
    async with site.post("smmcheap", "add", service=1, link="https://example.com/p", quantity=100) as reply:
        assert reply.status == 500


def picks(rule: FaultRule, calls: int = 6, seed: int = 0) -> str:
    book = FaultBook(seed, [rule])
    return "".join("x" if book.pick("smmplus", "add") else "." for _ in range(calls))


def test_nth_after_count_and_probability_choose_the_calls() -> None:
    assert picks(FaultRule("html")) == "xxxxxx"
    assert picks(FaultRule("html", nth=3)) == "..x..."
    assert picks(FaultRule("html", after=4)) == "....xx"
    assert picks(FaultRule("html", count=2)) == "xx...."
    assert picks(FaultRule("html", after=1, count=2)) == ".xx..."
    assert picks(FaultRule("html", probability=0)) == "......"
    some = picks(FaultRule("html", probability=0.3), 1000)
    assert 200 < some.count("x") < 400
    assert some == picks(FaultRule("html", probability=0.3), 1000)
    assert some != picks(FaultRule("html", probability=0.3), 1000, seed=1)


def test_rules_that_are_put_in_force_again_meet_other_luck_and_the_same_in_every_run() -> None:
    def lots(seed: int) -> list[str]:
        book = FaultBook(seed)
        found = []
        for _ in range(50):
            book.replace([FaultRule("html", probability=0.5)])
            found.append("".join("x" if book.pick("smmplus", "add") else "." for _ in range(4)))
        return found

    assert len(set(lots(0))) > 5
    assert lots(0) == lots(0) != lots(1)


def test_the_first_rule_that_applies_wins_and_all_count_the_call() -> None:
    book = FaultBook(0, [FaultRule("html", nth=2), FaultRule("huge", nth=2), FaultRule("delay", nth=3)])
    found = [book.pick("smmplus", "add") for _ in range(3)]
    assert [rule.fault if rule else None for rule in found] == [None, "html", "delay"]
    assert [row["happened"] for row in book.shown()] == [1, 0, 1]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"faults": 3}, "faults: must be a list of rules"),
        (["html"], "faults[0]: must be an object"),
        ([{}], "faults[0].fault: is required"),
        ([{"fault": "fire"}], "faults[0].fault: must be one of accept_late, close_after"),
        ([{"fault": "html"}, {"fault": "html", "often": 1}], "faults[1].often: unknown field; known are fault"),
        ([{"fault": "html", "account": "nobody"}], "faults[0].account: must be one of hstock"),
        ([{"fault": "html", "action": "fly"}], "faults[0].action: must be one of add"),
        ([{"fault": "html", "probability": 3}], "faults[0].probability: must be from 0 to 1, got 3"),
        ([{"fault": "html", "nth": 0}], "faults[0].nth: must be a whole number from 1"),
        ([{"fault": "html", "count": True}], "faults[0].count: must be a whole number from 1"),
        ([{"fault": "html", "delay_s": "1"}], "faults[0].delay_s: must be a number"),
        ([{"fault": "html", "delay_s": float("nan")}], "faults[0].delay_s: must be a number"),
        ([{"fault": "html", "status": 700}], "faults[0].status: must be a whole number from 200 to 599"),
        ([{"fault": "html", "body": {}}], "faults[0].body: must be a string"),
        ([{"fault": "html", "headers": {"A": 1}}], "faults[0].headers: must be an object of strings"),
        ([{"fault": "html", "headers": {"A": "1\n2"}}], "faults[0].headers: must not hold control characters"),
        ({"faults": [], "fault": 1}, "fault: unknown field; known are faults"),
    ],
)
def test_a_wrong_rule_names_its_field(rules: object, message: str) -> None:
    with pytest.raises(FieldError) as caught:
        read_rules(rules, ["smmplus", "hstock"], ACTIONS)
    assert str(caught.value).startswith(message)


async def test_wrong_rules_leave_the_old_ones_in_force(site: Site) -> None:
    await site.break_with(fault="html")
    answer = await site.control("faults", [{"fault": "html", "x": 1}], status=400)
    assert answer["error"].startswith("faults[0].x: unknown field")
    assert [rule["fault"] for rule in (await site.control("faults"))["faults"]] == ["html"]


async def test_a_held_call_ends_when_the_sandbox_closes(site: Site) -> None:
    await site.break_with(fault="timeout_after")
    held = asyncio.ensure_future(raw(site))
    await site.open_calls(1)
    async with asyncio.timeout(5):
        await site.server.close()
        assert (await held)[0] == b""
