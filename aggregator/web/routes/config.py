"""The routes of the config, for the operator."""

from __future__ import annotations

from typing import Final

from aggregator.web import api_config
from aggregator.web.auth import ADMINS
from aggregator.web.models import EmptyRequest
from aggregator.web.operations import Route
from aggregator.web.schemas.config import ReloadedConfig

ROUTES: Final = (
    Route(
        "POST",
        "/v1/reload",
        ADMINS,
        api_config.reload,
        id="reloadConfig",
        tag="Config",
        summary="Go by the config file as it is now",
        description="All of it at one moment, or nothing. What is under way ends as it began. `database`, `http` and "
        "`sealing_key` are read at the start alone.",
        body=EmptyRequest,
        body_required=False,
        idempotent=True,
        conflict="The file cannot be used (`errors` has all that is wrong with it), or changes what is read at the "
        "start alone. Nothing was changed.",
        answer=ReloadedConfig,
    ),
)
