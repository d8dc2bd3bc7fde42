"""Where a simulated day happens: accounts without any fault, the daemon's config, and what callers want in turn."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from aggregator.sandbox.account import Account
from aggregator.sandbox.account import Settings as AccountSettings
from aggregator.sandbox.behaviour import Behaviour
from aggregator.sandbox.catalogue import NumberBehaviour, Service
from aggregator.sandbox.catalogue_hstock import HSTOCK, HSTOCK_PROJECTS
from aggregator.sandbox.catalogue_smm import SMMCHEAP, SMMPLUS
from aggregator.sandbox.world import World
from tests.simulation.scenery import WEBHOOK_SECRET
from tests.simulation.wire import HOST

KEY: Final = "key-of-the-simulated-shop"
CATALOGUE_S: Final = 3600.0
BALANCE_S: Final = 1800.0
STATUS_S: Final = (60.0, 900.0)
AWAY: Final = "smmcheap"
"""The provider that is away for some hours."""
DRIP: Final = {"runs": "3", "interval": "5"}
IN_TURN: Final[tuple[tuple[str, int, dict[str, str]], ...]] = (
    ("followers", 100, {}),
    ("followers", 300, DRIP),
    ("plus", 100, {}),
    ("drops", 100, {}),
    ("mixed", 100, {}),
    ("rest", 200, {}),
    ("flash", 20, {}),
    ("shouts", 40, {"usernames": "a\nb"}),
    ("gmail", 2, {}),
    ("half", 2, {}),
    ("code", 2, {}),
    ("two-codes", 1, {}),
    ("expires", 1, {}),
)
"""What is ordered, one after another and from the beginning again: service, quantity, parameters."""
AN_HOUR: Final = 4
"""Orders in each hour."""
CANCELED: Final = frozenset({"plus"})
"""What callers think better of, seconds after they ordered it."""
SLOW: Final = ("slow", 50)
"""Ordered once, at the beginning; it goes on for most of the day."""
MOST_OF_IT: Final = 0.8


def quiet_world(seed: int, clock: Callable[[], float], hours: int) -> World:
    """Three accounts with money and goods for a day. No name promises a guarantee of days, within which every order
    that was ever completed would be looked at."""
    lasting = Behaviour("complete", pending_s=600, run_s=MOST_OF_IT * hours * 3600)
    changing = Behaviour("mixed", pending_s=20, run_s=60)
    dropping = Behaviour("drop", pending_s=5, run_s=20, drop_percent=30, drop_after_s=300, refill_s=40)

    def some(services: Sequence[Service], **behaviours: Behaviour | None) -> list[Service]:
        wanted = {key.removeprefix("_"): behaviour for key, behaviour in behaviours.items()}
        return [
            replace(
                service,
                name=f"Service {service.id}",
                behaviour=wanted[service.id] or service.behaviour,
                stock=None if service.stock is None else 1_000_000,
            )
            for service in services
            if service.id in wanted
        ]

    numbers = [
        replace(project, behaviour=NumberBehaviour(project.behaviour.kind, 30, 60, 400), stock=1_000_000)
        for project in HSTOCK_PROJECTS
        if project.project_id in ("65f0aa", "65f0bb", "65f0cc")
    ]
    plus = some(SMMPLUS, _1=None, _6=changing, _19=None, _21=changing, _24=lasting)
    cheap = some(SMMCHEAP, _1=None, _2=None, _6=dropping)
    goods = some(HSTOCK, _2=None, _8=None)
    accounts = [
        Account("smmplus", "panel_v2", AccountSettings("sandbox-smmplus-key"), "100000", plus, first_id=23501),
        Account(AWAY, "panel_v2", AccountSettings(f"sandbox-{AWAY}-key"), "100000", cheap, first_id=700_001),
        Account(
            "hstock",
            "hstockplus",
            AccountSettings("sandbox-hstock-key"),
            "100000",
            goods,
            projects=numbers,
            first_id=5001,
        ),
    ]
    return World(seed=seed, clock=clock, accounts=accounts)


def quiet_config() -> str:
    """The daemon's config (JSON is YAML, and sooner written)."""
    providers = {
        name: {
            "dialect": "hstockplus" if name == "hstock" else "panel_v2",
            "url": f"{HOST}/{name}/api/v2",
            "api_key": f"sandbox-{name}-key",
            "timeout_s": 10,
            "status_every_s": dict(zip(("min", "max"), STATUS_S, strict=True)),
            "code_every_s": {"min": 60, "max": 300},
            "catalogue_every_s": CATALOGUE_S,
            "balance_every_s": BALANCE_S,
        }
        for name in ("smmplus", AWAY, "hstock")
    }
    no_refill = {"auto": False}
    refill = {"cooldown_h": 0.5, "min_age_h": 0, "check_every_h": 0.25, "window_days": 0.06, "max_refills": 2}

    def sold(*offers: str, kind: str = "smm", **more: Any) -> dict[str, Any]:
        what = "project" if kind == "sms" else "service"
        found = [dict(zip(("provider", what), offer.split("/"), strict=True)) for offer in offers]
        return {"kind": kind, "offers": found, **more}

    counted = {"url": f"{HOST}/count?link={{link}}", "pointer": "/count"}
    services = {
        "followers": sold("smmplus/1", f"{AWAY}/1", refill=no_refill),
        "plus": sold("smmplus/1", refill=no_refill, panel_id=1),
        "drops": sold(f"{AWAY}/6", refill=refill, count_source=counted),
        "mixed": sold("smmplus/21", refill=no_refill),
        "rest": sold("smmplus/19", f"{AWAY}/1", refill=no_refill, reroute_remainder=True),
        "flash": sold(f"{AWAY}/2", "smmplus/1", refill=no_refill),
        "shouts": sold("smmplus/6", refill=no_refill),
        "slow": sold("smmplus/24", refill=no_refill),
        "gmail": sold("hstock/2", kind="product"),
        "half": sold("hstock/8", kind="product"),
        "code": sold("hstock/65f0aa", kind="sms"),
        "two-codes": sold("hstock/65f0bb", kind="sms"),
        "expires": sold("hstock/65f0cc", kind="sms"),
    }
    limits = {"requests_per_second": 50, "max_open_orders": 500}
    keys = [{"name": "shop", "key": KEY, "scopes": ["orders", "admin"], **limits}]
    hook = {"name": "shop", "url": f"{HOST}/hook", "secret": WEBHOOK_SECRET, "timeout_s": 5}
    return json.dumps({"keys": keys, "providers": providers, "services": services, "webhooks": [hook]})
