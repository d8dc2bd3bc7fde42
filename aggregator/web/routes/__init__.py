"""Every route there is, in the order in which the API's own description shows them.

One module for each of its parts; a new part is a module with `ROUTES` and a line here. The description, the reading of
queries and the tests follow from the table.
"""

from __future__ import annotations

from typing import Final

from aggregator.web.operations import Route
from aggregator.web.routes import config, events, machines, orders, panel, providers, services, sms, webhooks

ROUTES: Final[tuple[Route, ...]] = (
    *orders.ROUTES,
    *services.ROUTES,
    *events.ROUTES,
    *providers.ROUTES,
    *sms.ROUTES,
    *webhooks.ROUTES,
    *panel.ROUTES,
    *config.ROUTES,
    *machines.ROUTES,
)
