"""The routes of the event feed."""

from __future__ import annotations

from typing import Final

from aggregator.web import api_events
from aggregator.web.auth import ANYBODY
from aggregator.web.operations import Route
from aggregator.web.schemas.events import Feed

TAG: Final = "Events"

ROUTES: Final = (
    Route(
        "GET",
        "/v1/events",
        ANYBODY,
        api_events.list_events,
        id="listEvents",
        tag=TAG,
        summary="The feed of events",
        description="What came after a position; with `wait`, as soon as there is something. Positions are given after "
        "the commit: whoever goes on from `next_after` never misses an event because another committed later. Callers "
        "see the events of their own orders; `read` and `admin` see all.",
        query=api_events.FEED_QUERY,
        answer=Feed,
    ),
)
