"""A house for one stage under test: settings from a YAML text, a given database and clock, nothing running."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import yaml
from cryptography.fernet import Fernet

from aggregator.config import Settings, document, load
from aggregator.domain.clock import Clock
from aggregator.flow.base import House
from aggregator.flow.health import Health
from aggregator.log import Redactor
from aggregator.outbound import Outbound
from aggregator.providers.gateway import Gateway
from aggregator.storage.database import Database
from aggregator.storage.deliverables import Sealer


def _quick_loader() -> Any:
    """The program's loader behind libyaml, ten times as fast. It has other words for what is wrong, and falls on its
    face over deep nesting: that is for the texts of tests alone."""
    if not yaml.__with_libyaml__:
        return document._Loader
    own = ("yaml_implicit_resolvers", "yaml_constructors", "construct_mapping")
    return type("QuickLoader", (yaml.CSafeLoader,), {name: getattr(document._Loader, name) for name in own})


_QUICK_LOADER: Final = _quick_loader()


def load_settings(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of a YAML text; the file is private, so secrets may stand in it."""
    path = folder / "config.yaml"
    path.touch(mode=0o600)
    path.write_text(text)
    with patch.object(document, "_Loader", _QUICK_LOADER):
        return load(path, environ or {})


def make_house(
    database: Database,
    clock: Clock,
    folder: Path,
    text: str = "{}",
    *,
    environ: Mapping[str, str] | None = None,
    outbound: Outbound | None = None,
) -> House:
    """A house; with `outbound` it has a gateway for each provider of the text."""
    settings = load_settings(folder, text, environ)
    redactor = Redactor(settings.secrets())
    gateways = {
        name: Gateway(name, provider, outbound, redactor, clock)
        for name, provider in settings.providers.items()
        if outbound is not None
    }
    return House(
        settings=settings,
        database=database,
        gateways=gateways,
        health=Health(database, clock, settings.providers),
        clock=clock,
        sealer=Sealer(Fernet.generate_key().decode()),
    )
