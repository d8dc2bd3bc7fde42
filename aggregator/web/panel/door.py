"""`/api/v2`: one address for every action; whatever goes wrong is `{"error": "…"}` with status 200.

Decides who calls, which action it is, and whether it may come by GET. A query string may hold a key: it is never
logged, and neither is a body.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web

from aggregator.config.callers import Panel
from aggregator.domain.errors import Problem, StorageUnavailable
from aggregator.log import get_logger
from aggregator.web import health
from aggregator.web.auth import ANYBODY, GATE
from aggregator.web.panel import numbers, ordering, selling
from aggregator.web.panel.calls import Call
from aggregator.web.panel.fields import read_fields
from aggregator.web.panel.shapes import SHAPES
from aggregator.web.panel.words import Refused, Word, refusal
from aggregator.web.rendering import ACTION, CALLER, Answer, dumps, response

log = get_logger()

PATH: Final = "/api/v2"
BUSY_RETRY_S: Final = 2

Action = Callable[[Call], Awaitable[object]]

READS: Final[Mapping[str, Action]] = {
    "services": selling.services,
    "categories": selling.categories,
    "inventory": selling.inventory,
    "balance": selling.balance,
    "status": ordering.status,
    "refill_status": ordering.refill_status,
    "sms_projects": selling.sms_projects,
    "sms_countries": selling.sms_countries,
    "sms_code": numbers.sms_code,
    "sms_status": numbers.sms_status,
}
WRITES: Final[Mapping[str, Action]] = {
    "add": ordering.add,
    "refill": ordering.refill,
    "cancel": ordering.cancel,
    "add_sms": numbers.add_sms,
}
"""By POST only, unless the key has `panel_get`: a GET may be repeated by whatever stands in between."""


async def panel(request: web.Request) -> web.StreamResponse:
    """Every action of both documents, in the shapes of the one that the key's `panel` names."""
    document: Panel = "smm_plus"
    try:
        fields = await read_fields(request)
        caller = request.app[GATE].admit_key(request, fields.get("key", "").strip(), ANYBODY)
        document = caller.panel
        name = fields.get("action", "").strip()
        request[CALLER] = caller.name
        action = READS.get(name) or WRITES.get(name)
        if action is None:
            raise Refused(Word.ACTION)
        request[ACTION] = name
        if name in WRITES and request.method != "POST" and not caller.panel_get:
            raise Refused(Word.METHOD)
        answer = await action(Call(request, caller, SHAPES[document], name, fields))
    except Exception as exc:
        refused = _refused(request, exc)
        headers = {"Retry-After": str(refused.retry_after_s)} if refused.retry_after_s is not None else {}
        return response(Answer(200, dumps({"error": refused.sentence(document)}), headers))
    return answer if isinstance(answer, web.StreamResponse) else response(Answer(200, dumps(answer)))


def _refused(request: web.Request, exc: Exception) -> Refused:
    """What is said of an exception. What nobody foresaw is said as what nobody may conclude anything from."""
    match exc:
        case Refused():
            return exc
        case Problem():
            found = refusal(exc)
            # Never the detail: it may quote what was sent, a key in the wrong place too.
            log.info("panel_refused", kind=str(exc.kind), field=exc.field, word=found.word.name)
            return found
        case StorageUnavailable():
            log.warning("storage_unavailable", reason=str(exc))
            request.app[health.READINESS].failed()
            return Refused(Word.BUSY, retry_after_s=BUSY_RETRY_S)
        case web.HTTPException():
            return Refused(Word.TOO_LARGE if exc.status == 413 else Word.ACTION)
    log.exception("request_failed")
    return Refused(Word.BUSY, retry_after_s=BUSY_RETRY_S)
