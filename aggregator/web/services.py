"""What the daemon hands to the doors, and where a handler finds it.

Nothing here decides anything; the daemon builds a WebServices, `server.create_app` puts it into the application.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from aggregator.config.changes import Change
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.flow.base import House
from aggregator.flow.intake import Intake

LOOP_LIMIT_S: Final = 30.0
"""A loop that has not come round for so long is stuck."""


def usual_loop_limit_s(_name: str) -> float:
    return LOOP_LIMIT_S


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Another config was taken over: what differs, and what of it may not be meant."""

    changes: tuple[Change, ...]
    warnings: tuple[str, ...]


async def _no_file() -> Reloaded:
    raise Problem(ProblemKind.CONFLICT, "this daemon was not started from a config file")


@dataclass(frozen=True, slots=True)
class WebServices:
    """Everything the doors may use."""

    house: House
    intake: Intake
    loops: Callable[[], Mapping[str, float]]
    """Stage name to seconds since it last came round."""
    draining: Callable[[], bool]
    sync: Callable[[str], Awaitable[str | None]]
    """Fetch a provider's catalogue now; why it was not taken over, or None."""
    version: str
    reload: Callable[[], Awaitable[Reloaded]] = _no_file
    """Read the config again. ConfigError and StorageUnavailable: nothing was changed."""
    loop_limit_s: Callable[[str], float] = usual_loop_limit_s
    """How old a loop of this name may get before `/livez` fails."""
    redact: Callable[[str], None] = lambda _: None
    """A secret that was just made: no log line may show it."""


SERVICES: Final = web.AppKey("services", WebServices)


def services_of(request: web.Request) -> WebServices:
    return request.app[SERVICES]
