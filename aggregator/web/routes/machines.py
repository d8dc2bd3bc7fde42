"""The routes that machines ask: probes, metrics, and the API's description of itself."""

from __future__ import annotations

from typing import Final

from aggregator.web import health, metrics, reader
from aggregator.web.auth import READERS
from aggregator.web.operations import Route, Text
from aggregator.web.schemas.common import Open
from aggregator.web.schemas.health import Alive, Ready

PROBES: Final = "Probes"
DESCRIPTION: Final = "This description"


class Description(Open):
    """An OpenAPI 3.1 document."""


ROUTES: Final = (
    Route(
        "GET",
        "/livez",
        None,
        health.livez,
        id="livez",
        tag=PROBES,
        summary="Is it alive?",
        description="200 while every loop comes round; 503 names those that do not.",
        answer=Alive,
        admits=False,
    ),
    Route(
        "GET",
        "/readyz",
        None,
        health.readyz,
        id="readyz",
        tag=PROBES,
        summary="Can it take orders?",
        description="200 while the database can be written and the daemon is not about to stop.",
        answer=Ready,
        admits=False,
    ),
    Route(
        "GET",
        "/metrics",
        READERS,
        metrics.metrics,
        id="metrics",
        tag=PROBES,
        summary="What it counts",
        description="Prometheus' text, or OpenMetrics for those that ask for it. Needs no key from this machine itself "
        "(a unix socket, or a loopback peer without a proxy's headers).",
        answer=Text(("text/plain", "application/openmetrics-text"), "Metrics, one a line."),
        admits=False,
    ),
    Route(
        "GET",
        "/openapi.json",
        None,
        reader.get_document,
        id="getDescription",
        tag=DESCRIPTION,
        summary="This description, for programs",
        description="OpenAPI 3.1.",
        answer=Description,
        admits=False,
        unchanged=True,
    ),
    Route(
        "GET",
        "/docs",
        None,
        reader.get_page,
        id="getDocs",
        tag=DESCRIPTION,
        summary="This description, for people",
        description="One page that needs nothing from elsewhere.",
        answer=Text(("text/html",), "The page."),
        admits=False,
        unchanged=True,
    ),
)
