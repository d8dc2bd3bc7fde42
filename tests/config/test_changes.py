"""What differs between two configs, by path and without a value; what of it wants a restart."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from aggregator.config import Settings
from aggregator.config.changes import changes, needs_restart
from tests.config.conftest import BASE, LoadWith, Place, changed


def found(before: Settings, after: Settings) -> dict[str, str]:
    return {one.path: one.how for one in changes(before, after)}


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (("providers", "panel", "timeout_s"), 7, {"providers.panel.timeout_s": "changed"}),
        (("providers", "panel", "api_key"), "another-key-0123456789", {"providers.panel.api_key": "changed"}),
        (("providers", "more"), BASE["providers"]["panel"], {"providers.more": "added"}),
        (("services", "likes", "offers", 0, "service"), "9", {"services.likes.offers": "changed"}),
        (("services", "likes", "refill"), {"auto": False}, {"services.likes.refill.auto": "changed"}),
        (("webhooks",), [], {"webhooks.hook": "removed"}),
        (("webhooks", 0, "retry_s"), [1, 2], {"webhooks.hook.retry_s": "changed"}),
        (("keys", 0, "scopes"), ["admin"], {"keys.shop.scopes": "changed"}),
        (("keys", 0, "name"), "store", {"keys.shop": "removed", "keys.store": "added"}),
        (("exchange_rates",), {"EUR": "1.08"}, {"exchange_rates.EUR": "added"}),
        (("currency",), "USD", {}),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_each_change_is_named_by_its_path(
    load_with: LoadWith, place: Place, value: object, expected: dict[str, str]
) -> None:
    before, after = load_with(("currency",), "USD"), load_with(place, value)
    assert found(before, after) == expected
    assert needs_restart(before, after) == ()
    assert "0123456789" not in str(changes(before, after)), "a value was named"


def test_the_order_of_offers_and_of_endpoints_is_a_change_of_its_own(load_with: LoadWith) -> None:
    hooks = [BASE["webhooks"][0], {**BASE["webhooks"][0], "name": "second"}]
    before, after = load_with(("webhooks",), hooks), load_with(("webhooks",), hooks[::-1])
    assert found(before, after) == {"webhooks": "changed"}


@pytest.mark.parametrize(
    ("place", "value", "path"),
    [
        (("database",), "sqlite:///other.db", "database"),
        (("http",), {"listen": ["127.0.0.1:9999"]}, "http.listen"),
        (("http",), {"max_connections": 99}, "http.max_connections"),
        (("keys",), [], "keys"),
    ],
)
def test_what_is_opened_once_wants_a_restart(load_with: LoadWith, place: Place, value: object, path: str) -> None:
    before, after = load_with(("currency",), "USD"), load_with(place, value)
    assert path in [one.path for one in needs_restart(before, after)]


def test_the_first_key_wants_no_restart_where_only_sockets_are_listened_on(load_text: LoadWith) -> None:
    data: dict[str, Any] = copy.deepcopy(changed(("http",), {"listen": ["unix:/tmp/a.sock"]}))
    with_keys = load_text(yaml.safe_dump(data))
    del data["keys"]
    assert needs_restart(load_text(yaml.safe_dump(data)), with_keys) == ()
