"""`POST /v1/reload`: the daemon goes by its config file as it is now, or says why it does not."""

from __future__ import annotations

from aiohttp import web

from aggregator.config import ConfigError
from aggregator.domain.errors import ProblemKind
from aggregator.flow.base import House
from aggregator.storage.database import Connection
from aggregator.web.auth import Caller
from aggregator.web.bodies import read_body
from aggregator.web.models import MAX_ERRORS, EmptyRequest, read_optional
from aggregator.web.once import once
from aggregator.web.problems import FieldProblems
from aggregator.web.rendering import Answer, dumps
from aggregator.web.services import Reloaded, services_of


async def reload(request: web.Request, caller: Caller) -> web.Response:
    """200 with what differs; 409 with all that is wrong with the file, and nothing was changed."""
    services = services_of(request)
    body = await read_body(request)

    async def work(recording: House) -> None:
        read_optional(EmptyRequest, body)
        try:
            reloaded = await services.reload()
        except ConfigError as exc:
            problems = [(one.path, one.message) for one in exc.problems[:MAX_ERRORS]]
            raise FieldProblems(problems, ProblemKind.CONFLICT) from exc
        await recording.database.write(lambda _: reloaded)

    return await once(request, services.house, caller.name, body, work, _answer)


def _answer(_connection: Connection, reloaded: Reloaded) -> Answer:
    changes = [{"path": one.path, "how": one.how} for one in reloaded.changes]
    return Answer(200, dumps({"changes": changes, "warnings": list(reloaded.warnings)}))
