"""The routes of what numbers can be rented for."""

from __future__ import annotations

from typing import Final

from aggregator.web import api_sms
from aggregator.web.auth import READERS
from aggregator.web.operations import Route
from aggregator.web.schemas.sms import CountryList, ProjectList

TAG: Final = "SMS numbers"

ROUTES: Final = (
    Route(
        "GET",
        "/v1/sms/projects",
        READERS,
        api_sms.list_projects,
        id="listSmsProjects",
        tag=TAG,
        summary="Projects of all providers",
        description="For choosing what to configure: what `project` and `country` of an offer may be, each with its "
        "price and with the services of ours that may rent it.",
        query=api_sms.PROJECTS_QUERY,
        answer=ProjectList,
    ),
    Route(
        "GET",
        "/v1/sms/countries",
        READERS,
        api_sms.list_countries,
        id="listSmsCountries",
        tag=TAG,
        summary="Countries of all providers",
        description="By code, each with the providers that have numbers there and how they write it.",
        query=api_sms.COUNTRIES_QUERY,
        answer=CountryList,
    ),
)
