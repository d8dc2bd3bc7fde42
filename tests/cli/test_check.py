"""`aggregator check` asks what the config names: real sandboxes and endpoints, and some that are not there."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from aggregator.cli import main as command
from tests.support.processes import KEY, SandboxProcess, free_port
from tests.support.servers import serving

SECRET = "whsec_Y2hlY2tlZC1zZWNyZXQtb2YtMzItYnl0ZXMtMDAwMDA="
CONFIG = """\
database: {database}
keys: [{{name: shop, key: {key}, scopes: [orders]}}]
providers:
  smmplus: {{dialect: panel_v2, url: "{sandbox}/smmplus/api/v2", api_key: sandbox-smmplus-key}}
  hstock: {{dialect: hstockplus, url: "{sandbox}/hstock/api/v2", api_key: sandbox-hstock-key}}
  later: {{dialect: panel_v2, url: "http://127.0.0.1:1/api/v2", api_key: key-of-later-000, enabled: false}}
  {providers}
services:
  followers: {{kind: smm, offers: [{{provider: smmplus, service: "1"}}, {{provider: hstock, service: "1"}}]}}
  gmail: {{kind: product, offers: [{{provider: hstock, service: "2"}}]}}
  code: {{kind: sms, offers: [{{provider: hstock, project: "65f0aa", country: us}}]}}
  {services}
