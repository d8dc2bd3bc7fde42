"""Each setting on its own: defaults, bounds, types, and the words of its refusal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_network
from typing import Any

import pytest
from pydantic import ValidationError

from aggregator.config import (
    DIALECT_KINDS,
    DIALECTS,
    KeySettings,
    KeyValue,
    ProviderSettings,
    Secret,
    Settings,
    SigningSecret,
    TcpAddress,
)
from tests.config.conftest import ENVIRON, WEBHOOK_SECRET, LoadWith, Place, ProblemsWith

PROVIDER = ("providers", "panel")
SERVICE = ("services", "likes")
HOOK = ("webhooks", 0)
KEY = ("keys", 0)


def test_defaults_are_those_of_the_contract(load_with: LoadWith) -> None:
    settings = load_with(("currency",), "USD")
    dump = settings.model_dump(mode="json")
    provider, service, hook = dump["providers"]["panel"], dump["services"]["likes"], dump["webhooks"][0]
    assert {name: provider[name] for name in provider if name not in {"dialect", "url", "api_key"}} == {
        "enabled": True, "currency": "USD", "timeout_s": 30, "max_concurrency": 4, "requests_per_second": 5,
        "batch_size": 100, "status_batch": "auto", "status_every_s": {"min": 15, "max": 3600},
        "code_every_s": {"min": 3, "max": 15},
        "catalogue_every_s": 900, "balance_every_s": 300, "settle_s": 900, "min_balance": "0",
        "rate_per": {"smm": 1000, "product": 1}, "default_link": None, "words": {"errors": {}, "status": {}},
        "exclusive_account": False, "idempotent_add": False, "recover_ids": False,
    }  # fmt: skip
    assert {name: service[name] for name in service if name not in {"kind", "offers"}} == {
        "title": None, "category": None, "panel_id": None, "give_up_after_s": 86400, "strategy": "cheapest",
        "refill": {"auto": True, "required": False, "drop_percent": 5, "window_days": 30, "cooldown_h": 24,
                   "min_age_h": 24, "check_every_h": 24, "max_refills": 5},
        "reroute_remainder": False, "count_source": None,
    }  # fmt: skip
    assert hook == {
        "name": "hook", "url": "http://127.0.0.1:9000/hook", "secret": [{"value": "[secret]", "until": None}],
        "events": ["*"], "services": [], "description": None, "timeout_s": 15, "order_hold_s": 3600,
        "disable_after_days": 5, "enabled": True,
        "retry_s": [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400],
    }  # fmt: skip
    assert dump["keys"][0] == {
        "name": "shop", "key": [{"value": "[secret]", "until": None}], "scopes": ["orders"], "panel": "smm_plus",
        "panel_get": False, "callback_secret": None, "requests_per_second": 0, "max_open_orders": 0,
    }  # fmt: skip
    assert dump["http"] == {"listen": ["127.0.0.1:8080"], "max_body_bytes": 1048576, "max_connections": 1000}
    assert dump["callbacks"] == {"allow": []}
    assert dump["retention"] == {"orders_days": 365, "exchanges_days": 30, "deliveries_days": 90}
    assert dump["exchange_rates"] == {}


def test_default_retries_stretch_over_75_hours(load_with: LoadWith) -> None:
    assert sum(load_with(("currency",), "USD").webhooks[0].retry_s) >= 75 * 3600


GOOD: list[tuple[Place, object, object]] = [
    ((*PROVIDER, "timeout_s"), 1, 1.0),
    ((*PROVIDER, "timeout_s"), 0.25, 0.25),
    ((*PROVIDER, "timeout_s"), 300, 300.0),
    ((*PROVIDER, "requests_per_second"), 0, 0.0),
    ((*PROVIDER, "requests_per_second"), 0.5, 0.5),
    ((*PROVIDER, "batch_size"), 1, 1),
    ((*PROVIDER, "batch_size"), 100, 100),
    ((*PROVIDER, "min_balance"), "12.50", Decimal("12.50")),
    ((*PROVIDER, "min_balance"), 12, Decimal(12)),
    ((*PROVIDER, "default_link"), None, None),
    ((*PROVIDER, "words"), {"errors": {"Sold out!": "next_offer"}}, None),
    ((*PROVIDER, "words"), None, None),
    ((*PROVIDER, "status_every_s"), {"min": 5, "max": 5}, None),
    ((*PROVIDER, "status_every_s"), {"max": 60}, None),
    ((*PROVIDER, "url"), "http://[::1]:8000/api?x=1", "http://[::1]:8000/api?x=1"),
    ((*SERVICE, "refill"), {"min_age_h": 0, "drop_percent": 100, "cooldown_h": 0.5}, None),
    ((*SERVICE, "panel_id"), 7, 7),
    ((*SERVICE, "strategy"), "best_value", "best_value"),
    ((*SERVICE, "count_source"), {"url": "http://c/{link}?l={link}", "pointer": ""}, None),
    ((*HOOK, "events"), ["order.*", "sms.code", "webhook.parked"], ("order.*", "sms.code", "webhook.parked")),
    ((*HOOK, "retry_s"), [0.5], (0.5,)),
    ((*KEY, "scopes"), ["read", "orders"], ("read", "orders")),
    (("callbacks", "allow"), ["10.0.0.0/8", "192.168.1.1", "fd00::/8"],
     (ip_network("10.0.0.0/8"), ip_network("192.168.1.1"), ip_network("fd00::/8"))),
    (("retention", "orders_days"), 0, 0.0),
    (("exchange_rates",), {"EUR": "1.08", "XBT8": 50000}, {"EUR": Decimal("1.08"), "XBT8": Decimal(50000)}),
    (("http", "max_body_bytes"), 1024, 1024),
    (("http",), None, None),
    (("retention",), None, None),
    (("services", "likes", "offers", 0, "service"), 17, "17"),
]  # fmt: skip


def _at(settings: Any, place: Place) -> object:
    for part in place:
        settings = (
            settings[part] if isinstance(part, int) or not hasattr(settings, str(part)) else getattr(settings, part)
        )
    return settings


@pytest.mark.parametrize(("place", "value", "expected"), [case for case in GOOD if case[2] is not None])
def test_good_values_are_kept(load_with: LoadWith, place: Place, value: object, expected: object) -> None:
    read = _at(load_with(place, value), place)
    assert read == expected
    assert type(read) is type(expected) or isinstance(expected, dict)


@pytest.mark.parametrize(("place", "value"), [case[:2] for case in GOOD if case[2] is None])
def test_good_sections_load(problems_with: ProblemsWith, place: Place, value: object) -> None:
    assert problems_with(place, value) == []


INF, NAN = float("inf"), float("nan")
BAD: list[tuple[Place, object, str]] = [
    # seconds, hours, days, counts
    ((*PROVIDER, "timeout_s"), -3, "must be greater than 0, got -3"),
    ((*PROVIDER, "timeout_s"), 0, "must be greater than 0, got 0"),
    ((*PROVIDER, "timeout_s"), 3601, "must be at most 3600, got 3601"),
    ((*PROVIDER, "timeout_s"), INF, "must be a finite number, got Infinity"),
    ((*PROVIDER, "timeout_s"), NAN, "must be a finite number, got NaN"),
    ((*PROVIDER, "timeout_s"), "30", 'must be a number, got "30"'),
    ((*PROVIDER, "timeout_s"), "30s", 'must be a number, got "30s"'),
    ((*PROVIDER, "timeout_s"), True, "must be a number, got true"),
    ((*PROVIDER, "timeout_s"), None, "must be a number, got nothing"),
    ((*PROVIDER, "timeout_s"), [3], "must be a number, got a list"),
    ((*PROVIDER, "settle_s"), 30, "must be at least three times timeout_s (90), got 30"),
    ((*PROVIDER, "max_concurrency"), 0, "must be at least 1, got 0"),
    ((*PROVIDER, "max_concurrency"), 1001, "must be at most 1000, got 1001"),
    ((*PROVIDER, "max_concurrency"), 2.5, "must be a whole number, got 2.5"),
    ((*PROVIDER, "max_concurrency"), True, "must be a whole number, got true"),
    ((*PROVIDER, "requests_per_second"), -1, "must be at least 0, got -1"),
    ((*PROVIDER, "batch_size"), 101, "must be at most 100, got 101"),
    ((*PROVIDER, "batch_size"), 0, "must be at least 1, got 0"),
    ((*PROVIDER, "catalogue_every_s"), 0, "must be greater than 0, got 0"),
    ((*PROVIDER, "catalogue_every_s"), 1e300, "must be at most 3.1536e+08, got 1e+300"),
    ((*PROVIDER, "balance_every_s"), -1, "must be greater than 0, got -1"),
    ((*PROVIDER, "enabled"), "yes", 'must be true or false, got "yes"'),
    ((*PROVIDER, "enabled"), 1, "must be true or false, got 1"),
    ((*PROVIDER, "rate_per"), {"smm": 0}, "must be at least 1, got 0"),
    ((*PROVIDER, "default_link"), "", "must be one line of text, not empty"),
    ((*PROVIDER, "default_link"), "x" * 1001, "must have at most 1000 characters"),
    ((*PROVIDER, "currency"), "usd", "must be a currency code"),
    ((*PROVIDER, "currency"), 5, "must be text, got 5; put it in quotes"),
    ((*PROVIDER, "dialect"), "panel_v3", 'must be one of panel_v2, hstockplus, got "panel_v3"'),
    ((*PROVIDER, "words"), {"errors": {"x": "retry"}}, "must be one of next_offer, later, callers_fault"),
    ((*PROVIDER, "words"), {"status": {"x": "refunded"}}, "must be one of pending, processing"),
    ((*PROVIDER, "words"), {"errors": {"x": ["later"]}}, "must be one of next_offer"),
    ((*PROVIDER, "words"), {"errors": ["x"]}, "must be a mapping (name: value), got a list"),
    ((*PROVIDER, "api_key"), 12345, "must be text: env:NAME"),
    ((*SERVICE, "give_up_after_s"), 0, "must be greater than 0, got 0"),
    ((*SERVICE, "kind"), "followers", "must be one of smm, product, sms"),
    ((*SERVICE, "strategy"), "fastest", "must be one of cheapest, best_value"),
    ((*SERVICE, "panel_id"), 0, "must be at least 1, got 0"),
    ((*SERVICE, "panel_id"), 2**31, "must be at most"),
    ((*SERVICE, "panel_id"), "1", 'must be a whole number, got "1"'),
    ((*SERVICE, "offers"), [], "must have at least 1 entry"),
    ((*SERVICE, "offers"), {"provider": "panel"}, "must be a list, got a mapping"),
    ((*SERVICE, "offers"), None, "must be a list, got nothing; remove the name"),
    ((*SERVICE, "offers"), ["panel"], "must be a mapping (name: value), got text"),
    ((*SERVICE, "offers"), [{"provider": "panel", "service": 1.5}], "must be text, got 1.5; put it in quotes"),
    ((*SERVICE, "offers"), [{"provider": "panel", "service": ""}], "must be one line of text, not empty"),
    ((*SERVICE, "offers"), [{"service": "1"}], "is required"),
    ((*SERVICE, "refill", "drop_percent"), 0, "must be greater than 0, got 0"),
    ((*SERVICE, "refill", "drop_percent"), 100.5, "must be at most 100, got 100.5"),
    ((*SERVICE, "refill", "window_days"), 0, "must be greater than 0, got 0"),
    ((*SERVICE, "refill", "cooldown_h"), 0, "must be greater than 0, got 0"),
    ((*SERVICE, "refill", "min_age_h"), -1, "must be at least 0, got -1"),
    ((*SERVICE, "refill", "check_every_h"), 0, "must be greater than 0, got 0"),
    ((*SERVICE, "refill", "max_refills"), 0, "must be at least 1, got 0"),
    ((*SERVICE, "count_source"), {"url": "http://x/"}, "is required"),
    ((*SERVICE, "count_source"), {"url": "http://{link}/", "pointer": ""}, "must have a literal host"),
    ((*SERVICE, "count_source"), {"url": "http://{host}.x/", "pointer": ""}, "must have a literal host"),
    ((*SERVICE, "count_source"), {"url": "http://x/{id}", "pointer": ""}, "no other placeholder than {link}"),
    ((*SERVICE, "count_source"), {"url": "http://x/{link", "pointer": ""}, "no other placeholder than {link}"),
    ((*SERVICE, "count_source"), {"url": "http://x/", "pointer": "count"}, "must be a JSON pointer"),
    ((*SERVICE, "count_source"), {"url": "http://x/", "pointer": "/a~2"}, "must be a JSON pointer"),
    ((*SERVICE, "title"), "two\nlines", "must be one line of text"),
    # keys
    ((*KEY, "key"), "env:SHORT", "must have at least 16 characters, this one has 5"),
    ((*KEY, "key"), "env:SPACED", "printable ASCII"),
    ((*KEY, "key"), [], "must have at least 1 entry"),
    ((*KEY, "key"), [{"value": "env:SHOP_KEY", "until": "tomorrow"}], "must be a date or an RFC 3339 time"),
    ((*KEY, "key"), [{"value": "env:SHOP_KEY", "until": "2027-01-31T18:00:00"}], "with its zone"),
    ((*KEY, "key"), [{"value": "env:SHOP_KEY", "until": "2027-02-30"}], "must be a date"),
    ((*KEY, "key"), [{"value": "env:SHOP_KEY", "until": "9999-12-31"}], "must be a date"),
    ((*KEY, "key"), [{"value": "env:SHOP_KEY", "until": 20270131}], "must be text"),
    ((*KEY, "key"), [{"until": "2027-01-31"}], "is required"),
    ((*KEY, "name"), "", "must be 1 to 64 letters"),
    ((*KEY, "name"), "a b", "must be 1 to 64 letters"),
    ((*KEY, "name"), "x" * 65, "must be 1 to 64 letters"),
    ((*KEY, "name"), 7, "must be text, got 7; put it in quotes"),
    ((*KEY, "scopes"), [], "must have at least 1 entry"),
    ((*KEY, "scopes"), "orders", "must be a list, got text"),
    ((*KEY, "scopes"), ["orders", "orders"], "names orders twice"),
    ((*KEY, "scopes"), ["write"], "must be one of orders, read, admin"),
    ((*KEY, "panel"), "other", "must be one of smm_plus, hstockplus"),
    ((*KEY, "callback_secret"), "env:SHOP_KEY", "must be whsec_ followed by the base64 of 24 to 64 random bytes"),
    ((*KEY, "max_open_orders"), -1, "must be at least 0, got -1"),
    ((*KEY, "requests_per_second"), INF, "must be a finite number"),
    # webhooks
    ((*HOOK, "secret"), "env:SHOP_KEY", "`aggregator keys generate --webhook`"),
    ((*HOOK, "secret"), "env:WHSEC_SHORT", "24 to 64 random bytes"),
    ((*HOOK, "secret"), "env:WHSEC_LONG", "24 to 64 random bytes"),
    ((*HOOK, "secret"), "env:WHSEC_UNPADDED", "24 to 64 random bytes"),
    ((*HOOK, "secret"), "env:WHSEC_BAD", "24 to 64 random bytes"),
    ((*HOOK, "secret"), [{"value": "env:HOOK_SECRET", "until": "2027-01-31"}], "needs one value without `until`"),
    ((*HOOK, "events"), [], "must have at least 1 entry"),
    ((*HOOK, "events"), ["order.complete"], "no event is called 'order.complete', did you mean order.completed?"),
    ((*HOOK, "events"), ["orders.*"], "did you mean order.*?"),
    ((*HOOK, "events"), ["order.c*"], "no event is called"),
    ((*HOOK, "events"), ["*", "*"], "names * twice"),
    ((*HOOK, "retry_s"), [], "must have at least 1 entry"),
    ((*HOOK, "retry_s"), [5, 0], "must be greater than 0, got 0"),
    ((*HOOK, "retry_s"), [1] * 101, "must have at most 100 entries"),
    ((*HOOK, "retry_s"), 5, "must be a list, got a number"),
    ((*HOOK, "order_hold_s"), 0, "must be greater than 0, got 0"),
    # the rest
    (("callbacks", "allow"), ["10.0.0.1/8"], "did you mean 10.0.0.0/8?"),
    (("callbacks", "allow"), ["localhost"], "must be a network"),
    (("callbacks", "allow"), [10], "must be text"),
    (("callbacks", "allow"), ["10.0.0.0/8", "10.0.0.0/8"], "names 10.0.0.0/8 twice"),
    (("retention", "orders_days"), -1, "must be at least 0, got -1"),
    (("retention", "orders_days"), 36500, "must be at most 3650, got 36500"),
    (("http", "max_body_bytes"), 100, "must be at least 1024, got 100"),
    (("currency",), "dollars", "must be a currency code"),
    (("exchange_rates",), {"EUR": 1.08}, 'must be quoted, because a bare number with a point is not exact: "1.08"'),
    (("exchange_rates",), {"EUR": "0"}, "must be greater than 0, got 0"),
    (("exchange_rates",), {"EUR": "-1"}, "must be greater than 0, got -1"),
    (("exchange_rates",), {"EUR": "NaN"}, "must be a decimal number"),
    (("exchange_rates",), {"EUR": "1,08"}, "must be a decimal number"),
    (("exchange_rates",), {"EUR": True}, "must be an amount"),
    (("exchange_rates",), {"EUR": None}, "must be an amount"),
    (("exchange_rates",), {"eur": "1"}, "must be a currency code"),
    (("exchange_rates",), ["EUR"], "must be a mapping"),
    ((*PROVIDER, "min_balance"), 0.5, 'must be quoted, because a bare number with a point is not exact: "0.5"'),
    ((*PROVIDER, "min_balance"), "-1", "must be at least 0, got -1"),
    ((*PROVIDER, "min_balance"), "0.000000001", "at most 8 digits after the point"),
    ((*PROVIDER, "min_balance"), "1" * 12, "is larger than can be stored"),
    (("providers",), ["panel"], "must be a mapping"),
    (("services",), 5, "must be a mapping (name: value), got a number"),
    (("keys",), {"shop": "x"}, "must be a list, got a mapping"),
    (("sealing_key",), 5, "must be text"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "message"), BAD)
def test_bad_values_are_refused_with_place_and_reason(
    problems_with: ProblemsWith, place: Place, value: object, message: str
) -> None:
    environ = ENVIRON | {
        "SHORT": "short",
        "SPACED": "a key with spaces in it",
        "WHSEC_SHORT": "whsec_QUJD",
        "WHSEC_LONG": "whsec_" + "QUJD" * 22,
        "WHSEC_UNPADDED": "whsec_" + "QUJD" * 8 + "QQ",
        "WHSEC_BAD": "whsec_" + "QU!D" * 8,
    }
    problems = problems_with(place, value, environ=environ)
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
    assert any(problem.startswith(path) and message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("place", "suggestion"),
    [
        (("databse",), "did you mean database?"),
        ((*PROVIDER, "tiemout_s"), "did you mean timeout_s?"),
        ((*PROVIDER, "words", "error"), "did you mean errors?"),
        ((*PROVIDER, "status_every_s", "least"), "known here: max, min"),
        ((*SERVICE, "refil"), "did you mean refill?"),
        ((*SERVICE, "offers", 0, "sevice"), "did you mean service?"),
        ((*SERVICE, "count_source", "pointr"), "did you mean pointer?"),
        ((*HOOK, "scret"), "did you mean secret?"),
        ((*KEY, "scope"), "did you mean scopes?"),
        (("retention", "order_days"), "did you mean orders_days?"),
    ],
)
def test_unknown_settings_suggest_the_nearest(problems_with: ProblemsWith, place: Place, suggestion: str) -> None:
    problems = problems_with(place, 1)
    assert any("unknown setting" in problem and suggestion in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("until", "instant"),
    [
        ("2027-01-31", datetime(2027, 2, 1, tzinfo=UTC)),
        ("2027-01-31T18:00:00Z", datetime(2027, 1, 31, 18, tzinfo=UTC)),
        ("2027-01-31T18:00:00+02:00", datetime(2027, 1, 31, 16, tzinfo=UTC)),
    ],
)
def test_until_is_an_instant_in_utc(load_with: LoadWith, until: str, instant: datetime) -> None:
    value = [{"value": "env:SHOP_KEY"}, {"value": "env:OFFICE_KEY", "until": until}]
    key = load_with((*KEY, "key"), value).keys[0]
    assert key.key[1].until == instant
    assert len(key.keys_at(instant - timedelta(seconds=1))) == 2
    assert key.keys_at(instant) == (key.key[0].value,)


def test_a_webhook_signs_with_every_current_secret(load_with: LoadWith) -> None:
    value = [{"value": "env:HOOK_SECRET"}, {"value": "env:HOOK_SECRET", "until": "2027-01-31"}]
    hook = load_with((*HOOK, "secret"), value).webhooks[0]
    assert len(hook.secrets_at(datetime(2027, 1, 31, tzinfo=UTC))) == 2
    [secret] = hook.secrets_at(datetime(2027, 2, 1, tzinfo=UTC))
    assert secret.signing_bytes == b"ABC" * 8


def test_callback_secrets_are_optional(load_with: LoadWith) -> None:
    assert load_with(("currency",), "USD").keys[0].callback_secret is None
    key = load_with((*KEY, "callback_secret"), "env:HOOK_SECRET").keys[0]
    assert [secret.value.reveal() for secret in key.callback_secret or ()] == [WEBHOOK_SECRET]


def test_settings_cannot_be_changed(load_with: LoadWith) -> None:
    settings = load_with(("exchange_rates",), {"EUR": "1"})
    with pytest.raises(ValidationError):
        settings.currency = "EUR"  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings.exchange_rates["EUR"] = Decimal(2)  # type: ignore[index]


def test_dialects_and_their_kinds_agree() -> None:
    assert set(DIALECTS) == set(DIALECT_KINDS)
    for dialect in DIALECTS:
        made = ProviderSettings(dialect=dialect, url="http://x/", api_key=Secret("x"))
        assert made.dialect == dialect


def test_settings_can_be_made_by_hand() -> None:
    """As tests of other rooms do: without a file, without sources."""
    settings = Settings(
        providers={"p": ProviderSettings(dialect="panel_v2", url="http://x/", api_key=Secret("x"))},
        keys=(KeySettings(name="k", key=(KeyValue(value=Secret("k" * 16)),)),),
    )
    assert settings.providers["p"].timeout_s == 30
    assert settings.listen == (TcpAddress("127.0.0.1", 8080),)
    assert SigningSecret(value=Secret(WEBHOOK_SECRET)).signing_bytes == b"ABC" * 8
