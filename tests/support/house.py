"""A house for one stage under test: settings from a YAML text, a given database and clock, nothing running."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cryptography.fernet import Fernet

from aggregator.config import Settings, load
from aggregator.domain.clock import Clock
from aggregator.flow.base import House
from aggregator.flow.health import Health
from aggregator.log import Redactor
from aggregator.outbound import Outbound
from aggregator.providers.gateway import Gateway
from aggregator.storage.database import Database
from aggregator.storage.deliverables import Sealer


def load_settings(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of a YAML text; the file is private, so secrets may stand in it."""
    path = folder / "config.yaml"
    path.touch(mode=0o600)
    path.write_text(text)
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