webhooks: [{webhooks}]
"""


class _Endpoint(HTTPServer):
    """Answers every POST with one status, and keeps what it was sent."""

    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.status = status
        self.heard: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class _Hook(BaseHTTPRequestHandler):
    server: _Endpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def endpoint(status: int = 204) -> Iterator[_Endpoint]:
    with serving(_Endpoint(status)) as server:
        yield server


def write(folder: Path, sandbox: SandboxProcess, *, providers: str = "", services: str = "", webhooks: str = "") -> str:
    path = folder / "config.yaml"
    path.touch(mode=0o600)
    database = json.dumps(f"sqlite:///{folder}/orders.db")
    names = {"database": database, "key": KEY, "sandbox": sandbox.url}
    path.write_text(CONFIG.format(providers=providers, services=services, webhooks=webhooks, **names))
    return str(path)


def hook(name: str, url: str, more: str = "") -> str:
    return f'{{name: {name}, url: "{url}", secret: {SECRET}{more}}}'


def test_all_that_works_is_shown_with_its_price(
    tmp_path: Path, sandbox: SandboxProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bought = len(sandbox.ledger("add", "add_sms"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with endpoint() as listening:
        path = write(tmp_path, sandbox, webhooks=hook("shop", listening.url))
        assert command.main(["check", "--config", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["database_state"] == "does not exist yet; `aggregator run` makes it"
    smmplus = found["providers"]["smmplus"]
    assert (smmplus["works"], smmplus["balance"]["currency"], smmplus["services"]) == (True, "USD", 24)
    assert {"refill", "cancel", "batched_status"} <= set(smmplus["can"])
    assert (found["providers"]["later"]["enabled"], found["providers"]["later"]["works"]) == (False, False)
    first = {name: service["offers"][0] for name, service in found["services"].items()}
    assert first["followers"]["works"]
    assert first["followers"]["price_per"] == 1000
    assert first["gmail"] | {"stock": None} == {
        **{"offer": "hstock/2", "works": True, "reason": None, "price": {"amount": "0.25", "currency": "USD"}},
        **{"price_per": 1, "min": 1, "max": 50, "stock": None},
    }
    assert first["code"]["offer"] == "hstock/65f0aa/us"
    prices = [offer["price"]["amount"] for offer in found["services"]["followers"]["offers"] if offer["works"]]
    assert prices == sorted(prices)

    ((headers, body),) = listening.heard
    Webhook(SECRET).verify(body, headers)
    assert json.loads(body)["type"] == "webhook.test"
    assert json.loads(body)["data"] == {"endpoint": "shop", "asked_by": "aggregator check"}

    assert len(sandbox.ledger("add", "add_sms")) == bought
    assert not (tmp_path / "orders.db").exists()
    assert not list((tmp_path / "temporary").iterdir())


def test_what_does_not_work_is_named_with_its_remedy(
    tmp_path: Path, sandbox: SandboxProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    with endpoint(401) as strict, endpoint(308) as moved:
        hooks = ", ".join(
            (
                hook("strict", strict.url),
                hook("moved", moved.url),
                hook("gone", f"http://127.0.0.1:{free_port()}/hook?token=abcdefgh"),
                hook("off", "http://127.0.0.1:1/hook", ", enabled: false"),
            )
        )
        path = write(
            tmp_path,
            sandbox,
            providers=(
                f'wrong: {{dialect: panel_v2, url: "{sandbox.url}/smmcheap/api/v2", api_key: not-the-key-000}}\n'
                '  nobody: {dialect: panel_v2, url: "http://127.0.0.1:1/api/v2", api_key: key-of-nobody-00}'
            ),
            services=(
                'misspelt: {kind: smm, offers: [{provider: smmplus, service: "99999"}, '
                '{provider: hstock, service: "1"}]}\n'
                '  lost: {kind: smm, offers: [{provider: nobody, service: "1"}]}'
            ),
            webhooks=hooks,
        )
        assert command.main(["check", "--config", path]) == 1
    said = capsys.readouterr()
    first, *problems = said.err.splitlines()
    assert first == "aggregator: 7 things do not work:"
    assert [line.strip().partition(":")[0] for line in problems] == [
        "providers.wrong",
        "providers.nobody",
        "services.misspelt",
        "services.lost",
        "webhooks.strict",
        "webhooks.moved",
        "webhooks.gone",
    ]
    assert "is `providers.wrong.api_key` the key of this account" in said.err
    assert "is `providers.nobody.url` right" in said.err
    assert "smmplus/99999 is not in the provider's catalogue" in said.err
    assert "does it verify with this endpoint's secret?" in said.err
    assert "redirects are not followed" in said.err
    assert "not-the-key" not in said.out + said.err
    assert "abcdefgh" not in said.out + said.err
    assert "yes, first" in said.out
    assert "Traceback" not in said.err


def test_offline_asks_nobody(tmp_path: Path, sandbox: SandboxProcess, capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint() as listening:
        path = write(
            tmp_path,
            sandbox,
            providers='nobody: {dialect: panel_v2, url: "http://127.0.0.1:1/api/v2", api_key: key-of-nobody-00}',
            webhooks=hook("shop", listening.url),
        )
        assert command.main(["check", "--config", path, "--offline", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["providers"]["nobody"] == {"dialect": "panel_v2"}
        assert not listening.heard


@pytest.mark.parametrize(
    ("made", "words", "code"),
    [
        (True, "has the newest schema", 0),
        (False, "which this version does not know", 1),
        (None, "is not an aggregator database", 1),
    ],
)
def test_the_database_is_looked_at_and_left_as_it_is(
    tmp_path: Path,
    sandbox: SandboxProcess,
    capsys: pytest.CaptureFixture[str],
    made: bool | None,
    words: str,
    code: int,
) -> None:
    path = write(tmp_path, sandbox)
    if made is None:
        (tmp_path / "orders.db").write_bytes(b"no database at all, whatever its name may be. " * 40)
    else:
        assert command.main(["migrate", "--config", path]) == 0
        if not made:
            with sqlite3.connect(tmp_path / "orders.db") as connection:
                connection.execute("UPDATE alembic_version SET version_num = '9999'")
            connection.close()
    before = (tmp_path / "orders.db").read_bytes()
    capsys.readouterr()
    assert command.main(["check", "--config", path]) == code
    said = capsys.readouterr()
    assert words in (said.err if code else said.out)
    assert (tmp_path / "orders.db").read_bytes() == before
