"""Whole files: which one is read, what is wrong between settings, and everything wrong listed at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aggregator.config import ConfigError, find_config_path, load
from tests.config.conftest import ENVIRON, LoadWith, Place, ProblemsWith

LIKES = ("services", "likes", "offers")
CODES = ("services", "codes", "offers")


def test_every_problem_is_listed_at_once_in_the_order_of_the_file(problems_in: ProblemsWith) -> None:
    text = """\
databse: x
keys:
  - {name: shop, key: "env:MISSING"}
  - {name: shop, key: "env:SHOP_KEY", scopes: [all]}
providers:
  smmplus: {dialect: panel_v2, url: https://smm.plus/api/v2, api_key: "env:PROVIDER_KEY", timeout_s: -3}
services:
  a: {kind: smm, offers: [{provider: smplus, service: "1"}], panel_id: 1}
  b: {kind: sms, offers: [{provider: smmplus, service: "1"}], panel_id: 1}
  b: {kind: sms, offers: [{provider: smmplus, service: "1"}], panel_id: 1}
"""
    assert problems_in(text) == [
        "databse: unknown setting, did you mean database?",
        "keys[0].key: the environment variable MISSING is not set; "
        "export it, or set it in the service's EnvironmentFile",
        "keys[1].name: shop is already the name of keys[0]",
        'keys[1].scopes[0]: must be one of orders, read, admin, got "all"',
        "providers.smmplus.timeout_s: must be greater than 0, got -3",
        "services.a.offers[0].provider: there is no provider smplus, did you mean smmplus?",
        "services.b: stands here twice, in lines 9 and 10; keep one",
        "services.b.offers[0].project: is required for a service of kind sms",
        "services.b.offers[0].provider: smmplus speaks panel_v2, which sells no sms services; "
        "dialects that do: hstockplus",
        "services.b.offers[0].service: does not belong to a service of kind sms, which takes project",
        "services.b.panel_id: 1 is already that of services.a",
    ]


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ((*LIKES, 0, "provider"), "panl",
         "services.likes.offers[0].provider: there is no provider panl, did you mean panel?"),
        ((*LIKES, 0, "provider"), "x",
         "services.likes.offers[0].provider: there is no provider x; known here: hstock, panel"),
        (LIKES, [{"provider": "panel", "project": "1"}],
         "services.likes.offers[0].service: is required for a service of kind smm"),
        (LIKES, [{"provider": "panel", "service": "1", "country": "us"}],
         "services.likes.offers[0].country: does not belong to a service of kind smm, which takes service"),
        (CODES, [{"provider": "hstock", "service": "1", "project": "a"}],
         "services.codes.offers[0].service: does not belong to a service of kind sms, which takes project"),
        (CODES, [{"provider": "panel", "project": "a"}],
         "services.codes.offers[0].provider: panel speaks panel_v2, which sells no sms services; "
         "dialects that do: hstockplus"),
        (("services", "mail", "offers", 0, "provider"), "panel",
         "services.mail.offers[0].provider: panel speaks panel_v2, which sells no product services; "
         "dialects that do: hstockplus"),
        (LIKES, [{"provider": "panel", "service": "1"}, {"provider": "panel", "service": 1}],
         "services.likes.offers[1]: is the same offer as offers[0]"),
        (("exchange_rates",), {"USD": "1"},
         "exchange_rates.USD: is `currency` itself, which is always worth 1; remove it"),
        (("keys",), [{"name": "a", "key": "env:SHOP_KEY"}, {"name": "b", "key": [{"value": "env:SHOP_KEY"}]}],
         "keys[1].key[0].value: is the same key as one of keys[0]; a key must tell who calls"),
        (("keys",), [{"name": "a", "key": "env:SHOP_KEY"}, {"name": "a", "key": "env:OFFICE_KEY"}],
         "keys[1].name: a is already the name of keys[0]"),
        (("webhooks",), [{"name": "h", "url": "http://x/", "secret": "env:HOOK_SECRET"}] * 2,
         "webhooks[1].name: h is already the name of webhooks[0]"),
    ],
)  # fmt: skip
def test_settings_must_fit_each_other(problems_with: ProblemsWith, place: Place, value: object, problem: str) -> None:
    assert problem in problems_with(place, value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (LIKES, [{"provider": "panel", "service": "1"}, {"provider": "panel", "service": "2"},
                 {"provider": "hstock", "service": "1"}]),
        (CODES, [{"provider": "hstock", "project": "a"}, {"provider": "hstock", "project": "a", "country": "us"}]),
        (("exchange_rates",), {"EUR": "1"}),
    ],
)  # fmt: skip
def test_different_offers_of_one_provider_are_fine(problems_with: ProblemsWith, place: Place, value: object) -> None:
    assert problems_with(place, value) == []


@pytest.mark.parametrize(
    "value", [None, 5, "x", [], {}, [5], {"a": 5}, [[]], {"a": []}, {"a": {"b": {"c": 1}}}, True, 1.5]
)
@pytest.mark.parametrize(
    "place",
    [("keys",), ("keys", 0), ("providers",), ("providers", "panel"), ("services",), ("services", "likes"), LIKES,
     (*LIKES, 0), ("webhooks",), ("webhooks", 0), ("http",), ("http", "listen"), ("callbacks",), ("retention",),
     ("exchange_rates",), ("database",), ("currency",), ("services", "likes", "kind"), ("keys", 0, "key")],
)  # fmt: skip
def test_no_shape_breaks_the_checking_itself(problems_with: ProblemsWith, place: Place, value: object) -> None:
    for problem in problems_with(place, value):
        assert "Input should" not in problem


def test_a_file_with_nothing_but_a_setting_is_enough(load_text: LoadWith) -> None:
    settings = load_text("currency: EUR", environ={})
    assert (settings.currency, settings.providers, settings.keys) == ("EUR", {}, ())


def test_missing_files_directories_and_encodings_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    for name, message in (
        ("none.yaml", "none.yaml does not exist"),
        ("", "is a directory"),
        ("latin.yaml", "latin.yaml is not UTF-8 text (byte 3)"),
        ("latin.yaml/x", "cannot be read: Not a directory"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name, {})
        assert message in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: 1")
    path.chmod(0)
    with pytest.raises(ConfigError, match="cannot be read by this user"):
        load(path, {})


def test_a_permission_error_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match="cannot be read by this user; mend its owner or mode"):
        load(tmp_path / "c.yaml", {})


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfcurrency: EUR\n")
    assert load(tmp_path / "c.yaml", {}).currency == "EUR"


def test_the_configuration_is_looked_for_in_order(tmp_path: Path) -> None:
    system = tmp_path / "etc.yaml"
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    with pytest.raises(ConfigError) as caught:
        find_config_path(None, {}, cwd, system=system)
    for place in ("$AGGREGATOR_CONFIG", f"{cwd}/config.yaml", str(system), "--config", "config.example.yaml"):
        assert place in str(caught.value)
    system.touch()
    assert find_config_path(None, {"AGGREGATOR_CONFIG": ""}, cwd, system=system) == system
    (cwd / "config.yaml").touch()
    assert find_config_path(None, {}, cwd, system=system) == cwd / "config.yaml"
    environ = {"AGGREGATOR_CONFIG": "named.yaml"}
    assert find_config_path(None, environ, cwd, system=system) == cwd / "named.yaml"
    assert find_config_path(Path("/asked.yaml"), environ, cwd, system=system) == Path("/asked.yaml")


def test_secrets_are_read_from_the_given_environment_only(load_with: LoadWith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_KEY", "of-the-process-not-ours")
    assert load_with(("currency",), "USD").keys[0].key[0].value.reveal() == ENVIRON["SHOP_KEY"]
