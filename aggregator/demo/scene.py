"""What the demo shows: its config file, its orders, and how the sandbox is set up for them."""

from __future__ import annotations

import json
import os
import secrets
from base64 import b64encode
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from aggregator.sandbox.world import World


@dataclass(frozen=True, slots=True)
class Wish:
    """One order of the demo, and the words that say what it shows."""

    shows: str
    body: dict[str, object]


WISHES: Final = (
    Wish(
        "goes to the cheapest of three providers",
        {"service": "ig-followers", "quantity": 1000, "link": "https://instagram.com/example"},
    ),
    Wish(
        "the cheapest is out of stock, so it falls over to the next",
        {"service": "ig-likes", "quantity": 500, "link": "https://instagram.com/p/example"},
    ),
    Wish(
        "drops after it completed, and is refilled by itself",
        {"service": "tg-members", "quantity": 1000, "link": "https://t.me/example"},
    ),
    Wish("three accounts, delivered sealed", {"service": "gmail-usa", "quantity": 3}),
    Wish("rents a number and waits for its code", {"service": "app-code-us", "quantity": 1}),
)
REFILLED: Final = "tg-members"

_CONFIG: Final = """\
# Made by `aggregator demo`. Everything is on this machine; nothing is real.
database: {database}
http:
  listen: ["127.0.0.1:{port}"]
keys:
  - {{name: demo, key: {key}, scopes: [orders, admin]}}
providers:
  smmplus:
    dialect: panel_v2
    url: {sandbox}/smmplus/api/v2
    api_key: sandbox-smmplus-key
    status_every_s: {{min: 0.5, max: 2}}
  smmcheap:
    dialect: panel_v2
    url: {sandbox}/smmcheap/api/v2
    api_key: sandbox-smmcheap-key
    status_every_s: {{min: 0.5, max: 2}}
  hstock:
    dialect: hstockplus
    url: {sandbox}/hstock/api/v2
    api_key: sandbox-hstock-key
    status_every_s: {{min: 0.5, max: 2}}
    code_every_s: {{min: 0.5, max: 2}}
services:
  ig-followers:
    kind: smm
    offers:
      - {{provider: smmplus, service: "1"}}
      - {{provider: smmcheap, service: "1"}}
      - {{provider: hstock, service: "1"}}
    refill: {{auto: false}}
    panel_id: 1
  ig-likes:
    kind: smm
    offers:
      - {{provider: smmcheap, service: "2"}}
      - {{provider: smmplus, service: "18"}}
    refill: {{auto: false}}
    panel_id: 2
  tg-members:
    kind: smm
    offers: [{{provider: smmcheap, service: "6"}}]
    # Looked at every second, so that nobody has to wait a day for the drop.
    refill: {{min_age_h: 0, check_every_h: 0.0003, cooldown_h: 0.01}}
    panel_id: 3
  gmail-usa: {{kind: product, offers: [{{provider: hstock, service: "2"}}], panel_id: 4}}
  app-code-us: {{kind: sms, offers: [{{provider: hstock, project: "65f0aa", country: us}}], panel_id: 5}}
webhooks:
  - {{name: listener, url: "{listener}", secret: {secret}}}
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """The demo's files and secrets."""

    folder: Path
    port: int
    key: str = field(default_factory=lambda: "demo_" + secrets.token_urlsafe(16), repr=False)
    secret: str = field(default_factory=lambda: "whsec_" + b64encode(secrets.token_bytes(24)).decode(), repr=False)

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def log(self) -> Path:
        return self.folder / "daemon.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def write_config(self, sandbox: str, listener: str) -> None:
        """Write the config for its owner alone: it holds literal secrets."""
        text = _CONFIG.format(
            database=json.dumps(f"sqlite:///{self.folder / 'aggregator.db'}"),
            port=self.port,
            key=self.key,
            sandbox=sandbox,
            listener=listener,
            secret=self.secret,
        )
        with os.fdopen(os.open(self.config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)


def set_up(world: World) -> None:
    """The cheap likes are sold out at their provider, whose catalogue does not say so."""
    services = world.accounts["smmcheap"].services
    services["2"] = replace(services["2"], stock=0)
