"""A small valid configuration as plain values, and ways to load variations of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from aggregator.config import ConfigError, Settings, load

WEBHOOK_SECRET = "whsec_" + "QUJD" * 8
ENVIRON = {
    "SHOP_KEY": "shop-key-0123456789",
    "OFFICE_KEY": "office-key-0123456789",
    "PROVIDER_KEY": "provider-key-0123456789",
    "HOOK_SECRET": WEBHOOK_SECRET,
}
BASE: dict[str, Any] = {
    "keys": [{"name": "shop", "key": "env:SHOP_KEY"}],
    "providers": {
        "panel": {"dialect": "panel_v2", "url": "https://panel.example/api/v2", "api_key": "env:PROVIDER_KEY"},
        "hstock": {"dialect": "hstockplus", "url": "https://h.example/api/v2", "api_key": "env:PROVIDER_KEY"},
    },
    "services": {
        "likes": {"kind": "smm", "offers": [{"provider": "panel", "service": "1"}]},
        "mail": {"kind": "product", "offers": [{"provider": "hstock", "service": "2"}]},
        "codes": {"kind": "sms", "offers": [{"provider": "hstock", "project": "65f0aa", "country": "us"}]},
    },
    "webhooks": [{"name": "hook", "url": "http://127.0.0.1:9000/hook", "secret": "env:HOOK_SECRET"}],
}

Place = tuple[str | int, ...]
LoadWith = Callable[..., Settings]
ProblemsWith = Callable[..., list[str]]


def changed(place: Place, value: object) -> dict[str, Any]:
    """BASE with one value put at `place`; names on the way are made where they are missing."""
    data = copy.deepcopy(BASE)
    here: Any = data
    for part in place[:-1]:
        here = here.setdefault(part, {}) if isinstance(here, dict) else here[part]
    here[place[-1]] = value
    return data


@pytest.fixture
def load_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadWith:
    """Write a text as a private file and load it from a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(text: str, environ: dict[str, str] | None = None, mode: int = 0o600) -> Settings:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        path.chmod(mode)
        return load(path, ENVIRON if environ is None else environ)

    return run


@pytest.fixture
def load_with(load_text: LoadWith) -> LoadWith:
    """Load BASE with one change."""

    def run(place: Place, value: object, **options: Any) -> Settings:
        return load_text(yaml.safe_dump(changed(place, value), sort_keys=False), **options)

    return run


@pytest.fixture
def problems_with(load_with: LoadWith) -> ProblemsWith:
    """The problems, as texts, of BASE with one change; an empty list when it loads."""

    def run(place: Place, value: object, **options: Any) -> list[str]:
        try:
            load_with(place, value, **options)
        except ConfigError as exc:
            return str(exc).splitlines()
        return []

    return run


@pytest.fixture
def problems_in(load_text: LoadWith) -> ProblemsWith:
    """The problems of a text."""

    def run(text: str, **options: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load_text(text, **options)
        assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
        return str(caught.value).splitlines()

    return run
