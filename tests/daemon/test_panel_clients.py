"""Clients of the panel protocol that others published, as they are, against the real daemon: each buys and follows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safesmm
import smm as babismm
import smmpy
from optsmm.optsmm import OptSMM

from tests.support.panels import OLD_KEY, STOCK_KEY, panel_call, seller
from tests.support.processes import KEY, DaemonProcess, SandboxProcess, until

LINK = "https://instagram.com/username"


def test_clients_of_the_panel_protocol_work_unchanged(
    sandbox: SandboxProcess, tmp_path: Path, sqlite_database_url: str
) -> None:
    """All of them at once, at one daemon."""
    daemon = seller(tmp_path / "seller", sqlite_database_url, sandbox.url)
    daemon.start()
    try:
        until("the catalogues", lambda: len(panel_call(daemon, "services")) == 7)
        clients: list[Callable[[DaemonProcess, SandboxProcess], None]] = [
            smmpy_buys_follows_refills_and_cancels,
            safesmm_buys_and_follows,
            babismm_buys_in_both_documents_words,
            optsmm_does_everything_by_get,
        ]
        with ThreadPoolExecutor(len(clients)) as pool:
            for one in [pool.submit(client, daemon, sandbox) for client in clients]:
                one.result()
    finally:
        daemon.terminate()


def completes(status: Any, number: Any) -> Any:
    return until(f"order {number} completed", lambda: (s := status(number))["status"] == "Completed" and s)


def smmpy_buys_follows_refills_and_cancels(daemon: DaemonProcess, sandbox: SandboxProcess) -> None:
    client = smmpy.smm(f"{daemon.url}/api/v2", KEY)
    services = {row["service"]: row for row in client.get_services()}
    assert services[1]["rate"] == "0.62"
    assert float(client.get_balance()["balance"]) > 0
    # It sends a quantity with comments, too.
    comments = client.add_order(2, LINK, 99, comments="one\ntwo\nthree\nfour\nfive")["order"]
    order = client.add_order(5, LINK, 200)["order"]
    slow = client.add_order(6, f"{LINK}/slow", 100)["order"]
    told = completes(client.get_status, order)
    assert (told["remains"], told["currency"], told["charge"]) == ("0", "USD", "0.14")
    many = client.get_multi_status([order, slow, 999999])
    assert list(many) == [str(order), str(slow), "999999"]
    assert many["999999"] == {"error": "Incorrect order ID"}
    sandbox.control(f"accounts/smmcheap/orders/{_theirs(daemon, order)}", {"drop": 50})
    refill = client.create_refill(order)["refill"]
    until("its end", lambda: client.get_refill_status(refill)["status"] == "Completed")
    assert client.get_multi_refill_status([refill, 777]) == [
        {"refill": int(refill), "status": "Completed"},
        {"refill": 777, "status": {"error": "Refill not found"}},
    ]
    until("the slow one's purchase", lambda: _theirs(daemon, slow))
    assert client.cancel_orders([slow, 999999]) == [
        {"order": slow, "cancel": 1},
        {"order": 999999, "cancel": {"error": "Incorrect order ID"}},
    ]
    until("the cancel", lambda: client.get_status(slow)["status"] == "Canceled")
    assert completes(client.get_status, comments)["remains"] == "0"
    with pytest.raises(Exception, match="Bad Link"):
        client.add_order(1, "", 100)


def _theirs(daemon: DaemonProcess, number: int) -> Any:
    return daemon.get(f"/v1/orders/{number}").json()["provider_order"]


def safesmm_buys_and_follows(daemon: DaemonProcess, _: SandboxProcess) -> None:
    client = safesmm.SafeSMM(KEY, api_url=f"{daemon.url}/api/v2")
    assert len(client.services()) == 7
    assert client.balance()["currency"] == "USD"
    order = client.add_order(service=1, link=LINK, quantity=100)["order"]
    drip = client.add_order(service=7, link=f"{LINK}/drip", quantity=100, runs=2, interval=1)["order"]
    completes(client.status, order)
    told = until("a run", lambda: (s := client.status(drip))["orders"] and s)
    assert told["runs"] == 2
    assert client.multi_status([order])[str(order)]["status"] == "Completed"
    # Both of its ways to give ids.
    assert client.cancel(order) == [{"order": order, "cancel": {"error": "Cancel is not available"}}]
    with pytest.raises(safesmm.SafeSMMError, match=r"order is not completed"):
        client.refill(drip)
    with pytest.raises(safesmm.SafeSMMError, match="Invalid API key"):
        safesmm.SafeSMM("somebody-elses-key", api_url=f"{daemon.url}/api/v2").balance()


def babismm_buys_in_both_documents_words(daemon: DaemonProcess, _: SandboxProcess) -> None:
    with babismm.SMM(f"{daemon.url}/api/v2", KEY) as client:
        assert client.get_services()[0]["min"] == "50"
        order = client.add_order(service=1, link=LINK, quantity=100)["order"]
        comments = client.add_order(service=2, link=LINK, comments="a\nb\nc\nd\ne")["order"]
        completes(client.get_status, order)
        completes(client.get_status, comments)
        with pytest.raises(babismm.SMMAPIError, match="Quantity less than minimal 50"):
            client.add_order(service=1, link=LINK, quantity=1)
    with babismm.SMM(f"{daemon.url}/api/v2", STOCK_KEY) as client:
        listed: Any = client.get_services()
        assert listed["services"][0]["min"] == 50
        product = client.add_order(service=3, quantity=2)["order"]
        told = completes(client.get_status, product)
        assert (told["entityType"], len(told["accounts"])) == ("product", 2)
        with pytest.raises(babismm.SMMAPIError, match="Out of stock"):
            client.add_order(service=8, quantity=4)
        with pytest.raises(babismm.SMMAPIError, match="Order not found"):
            client.get_status(order)


def optsmm_does_everything_by_get(daemon: DaemonProcess, _: SandboxProcess) -> None:
    async def run() -> None:
        client = OptSMM(OLD_KEY)
        client.base_url = f"{daemon.url}/api/v2"
        balance, currency = await client.balance()
        assert (balance > 0, currency) == (True, "USD")
        assert [row["service"] for row in await client.search_services("followers")] == [1, 6, 7]
        order = await client.create_order(1, LINK, 100)
        assert isinstance(order, int)
        assert (await client.order_status(order))["status"] in ("Pending", "In progress", "Processing", "Completed")
        careful = OptSMM(KEY)
        careful.base_url = client.base_url
        with pytest.raises(Exception, match="send this action by POST"):
            await careful.create_order(1, LINK, 100)

    asyncio.run(run())
    assert OLD_KEY not in daemon.log.read_text()
