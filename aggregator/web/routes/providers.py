"""The routes of providers, for the operator."""

from __future__ import annotations

from typing import Final

from aggregator.web import api_providers
from aggregator.web.auth import ADMINS, READERS
from aggregator.web.models import EmptyRequest, ReleaseRequest
from aggregator.web.operations import Link, Route
from aggregator.web.schemas.providers import (
    CatalogueList,
    CategoryList,
    Ledger,
    PriceHistory,
    Provider,
    ProviderList,
    Released,
)

TAG: Final = "Providers"

_HISTORY: Final = Link(
    "listPriceHistory",
    {"provider": "$request.path.provider", "service": "$response.body#/services/0/service"},
    "The first row's prices and stock.",
)

ROUTES: Final = (
    Route(
        "GET",
        "/v1/providers",
        READERS,
        api_providers.list_providers,
        id="listProviders",
        tag=TAG,
        summary="All providers",
        description="Health, balance, books, catalogue and capabilities of each.",
        answer=ProviderList,
    ),
    Route(
        "GET",
        "/v1/providers/{provider}",
        READERS,
        api_providers.get_provider,
        id="getProvider",
        tag=TAG,
        summary="One provider",
        answer=Provider,
    ),
    Route(
        "GET",
        "/v1/providers/{provider}/services",
        READERS,
        api_providers.list_provider_services,
        id="listProviderServices",
        tag=TAG,
        summary="Its catalogue",
        description="As stored; `quarantined=true` for the rows that are not believed, with the reason.",
        query=api_providers.CATALOGUE_QUERY,
        answer=CatalogueList,
        links=(_HISTORY,),
    ),
    Route(
        "GET",
        "/v1/providers/{provider}/categories",
        READERS,
        api_providers.list_categories,
        id="listProviderCategories",
        tag=TAG,
        summary="Its categories",
        description="What `category` and `subcategory` may be, and how many stored rows each has.",
        query=api_providers.CATEGORIES_QUERY,
        answer=CategoryList,
    ),
    Route(
        "GET",
        "/v1/providers/{provider}/services/{service}/history",
        READERS,
        api_providers.list_history,
        id="listPriceHistory",
        tag=TAG,
        summary="Prices and stock of a service",
        description="As its catalogue told them; only changes are entries.",
        query=api_providers.HISTORY_QUERY,
        answer=PriceHistory,
    ),
    Route(
        "GET",
        "/v1/providers/{provider}/ledger",
        READERS,
        api_providers.list_ledger,
        id="listLedger",
        tag=TAG,
        summary="Its ledger",
        description="Every balance that was read, every charge, refund and top-up. What we pay is negative.",
        query=api_providers.LEDGER_QUERY,
        answer=Ledger,
    ),
    Route(
        "POST",
        "/v1/providers/{provider}/sync",
        ADMINS,
        api_providers.sync,
        id="syncProvider",
        tag=TAG,
        summary="Fetch its catalogue now",
        description="Answers once it was taken over; waits for the provider.",
        body=EmptyRequest,
        body_required=False,
        idempotent=True,
        conflict="The provider is not enabled in the config, or its catalogue was not taken over as a whole.",
        answer=Provider,
    ),
    Route(
        "POST",
        "/v1/providers/{provider}/pause",
        ADMINS,
        api_providers.pause,
        id="pauseProvider",
        tag=TAG,
        summary="Buy nothing there",
        description="What was bought there is followed on.",
        body=EmptyRequest,
        body_required=False,
        idempotent=True,
        answer=Provider,
    ),
    Route(
        "POST",
        "/v1/providers/{provider}/resume",
        ADMINS,
        api_providers.resume,
        id="resumeProvider",
        tag=TAG,
        summary="Buy there again",
        body=EmptyRequest,
        body_required=False,
        idempotent=True,
        answer=Provider,
    ),
    Route(
        "POST",
        "/v1/providers/{provider}/release",
        ADMINS,
        api_providers.release,
        id="releaseProvider",
        tag=TAG,
        summary="Believe what is in doubt",
        description="A quarantined service (`service`, of one `country` perhaps) as it is now, or (`catalogue`) the "
        "next catalogue although it shrank.",
        body=ReleaseRequest,
        idempotent=True,
        conflict="The service is not in quarantine, or nobody could buy it; the catalogue is not in doubt.",
        answer=Released,
    ),
)
