"""The daemon as the provider of another daemon, and that one as the provider of a third: the whole job through all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.panels import STOCK_KEY, buyer, panel_call, seller
from tests.support.processes import DaemonProcess, SandboxProcess, until

LINK = "https://instagram.com/username"
FINAL = ("completed", "partial", "canceled", "failed")
Chain = list[DaemonProcess]
"""The outermost first; the last one buys at the sandbox."""


@pytest.fixture
def started() -> Iterator[Callable[[DaemonProcess], DaemonProcess]]:
    """Starts daemons; whatever still runs at the end is killed."""
    made: Chain = []

    def start(daemon: DaemonProcess) -> DaemonProcess:
        made.append(daemon)
        daemon.start()
        return daemon

    yield start
    for daemon in made:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()


def chain_of(
    length: int,
    started: Callable[[DaemonProcess], DaemonProcess],
    folder: Path,
    database: str,
    sandbox: SandboxProcess,
    *,
    idempotent_add: bool = False,
) -> Chain:
    chain = [started(seller(folder / "seller", database, sandbox.url, idempotent_add=idempotent_add))]
    until("the catalogues", lambda: len(panel_call(chain[0], "services")) == 7)
    until("the projects", lambda: panel_call(chain[0], "sms_projects", key=STOCK_KEY))
    for place in range(1, length):
        chain.insert(0, started(buyer(folder / f"buyer{place}", chain[0])))
        until("the next one's catalogue", lambda: len(panel_call(chain[0], "services")) >= 6)
        until("the next one's projects", lambda: panel_call(chain[0], "sms_projects", key=STOCK_KEY))
    return chain


def place(daemon: DaemonProcess, service: str, quantity: int, **fields: Any) -> int:
    answer = daemon.post("/v1/orders", {"service": service, "quantity": quantity, **fields})
    assert answer.status == 201, answer.body
    return int(answer.json()["number"])


def order(daemon: DaemonProcess, number: int) -> Any:
    return daemon.get(f"/v1/orders/{number}").json()


def ended(daemon: DaemonProcess, number: int, within_s: float = 60.0) -> Any:
    return until(f"the end of {number}", lambda: (o := order(daemon, number))["state"] in FINAL and o, within_s)


def works(chain: Chain, sandbox: SandboxProcess) -> None:
    """One order of each kind, followed to its end, and one purchase of each at the sandbox."""
    outer = chain[0]
    followers = place(outer, "followers", 100, link=LINK)
    gmail = place(outer, "gmail", 2)
    codes = place(outer, "code", 2, params={"country": "us"})
    drops = place(outer, "drops", 200, link=f"{LINK}/drops")
    slow = place(outer, "slow", 100, link=f"{LINK}/slow")

    done = ended(outer, followers)
    # What everybody asks is what the sandbox charges: nobody adds anything.
    assert (done["state"], done["charge"], done["remains"]) == ("completed", {"amount": "0.062", "currency": "USD"}, 0)
    assert done["start_count"] is not None
    product = ended(outer, gmail)
    assert product["state"] == "completed"
    accounts = outer.get(f"/v1/orders/{gmail}/delivery").json()["accounts"]
    assert len(set(accounts)) == 2

    rented = ended(outer, codes)
    assert rented["state"] == "completed"
    assert [len(one["codes"]) for one in rented["numbers"]] == [1, 1]
    assert all(one["phone"].startswith("+1202") for one in rented["numbers"])

    assert ended(outer, drops)["state"] == "completed"
    innermost = chain[-1]
    theirs = next(one for one in innermost.orders() if one["service"] == "drops")
    sandbox.control(f"accounts/smmcheap/orders/{theirs['provider_order']}", {"drop": 50})
    asked = outer.post(f"/v1/orders/{drops}/refill", {})
    assert asked.status == 202, asked.body
    until("the refill", lambda: order(outer, drops)["refills"][0]["state"] == "completed", 60)

    assert outer.post(f"/v1/orders/{slow}/cancel", {}).status == 202
    assert ended(outer, slow)["state"] == "canceled"

    # Both numbers are one purchase, as both accounts are.
    assert len(sandbox.ledger("add", "add_sms")) == 5
    assert [len(daemon.get("/v1/orders?state=unclear").json()["orders"]) for daemon in chain] == [0] * len(chain)


def test_another_daemon_buys_everything_here(
    started: Any, tmp_path: Path, sqlite_database_url: str, sandbox: SandboxProcess
) -> None:
    chain = chain_of(2, started, tmp_path, sqlite_database_url, sandbox)
    works(chain, sandbox)
    # The runs are made by the one of them whose provider knows none.
    drip = place(chain[0], "drip", 100, link=f"{LINK}/drip", params={"runs": 2, "interval": 1})
    assert ended(chain[0], drip, 120)["state"] == "completed"
    assert [one["parent"] is not None for one in chain[1].orders()[-3:]] == [False, True, True]
    assert len(sandbox.ledger("add")) == 4 + 2


def test_a_chain_of_three_does_the_whole_job(
    started: Any, tmp_path: Path, postgres_database_url: str, sandbox: SandboxProcess
) -> None:
    works(chain_of(3, started, tmp_path, postgres_database_url, sandbox), sandbox)


def test_a_provider_that_is_killed_again_and_again_sells_each_order_once(
    started: Any, tmp_path: Path, sqlite_database_url: str, sandbox: SandboxProcess
) -> None:
    """Its buyer repeats what got no answer, under the same Idempotency-Key; so does the killed one at the sandbox."""
    for account in ("smmplus", "smmcheap", "hstock"):
        sandbox.control(f"accounts/{account}", {"honours_idempotency_key": True})
    outer, inner = chain_of(2, started, tmp_path, sqlite_database_url, sandbox, idempotent_add=True)
    wanted = []
    for turn in range(4):
        wanted += [place(outer, "followers", 100, link=f"{LINK}/{turn}/{n}") for n in range(5)]
        wanted += [place(outer, "code", 1, params={"country": "us"})]
        inner.kill()
        inner.start()
    states = {ended(outer, number, 120)["state"] for number in wanted}
    assert states == {"completed"}
    there = inner.orders()
    assert len(there) == len(wanted)
    assert len(sandbox.ledger("add")) == 20
    assert len(sandbox.ledger("add_sms")) == 4
