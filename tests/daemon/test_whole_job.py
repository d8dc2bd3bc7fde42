"""The main job through real processes: real HTTP in, real HTTP out, signed webhooks, on both databases."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from standardwebhooks import Webhook

from tests.support.processes import DaemonProcess, SandboxProcess, until
from tests.support.servers import serving

FINAL = ("completed", "partial", "canceled", "failed")
SECRET = "whsec_" + b64encode(b"0123456789abcdef0123456789abcdef").decode()


class _Receiver(ThreadingHTTPServer):
    """Verifies every request with the published library and keeps what it heard."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.heard: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class _Hook(BaseHTTPRequestHandler):
    server: _Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Webhook(SECRET).verify(body, dict(self.headers.items()))
        self.server.heard.append(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def receiving() -> Iterator[_Receiver]:
    with serving(_Receiver()) as server:
        yield server


def test_orders_of_all_kinds_run_to_their_end_and_every_event_is_heard(
    make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess
) -> None:
    with receiving() as receiver:
        hook = f'webhooks: [{{name: receiver, url: "{receiver.url}", secret: {SECRET}}}]'
        daemon = make_daemon(more=hook)
        daemon.start()
        sandbox.control("accounts/smmcheap/services/2", {"stock": 0})
        wishes = [
            {"service": "followers", "quantity": 100, "link": "https://example.com/a"},
            {"service": "likes", "quantity": 100, "link": "https://example.com/b", "reference": "shop-1"},
            {"service": "gmail", "quantity": 3},
            {"service": "code", "quantity": 2},
        ]
        for wish in wishes:
            assert daemon.post("/v1/orders", wish).status == 201
        orders = until(
            "the end of all orders",
            lambda: (found := daemon.orders()) and all(o["state"] in FINAL for o in found) and found,
        )
        followers, likes, gmail, code = orders
        assert [order["state"] for order in orders] == ["completed"] * 4
        assert followers["provider"] == "smmcheap"  # 0.62 against 0.90
        assert followers["charge"] == {"amount": "0.062", "currency": "USD"}
        assert likes["provider"] == "smmplus"  # the cheaper one is out of stock
        attempts = daemon.get(f"/v1/orders/{likes['id']}/attempts").json()["attempts"]
        assert [attempt["state"] for attempt in attempts] == ["refused", "placed"]
        assert all(candidate["reason"] for attempt in attempts for candidate in attempt["candidates"])
        accounts = daemon.get(f"/v1/orders/{gmail['number']}/delivery").json()["accounts"]
        assert len(accounts) == 3
        assert all(len(number["codes"]) >= 1 for number in code["numbers"])
        wanted = {(o["number"], n) for o in orders for n in range(1, 4)}
        until("the webhooks", lambda: wanted <= {_place(event) for event in receiver.heard if "order" in event["data"]})
        said = json.dumps(receiver.heard)
        assert not any(account in said for account in accounts)
        assert daemon.terminate() == 0
    bought = sandbox.ledger("add", "add_sms")
    assert len(bought) == len({entry["idempotency_key"] for entry in bought}) == 4


def _place(event: dict[str, Any]) -> tuple[int, int]:
    return event["data"]["order"]["number"], event["data"]["sequence"]


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
def test_many_open_orders_are_followed_by_full_batches(
    make_daemon: Callable[..., DaemonProcess], sandbox: SandboxProcess
) -> None:
    sandbox.control("accounts/smmplus", {"balance": "100000"})
    # Long enough that all of them are open together, whatever the speed of the machine.
    sandbox.control("accounts/smmplus/services/1", {"behaviour": {"kind": "complete", "pending_s": 5, "run_s": 400}})
    daemon = make_daemon()
    daemon.start()
    orders = [{"service": "plus", "quantity": 50, "link": f"https://example.com/{n}"} for n in range(300)]
    answer = daemon.post("/v1/orders:batch", {"orders": orders})
    assert [result["status"] for result in answer.json()["results"]] == [201] * 300
    until("all purchases", lambda: _calls(sandbox, "add")["calls"] == 300, within_s=90)
    before = _status_calls(sandbox)
    until("two whole sweeps", lambda: _asked(sandbox) - _ids(before) >= 600)
    calls, ids = _difference(before, _status_calls(sandbox))
    floor = -(-ids // 100)
    print(f"status calls {calls} for {ids} ids, floor {floor}")
    assert calls <= floor + 1
    until("the end of all orders", lambda: all(o["state"] == "completed" for o in daemon.orders()), within_s=60)
    assert len(sandbox.ledger("add")) == 300


def _calls(sandbox: SandboxProcess, action: str) -> dict[str, Any]:
    found: dict[str, Any] = sandbox.calls()["smmplus"]["actions"].get(action, {"calls": 0, "ids": 0})
    return found


def _status_calls(sandbox: SandboxProcess) -> dict[str, Any]:
    return _calls(sandbox, "status")


def _ids(calls: dict[str, Any]) -> int:
    return int(calls["ids"])


def _asked(sandbox: SandboxProcess) -> int:
    return _ids(_status_calls(sandbox))


def _difference(before: dict[str, Any], after: dict[str, Any]) -> tuple[int, int]:
    return int(after["calls"]) - int(before["calls"]), _ids(after) - _ids(before)
