"""Daemons that sell at the panel door: one that buys at the sandbox, others that buy from it as from any provider."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Final

from tests.support.processes import KEY, DaemonProcess, free_port

STOCK_KEY: Final = "test-key-of-the-stock-0001"
OLD_KEY: Final = "test-key-of-the-old-one-0001"

_HEAD: Final = """\
database: {database}
http: {{listen: ["127.0.0.1:{port}"]}}
keys:
  - {{name: shop, key: {key}, scopes: [orders, admin]}}
  - {{name: stock, key: {stock_key}, scopes: [orders], panel: hstockplus}}
  - {{name: old, key: {old_key}, scopes: [orders], panel_get: true}}
"""
_PACE: Final = "timeout_s: {timeout_s}, requests_per_second: 0, status_every_s: {{min: 0.3, max: 1}}"

_SELLER: Final = """\
providers:
  smmplus: {{dialect: panel_v2, url: "{sandbox}/smmplus/api/v2", api_key: sandbox-smmplus-key, PACE}}
  smmcheap: {{dialect: panel_v2, url: "{sandbox}/smmcheap/api/v2", api_key: sandbox-smmcheap-key, PACE}}
  hstock:
    {{dialect: hstockplus, url: "{sandbox}/hstock/api/v2", api_key: sandbox-hstock-key,
     code_every_s: {{min: 0.2, max: 1}}, PACE}}
services:
  followers:
    kind: smm
    panel_id: 1
    offers: [{{provider: smmplus, service: "1"}}, {{provider: smmcheap, service: "1"}}]
  comments: {{kind: smm, panel_id: 2, offers: [{{provider: smmcheap, service: "3"}}]}}
  gmail: {{kind: product, panel_id: 3, offers: [{{provider: hstock, service: "2"}}]}}
  code: {{kind: sms, panel_id: 4, offers: [{{provider: hstock, project: "65f0aa"}}]}}
  drops:
    kind: smm
    panel_id: 5
    offers: [{{provider: smmcheap, service: "6"}}]
    refill: {{auto: false, min_age_h: 0, cooldown_h: 0.001}}
  slow: {{kind: smm, panel_id: 6, offers: [{{provider: smmplus, service: "24"}}]}}
  drip: {{kind: smm, panel_id: 7, offers: [{{provider: hstock, service: "1"}}]}}
  last-ones: {{kind: product, panel_id: 8, offers: [{{provider: hstock, service: "5"}}]}}
"""

# The upstream's ids are ours: its panel_id here, and the same there.
_BUYER: Final = """\
providers:
  above: {{dialect: panel_v2, url: "{above}/api/v2", api_key: {key}, idempotent_add: true, PACE}}
  stock:
    {{dialect: hstockplus, url: "{above}/api/v2", api_key: {stock_key}, idempotent_add: true,
     code_every_s: {{min: 0.2, max: 1}}, PACE}}
services:
  followers: {{kind: smm, panel_id: 1, offers: [{{provider: above, service: "1"}}]}}
  comments: {{kind: smm, panel_id: 2, offers: [{{provider: above, service: "2"}}]}}
  gmail: {{kind: product, panel_id: 3, offers: [{{provider: stock, service: "3"}}]}}
  code: {{kind: sms, panel_id: 4, offers: [{{provider: stock, project: "4"}}]}}
  drops:
    kind: smm
    panel_id: 5
    offers: [{{provider: above, service: "5"}}]
    refill: {{auto: false, min_age_h: 0, cooldown_h: 0.001, window_days: 30}}
  slow: {{kind: smm, panel_id: 6, offers: [{{provider: above, service: "6"}}]}}
  drip: {{kind: smm, panel_id: 7, offers: [{{provider: above, service: "7"}}]}}
"""


def _written(folder: Path, database: str, body: str, timeout_s: float, **names: str) -> DaemonProcess:
    folder.mkdir(exist_ok=True)
    config, port = folder / "config.yaml", free_port()
    config.touch(mode=0o600)
    text = (_HEAD + body).replace("PACE", _PACE)
    known = {"key": KEY, "stock_key": STOCK_KEY, "old_key": OLD_KEY, "timeout_s": timeout_s, **names}
    config.write_text(text.format(database=json.dumps(database), port=port, **known))
    return DaemonProcess(config, port, folder / "daemon.log")


def seller(
    folder: Path, database: str, sandbox: str, *, timeout_s: float = 5, idempotent_add: bool = False
) -> DaemonProcess:
    """A daemon that buys at the sandbox, whose accounts may honour its keys, and sells at its panel door."""
    body = _SELLER.replace("PACE", "idempotent_add: true, PACE") if idempotent_add else _SELLER
    return _written(folder, database, body, timeout_s, sandbox=sandbox)


def buyer(folder: Path, above: DaemonProcess, *, timeout_s: float = 30) -> DaemonProcess:
    """A daemon that buys what another one sells, and sells it on."""
    database = f"sqlite:///{folder / 'aggregator.db'}"
    return _written(folder, database, _BUYER, timeout_s, above=above.url)


def panel_call(daemon: DaemonProcess, action: str, *, key: str = KEY, **fields: Any) -> Any:
    """A call of the panel protocol, as a form."""
    form = urllib.parse.urlencode({"key": key, "action": action, **fields}).encode()
    with urllib.request.urlopen(f"{daemon.url}/api/v2", data=form, timeout=40) as reply:
        return json.loads(reply.read())
