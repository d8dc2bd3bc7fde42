"""The routes of the panel door."""

from __future__ import annotations

from typing import Final

from aggregator.web.operations import Route
from aggregator.web.panel import door
from aggregator.web.schemas.panel import PanelAnswer, PanelCall

TAG: Final = "Panel door"
_ALIASES: Final = (f"{door.PATH}/",)

ROUTES: Final = (
    Route(
        "POST",
        door.PATH,
        None,
        door.panel,
        id="panel",
        tag=TAG,
        summary="This daemon as a provider",
        description="The panel protocol, for panels and client libraries that speak it: every action of both "
        'documents, as a form or JSON. Whatever goes wrong is `{"error": "…"}` with status 200, in the words of the '
        "document that the key's `panel` names.",
        form=PanelCall,
        idempotent=True,
        answer=PanelAnswer,
        admits=False,
        aliases=_ALIASES,
    ),
    Route(
        "GET",
        door.PATH,
        None,
        door.panel,
        id="panelByGet",
        tag=TAG,
        summary="The same by query",
        description="With the same parameters in the query. Actions that change something come by GET only for keys "
        "with `panel_get`; under one Idempotency-Key a GET and a POST are the same call.",
        idempotent=True,
        answer=PanelAnswer,
        admits=False,
        aliases=_ALIASES,
        # A key with `panel_get` buys by GET.
        heads=False,
    ),
)
