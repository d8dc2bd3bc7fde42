"""`aggregator webhooks …` against a real daemon, with an endpoint that really listens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from tests.cli.support import Shell
from tests.support.processes import until


@dataclass
class Listener:
    """An endpoint; `status` is what it answers."""

    url: str = ""
    status: int = 200
    heard: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def listener() -> Iterator[Listener]:
    here = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            here.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(here.status)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"thanks")

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield here
    finally:
        server.shutdown()
        server.server_close()


def test_an_endpoint_from_its_making_to_its_end(shell: Shell, listener: Listener) -> None:
    to = ("--to", listener.url, "--event", "order.*", "--description", "the ERP")
    assert shell("webhooks", "create", "erp", *to) == 0
    secret = shell.out.rpartition("secret, shown this once: ")[2].strip()
    assert secret.startswith("whsec_")
    assert shell("webhooks", "show", "erp") == 0
    assert secret not in shell.out
    assert "the ERP" in shell.out

    assert shell("webhooks", "test", "erp") == 0, shell.err
    assert "erp took it: HTTP 200" in shell.out
    headers, body = listener.heard[0]
    document = Webhook(secret).verify(body, headers)
    assert (document["type"], document["data"]["endpoint"]) == ("webhook.test", "erp")

    (told,) = shell.json("webhooks", "deliveries", "erp")["deliveries"]
    assert (told["state"], told["answer"]) == ("delivered", "thanks")
    assert shell("webhooks", "replay", "erp", "--event", told["event"]) == 0
    assert "1 deliveries to erp are due again" in shell.out
    until("the replay", lambda: len(listener.heard) == 2)
    assert listener.heard[1][1] == body
    assert listener.heard[1][0]["webhook-id"] == headers["webhook-id"]

    new = shell.json("webhooks", "rotate", "erp")["secret"]
    assert shell("webhooks", "test", "erp") == 0
    headers, body = listener.heard[2]
    for either in (secret, new):
        Webhook(either).verify(body, headers)

    assert shell("webhooks", "disable", "erp") == 0
    assert "aggregator webhooks enable erp" in shell.out
    assert "enable the endpoint first" in shell.refused("webhooks", "test", "erp")
    assert shell("webhooks", "list", "--state", "disabled") == 0
    assert "erp" in shell.out
    assert shell("webhooks", "enable", "erp") == 0
    listener.status = 500
    said = shell.refused("webhooks", "test", "erp")
    assert "HTTP 500" in said
    assert "thanks" in said
    assert shell("webhooks", "deliveries", "erp", "--state", "pending") == 0
    assert "webhook.test" in shell.out
    assert shell("webhooks", "delete", "erp") == 0
    assert "webhooks list" in shell.refused("webhooks", "show", "erp")


def test_mistakes_are_told_with_their_remedy(shell: Shell) -> None:
    assert shell("webhooks", "replay", "nobody") == 2
    assert "--parked" in shell.err
    assert shell("webhooks", "show", "../orders") == 2
    assert "url: must begin with http" in shell.refused("webhooks", "create", "x", "--to", "ftp://x/")
