"""The routes of the event feed."""

from __future__ import annotations

from typing import Final

from aggregator.web import api_events
from aggregator.web.auth import ANYBODY
from aggregator.web.operations import Route, Text
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
    Route(
        "GET",
        "/v1/events/stream",
        ANYBODY,
        api_events.stream,
        id="streamEvents",
        tag=TAG,
        summary="The feed as a stream",
        description="Server-sent events: `id` is the position, `event` the type, `data` the JSON of the feed. It "
        "begins after the header `Last-Event-ID`, else after `after`, else with what comes from now on, and says at "
        "once where that is. A comment goes out after 15 s of silence. 32 readers may wait per caller, 256 in all.",
        query=api_events.STREAM_QUERY,
        answer=Text(("text/event-stream",), "Events as they come."),
    ),
)
