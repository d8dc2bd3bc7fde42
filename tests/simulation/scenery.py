"""Where a run happens: the sandbox's accounts, and the config that the daemon is given. Both are chosen by the seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from aggregator.sandbox.account import Account, Dialect
from aggregator.sandbox.account import Settings as AccountSettings
from aggregator.sandbox.behaviour import Behaviour
from aggregator.sandbox.catalogue import NumberBehaviour, Service, SmsProject
from aggregator.sandbox.catalogue_hstock import HSTOCK, HSTOCK_PROJECTS
from aggregator.sandbox.catalogue_smm import SMMCHEAP, SMMPLUS
from aggregator.sandbox.world import World
from tests.simulation.focus import Focus
from tests.simulation.money import Purses
from tests.simulation.wire import HOST

WEBHOOK_SECRET: Final = "whsec_c2ltdWxhdGVkLXNlY3JldC1vZi0zMi1ieXRlcy0wMDE="
REFILL_COOLDOWN_H: Final = 0.5
PROVIDERS: Final = ("smmplus", "smmcheap", "hstock")
SERVICES: Final[Mapping[str, tuple[str, int, int]]] = {
    "followers": ("smm", 50, 500),
    "plus": ("smm", 50, 500),
    "drops": ("smm", 50, 300),
    "mixed": ("smm", 100, 400),
    "partial": ("smm", 100, 400),
    "flash": ("smm", 20, 60),
    "gmail": ("product", 1, 3),
    "half": ("product", 1, 4),
    "code": ("sms", 1, 3),
    "odd-code": ("sms", 1, 2),
    "own-runs": ("smm", 100, 200),
    "shouts": ("smm", 40, 120),
    "rest": ("smm", 100, 400),
}
"""What callers order: kind, least and most, of each run."""
DRIPPING: Final[Mapping[str, float]] = {"own-runs": 0.6, "shouts": 0.4, "followers": 0.2, "plus": 0.2}
"""How likely an order of a service is a drip-feed."""
PARAMS: Final[Mapping[str, Mapping[str, str]]] = {"shouts": {"usernames": "a\nb"}}


def small_world(seed: int, rng: random.Random, clock: Callable[[], float], focus: Focus) -> World:
    """The sandbox's accounts with a few of their services, so that a sync costs little."""
    slow = Behaviour("complete", pending_s=5, run_s=30)
    dropping = Behaviour("drop", pending_s=5, run_s=20, drop_percent=30, drop_after_s=30, refill_s=40)

    def some(services: Sequence[Service], *ids: str) -> list[Service]:
        return [service for service in services if service.id in ids]

    changing = Behaviour("mixed", pending_s=20, run_s=60)
    plus = [
        replace(s, behaviour={"1": slow, "6": changing}.get(s.id, s.behaviour))
        for s in some(SMMPLUS, "1", "6", "19", "21")
    ]
    cheap = [replace(s, behaviour=dropping) if s.id == "7" else s for s in some(SMMCHEAP, "1", "2", "7")]
    cheap = [replace(s, stock=rng.choice((30, 100, 400))) if s.id == "2" else s for s in cheap]
    goods = [replace(s, behaviour=changing) if s.id == "1" else s for s in some(HSTOCK, "1", "2", "8")]
    goods += [replace(s, id="101", rate="0.70", behaviour=slow) for s in some(HSTOCK, "1")]
    projects = [
        replace(p, behaviour=NumberBehaviour(p.behaviour.kind, 8, 12, 90), stock=40)
        for p in HSTOCK_PROJECTS
        if p.project_id in ("65f0aa", "65f0bb", "65f0dd")
    ]
    accounts = [
        _account("smmplus", "panel_v2", rng, plus, first_id=23501, id_gap=rng.choice((1, 1, 7))),
        _account("smmcheap", "panel_v2", rng, cheap, first_id=700_001, id_gap=rng.choice((1, 9))),
        _account("hstock", "hstockplus", rng, goods, projects=projects, first_id=5001),
    ]
    for account in accounts:
        account.settings = replace(account.settings, **focus.accounts)
    return World(seed=seed, clock=clock, accounts=accounts)


def _account(
    name: str,
    dialect: Dialect,
    rng: random.Random,
    services: Sequence[Service],
    *,
    projects: Sequence[SmsProject] = (),
    first_id: int,
    id_gap: int = 1,
) -> Account:
    settings = AccountSettings(
        f"sandbox-{name}-key",
        error_words=rng.choice(("plain", "codes")),
        batch=rng.choice(("orders", "orders", "order", "none")),
        refuse_active_link=rng.random() < 0.2,
        pending_start_count=rng.choice(("", "0", None)),
        # The daemon's cooldown is what must keep refills apart.
        refill_cooldown_s=0.0,
        visible_after_s=rng.choice((0.0, 0.0, 0.0, 8.0)),
    )
    balance = rng.choice(("500.00", "500.00", "500.00", "0.30"))
    return Account(name, dialect, settings, balance, services, projects=projects, first_id=first_id, id_gap=id_gap)


