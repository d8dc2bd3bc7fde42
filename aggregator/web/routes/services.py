"""The routes of what callers can order."""

from __future__ import annotations

from typing import Final

from aggregator.domain.errors import ProblemKind
from aggregator.web import api_services
from aggregator.web.auth import ANYBODY
from aggregator.web.models import QuoteRequest
from aggregator.web.operations import Route
from aggregator.web.schemas.services import Quote, ServiceList

TAG: Final = "Services"

ROUTES: Final = (
    Route(
        "GET",
        "/v1/services",
        ANYBODY,
        api_services.list_services,
        id="listServices",
        tag=TAG,
        summary="What can be ordered",
        description="Our services with the best price, stock and limits of now.",
        query=api_services.LIST_QUERY,
        answer=ServiceList,
    ),
    Route(
        "POST",
        "/v1/quote",
        ANYBODY,
        api_services.quote,
        id="quote",
        tag=TAG,
        summary="What it would cost",
        description="The ranking that an order placed now would get, with every offer's cost, history, age of stock "
        "and reason. Buys nothing, asks no provider.",
        body=QuoteRequest,
        problems=(ProblemKind.UNKNOWN_SERVICE,),
        answer=Quote,
    ),
)
