"""The control endpoints over a real socket: what they show, what they change, and what they refuse."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from tests.sandbox.support import START, Site

LINK = "https://example.com/p"


async def answer(site: Site, account: str, action: str, **params: Any) -> object:
    async with site.post(account, action, **params) as reply:
        return await reply.json()


async def test_health_and_accounts(site: Site) -> None:
    assert await site.control("health") == {"ok": True, "seed": 0, "speed": 1.0, "now": 0.0}
    accounts = (await site.control("accounts"))["accounts"]
    assert [(row["name"], row["dialect"], row["key"], row["url"], row["balance"]) for row in accounts] == [
        ("smmplus", "panel_v2", "sandbox-smmplus-key", "/smmplus/api/v2", "1000.00"),
        ("smmcheap", "panel_v2", "sandbox-smmcheap-key", "/smmcheap/api/v2", "200.00"),
        ("hstock", "hstockplus", "sandbox-hstock-key", "/hstock/api/v2", "500.00"),
    ]


async def test_the_ledger_holds_what_was_accepted_and_only_that(site: Site) -> None:
    async with site.add(**{"Idempotency-Key": "k-1"}) as reply:
        assert reply.status == 200
    await answer(site, "smmplus", "add", service=999, link=LINK, quantity=1)
    site.desk.clock.tick(40)
    await answer(site, "smmplus", "refill", orders="23501,9")
    await answer(site, "smmplus", "cancel", orders="23501")
    await answer(site, "hstock", "add_sms", project_id="65f0aa")
    first, refill, number = await site.entries()
    assert first == {
        "n": 1,
        "at": START,
        "account": "smmplus",
        "action": "add",
        "ordinal": 1,
        "order": "23501",
        "orders": ["23501"],
        "refill": None,
        "service": "1",
        "link": LINK,
        "quantity": 1000,
        "params": {"service": "1", "link": LINK, "quantity": "1000"},
        "charge": "0.90",
        "idempotency_key": "k-1",
        "fault": None,
        "withheld": False,
    }
    assert (refill["action"], refill["order"], refill["refill"]) == ("refill", "23501", "1")
    assert (number["account"], number["action"], number["charge"]) == ("hstock", "add_sms", "0.50")
    assert (await site.control("ledger?account=hstock"))["entries"] == [number]


async def test_calls_are_counted_with_their_ids(site: Site) -> None:
    await answer(site, "smmplus", "status", orders="1,2,3")
    await answer(site, "smmplus", "status", order="1")
    await answer(site, "smmplus", "nonsense")
    counted = (await site.control("calls"))["accounts"]["smmplus"]
    assert counted["actions"] == {
        "(unknown)": {"calls": 1, "ids": 0, "id_counts": []},
        "status": {"calls": 2, "ids": 4, "id_counts": [3, 1]},
    }
    await site.control("reset-counts", {})
    assert "status" not in (await site.control("calls"))["accounts"]["smmplus"]["actions"]


async def test_the_most_open_calls_at_once_are_known(site: Site) -> None:
    await site.break_with(fault="delay", delay_s=0.2)
    await asyncio.gather(*(answer(site, "smmplus", "balance") for _ in range(3)))
    counted = (await site.control("calls"))["accounts"]["smmplus"]
    assert (counted["open"], counted["most_open"]) == (0, 3)


async def test_an_account_can_be_changed(site: Site) -> None:
    found = await site.control("accounts/smmplus", {"balance": "0.50", "product_rate_per": 1000, "key": "new"})
    assert (found["balance"], found["product_rate_per"], found["key"]) == ("0.50", 1000, "new")
    refused = await answer(site, "smmplus", "add", service=1, link=LINK, quantity=1000)
    assert refused == {"error": "neworder.error.not_enough_funds"}
    await site.control("accounts/smmplus", {"enabled": False})
    assert await answer(site, "smmplus", "balance") == {"error": "Your account is inactive"}


async def test_a_service_can_be_changed_removed_and_brought_back(site: Site) -> None:
    await site.control("accounts/smmplus/services/1", {"stock": 60, "rate": "100", "min": 1, "max": 99})
    assert await answer(site, "smmplus", "add", service=1, link=LINK, quantity=50) == {"order": 23501}
    assert site.desk.balance("smmplus") == "995.00"
    refused = await answer(site, "smmplus", "add", service=1, link=LINK, quantity=50)
    assert refused == {"error": "neworder.error.not_enough_quantity"}
    await site.control("accounts/smmplus/services/1", {"remove": True})
    rows = site.desk.ask("smmplus", "services")
    assert rows[0]["service"] == 2
    gone = await answer(site, "smmplus", "add", service=1, link=LINK, quantity=5)
    assert gone == {"error": "neworder.error.service_inactive"}
    await site.control("accounts/smmplus/services/1", {"remove": False, "stock": None, "behaviour": "cancel"})
    order = site.desk.buy("smmplus", 1, 50)
    site.desk.clock.tick(5)
    assert site.desk.ask("smmplus", "status", order=order)["status"] == "Canceled"
    found = await site.control("accounts/smmplus/services/1", {"behaviour": {"kind": "drop", "run_s": 1}})
    assert (found["behaviour"]["kind"], found["behaviour"]["run_s"], found["behaviour"]["pending_s"]) == ("drop", 1, 5)


async def test_an_order_can_be_forced_and_its_money_follows(site: Site) -> None:
    order = site.desk.buy("smmplus", 1, 1000)
    path = f"accounts/smmplus/orders/{order}"
    await site.control(path, {"status": "On hold", "start_count": 7})
    found = site.desk.ask("smmplus", "status", order=order)
    assert (found["status"], found["start_count"]) == ("On hold", "7")
    await site.control(path, {"status": "Partial", "remains": 500})
    assert site.desk.ask("smmplus", "status", order=order)["charge"] == "0.45"
    assert site.desk.balance("smmplus") == "999.55"
    await site.control(path, {"status": "Canceled", "remains": None})
    assert site.desk.balance("smmplus") == "1000.00"
    await site.control(path, {"status": "Completed"})
    assert site.desk.balance("smmplus") == "999.10"
    await site.control(path, {"charge": "1.00", "drop": 300})
    found = site.desk.ask("smmplus", "status", order=order)
    assert (found["charge"], found["remains"], site.desk.balance("smmplus")) == ("1.00", "300", "999.00")
    shown = await site.control(path)
    assert (shown["fate"], shown["dropped"], shown["quantity"]) == ("complete", 300, 1000)
    await site.control(path, {"status": None, "start_count": None})
    assert site.desk.ask("smmplus", "status", order=order)["status"] == "Pending"


async def test_a_refill_can_be_forced(site: Site) -> None:
    order = site.desk.buy("smmplus", 1, 1000)
    site.desk.clock.tick(35)
    await site.control(f"accounts/smmplus/orders/{order}", {"drop": 100})
    site.desk.ask("smmplus", "refill", order=order)
    await site.control("accounts/smmplus/refills/1", {"status": "Rejected"})
    site.desk.clock.tick(100)
    assert site.desk.ask("smmplus", "refill_status", refill=1) == {"status": "Rejected"}
    assert site.desk.ask("smmplus", "status", order=order)["remains"] == "100"


async def test_a_code_can_be_pushed_even_after_the_end(site: Site) -> None:
    order = site.desk.ask("hstock", "add_sms", project_id="65f0cc")["orders"][0]["order"]
    path = f"accounts/hstock/numbers/{order}"
    assert (await site.control(path, {"expire": True}))["status"] == "expired"
    assert site.desk.balance("hstock") == "500.00"
    found = await site.control(path, {"code": "424242", "text": "Late: 424242"})
    assert (found["status"], found["charge"]) == ("code_received", "0.7500")
    sent = site.desk.ask("hstock", "sms_code", order=order)
    assert sent == {"status": "completed", "code": "424242", "sms_content": "Late: 424242"}
    assert site.desk.balance("hstock") == "499.25"


async def test_a_project_can_be_changed(site: Site) -> None:
    body = {"country": "us", "price": "1.00", "stock": 1, "behaviour": {"kind": "expire", "lifetime_s": 5}}
    assert len((await site.control("accounts/hstock/projects/65f0aa", body))["projects"]) == 1
    order = site.desk.ask("hstock", "add_sms", project_id="65f0aa", country="us")["orders"][0]["order"]
    assert site.desk.balance("hstock") == "499.00"
    site.desk.clock.tick(5)
    assert site.desk.ask("hstock", "sms_code", order=order)["status"] == "expired"


async def test_time_can_be_moved_on(site: Site) -> None:
    order = site.desk.buy("smmplus", 1, 1000)
    assert await site.control("advance", {"seconds": 35}) == {"now": 35.0}
    assert site.desk.ask("smmplus", "status", order=order)["status"] == "Completed"


async def test_the_count_of_a_link_is_served(site: Site) -> None:
    async with site.session.get(site.server.make_url("/count"), params={"link": LINK}) as reply:
        assert await reply.json() == {"count": site.desk.world.links.count(LINK, 0)}


async def test_wrong_bodies_name_their_field_and_change_nothing(site: Site) -> None:
    order = site.desk.buy("smmplus", 1, 1000)
    wrong: list[tuple[str, object, str]] = [
        ("accounts/smmplus", {"balance": 1.5}, "balance: must be a plain decimal string"),
        ("accounts/smmplus", {"balance": "1", "ballance": "1"}, "ballance: unknown field"),
        ("accounts/smmplus", {"enabled": None}, "enabled: must not be null"),
        ("accounts/smmplus", {"batch": "all"}, "batch: must be one of none, order, orders"),
        ("accounts/smmplus/services/1", {"stock": 1, "rate": "1e3"}, "rate: must be a plain decimal"),
        ("accounts/smmplus/services/1", {"behaviour": "explode"}, "behaviour.kind: must be one of"),
        (f"accounts/smmplus/orders/{order}", {"status": 3}, "status: must be a string"),
        (f"accounts/smmplus/orders/{order}", {"drop": 0}, "drop: must be a whole number"),
        ("advance", {}, "seconds: is required"),
        ("advance", [], "body: must be an object"),
    ]
    for path, body, message in wrong:
        found = await site.control(path, body, status=400)
        assert found["error"].startswith(message)
    for path in ("accounts/nobody", "accounts/smmplus/services/999", "accounts/smmplus/orders/1"):
        await site.control(path, {}, status=404)
    for path in ("accounts/hstock/numbers/1", "accounts/hstock/refills/1", "accounts/hstock/projects/x"):
        await site.control(path, {}, status=404)
    assert site.desk.balance("smmplus") == "999.10"
    assert site.desk.ask("smmplus", "add", service=1, link=LINK, quantity=1000) == {"order": 23502}


async def test_an_idempotency_key_is_honoured_only_where_it_is_switched_on(site: Site) -> None:
    for expected in ({"order": 23501}, {"order": 23502}):
        async with site.add(**{"Idempotency-Key": "a"}) as reply:
            assert await reply.json() == expected
    await site.control("accounts/smmplus", {"honours_idempotency_key": True})
    await site.break_with(fault="close_after", nth=1)
    for _ in range(3):
        try:
            async with site.add(**{"Idempotency-Key": "b"}) as reply:
                assert await reply.json() == {"order": 23503}
        except aiohttp.ServerDisconnectedError:
            continue
    headers = {"Idempotency-Key": "b"}
    async with site.post("smmplus", "add", headers, service=1, link=LINK, quantity=50) as reply:
        assert await reply.json() == {"error": "Idempotency-Key was used for another request"}
    assert len(await site.entries()) == 3


async def test_a_refused_purchase_may_be_repeated_under_its_key(site: Site) -> None:
    await site.control("accounts/smmplus", {"honours_idempotency_key": True, "balance": "0"})
    async with site.add(**{"Idempotency-Key": "a"}) as reply:
        assert "error" in await reply.json()
    await site.control("accounts/smmplus", {"balance": "5"})
    async with site.add(**{"Idempotency-Key": "a"}) as reply:
        assert await reply.json() == {"order": 23501}