def provider_settings(name: str, rng: random.Random) -> dict[str, Any]:
    timeout_s = rng.choice((5, 10, 20))
    least, most = rng.choice(((5, 60), (10, 120), (20, 300)))
    recover_ids = rng.random() < 0.3
    return {
        "dialect": "hstockplus" if name == "hstock" else "panel_v2",
        "url": f"{HOST}/{name}/api/v2",
        "api_key": f"sandbox-{name}-key",
        "requests_per_second": rng.choice((0, 0, 0, 5)),
        "timeout_s": timeout_s,
        "max_concurrency": rng.choice((1, 2, 4)),
        "batch_size": 100 if recover_ids else rng.choice((1, 3, 100)),
        "status_every_s": {"min": least, "max": most},
        "code_every_s": {"min": 6, "max": 60},
        "settle_s": rng.choice((3 * timeout_s, 120)),
        "catalogue_every_s": rng.choice((1800, 86400)),
        "balance_every_s": rng.choice((300, 3600)),
        "exclusive_account": rng.random() < 0.4,
        "idempotent_add": rng.random() < 0.25,
        "recover_ids": recover_ids,
    }


def config_text(rng: random.Random, focus: Focus) -> tuple[str, dict[str, dict[str, Any]]]:
    """The config of a run (JSON is YAML, and sooner written), and its providers' part."""
    wanted = {name: {**provider_settings(name, rng), **focus.providers} for name in PROVIDERS}
    refill = {"cooldown_h": REFILL_COOLDOWN_H, "min_age_h": 0, "check_every_h": 0.1, "window_days": 1, "max_refills": 2}

    def smm(*offers: str, what: str = "service", **more: Any) -> dict[str, Any]:
        found = [dict(zip(("provider", what), offer.split("/"), strict=True)) for offer in offers]
        return {"kind": "smm", "offers": found, "give_up_after_s": rng.choice((60, 600, 1800)), **more}

    counted = {"url": f"{HOST}/count?link={{link}}", "pointer": "/count"}
    services: dict[str, Any] = {
        "followers": smm("smmplus/1", "smmcheap/1", refill={"auto": False}),
        "plus": smm("smmplus/1", refill={"auto": False}),
        "drops": smm("smmcheap/7", refill=refill),
        "mixed": smm("smmplus/21", refill=refill),
        "partial": smm("smmplus/19"),
        "flash": smm("smmcheap/2", "smmplus/1"),
        "gmail": {**smm("hstock/2"), "kind": "product"},
        "half": {**smm("hstock/8"), "kind": "product"},
        "code": {**smm("hstock/65f0aa", what="project"), "kind": "sms"},
        "own-runs": smm("hstock/1", "hstock/101", reroute_remainder=True),
        "shouts": smm("smmplus/6", refill={"auto": False}),
        "rest": smm("smmplus/19", "smmcheap/1", reroute_remainder=True, refill=refill, count_source=counted),
        "odd-code": {**smm(rng.choice(("hstock/65f0bb", "hstock/65f0dd")), what="project"), "kind": "sms"},
    }
    hook = {
        "name": "shop",
        "url": f"{HOST}/hook",
        "secret": WEBHOOK_SECRET,
        "timeout_s": 5,
        "retry_s": [5, 20, 60, 600, 7200, 36000],
        "order_hold_s": rng.choice((30, 3600)),
    }
    return json.dumps({"providers": wanted, "services": services, "webhooks": [hook]}), wanted


def purses(world: World, wanted: Mapping[str, Mapping[str, Any]], rng: random.Random, focus: Focus) -> Purses:
    """How the money of each account moves: at once, late, or hidden by a stranger who uses an account of many."""
    lags_s: dict[str, Sequence[float]] = {}
    strangers = set()
    for name in sorted(wanted):
        late, shared = rng.random() < 0.15, rng.random() < 0.3
        if focus.lags_s or (focus.stranger is None and late):
            lags_s[name] = focus.lags_s or rng.choice(((0.0, 30.0), (300.0,), (30.0, 7200.0)))
        elif not wanted[name]["exclusive_account"] and (shared if focus.stranger is None else focus.stranger):
            strangers.add(name)
    return Purses(world, lags_s, frozenset(strangers))
