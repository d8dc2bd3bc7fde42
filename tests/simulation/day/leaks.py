"""Leaks as somebody could make them: each is planted alone into the program's functions, and a day must show it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import REGISTRY, Counter

from aggregator.flow.delivery import Delivery
from aggregator.flow.intake import Intake
from aggregator.flow.polling import Polling
from aggregator.providers.gateway import Gateway
from tests.simulation.planted.bug import swap


@dataclass(frozen=True, slots=True)
class Leak:
    """`plant` patches it in until the stack is closed; `shows` is a pattern for what the day says then."""

    name: str
    plant: Callable[[ExitStack], None]
    shows: str


def list_that_keeps_every_request(stack: ExitStack) -> None:
    real = Intake.__init__
    take = Intake.take

    def begin(self: Any, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **options)
        self._requests = []

    async def keeping(self: Any, wishes: Any, *more: Any, **options: Any) -> Any:
        self._requests.append(wishes)
        return await take(self, wishes, *more, **options)

    swap(stack, Intake, "__init__", begin)
    swap(stack, Intake, "take", keeping)


def list_that_nobody_of_ours_holds(stack: ExitStack) -> None:
    """In a library's object, where no walk over our own finds it."""
    real = Gateway._count
    far_away: Any = type("Library", (), {})()
    far_away.kept = []

    def count(self: Gateway, request: Any, *arguments: Any) -> None:
        real(self, request, *arguments)
        far_away.kept.append(str(request.url) * 2)

    swap(stack, Gateway, "_count", count)


def task_that_nobody_awaits(stack: ExitStack) -> None:
    real = Polling.run_once

    async def run_once(self: Polling) -> int:
        begun = await real(self)
        if begun:
            never = vars(self).setdefault("_never", asyncio.Event())
            asyncio.get_running_loop().create_task(never.wait())  # type: ignore[unused-awaitable]
        return begun

    swap(stack, Polling, "run_once", run_once)


def socket_that_is_not_closed(stack: ExitStack) -> None:
    real = Delivery._send

    async def send(self: Delivery, *arguments: Any) -> Any:
        left_open = socket.socket().detach()
        stack.callback(os.close, left_open)
        return await real(self, *arguments)

    swap(stack, Delivery, "_send", send)


def error_that_is_kept(stack: ExitStack) -> None:
    """With its traceback, and so with all that was on its way."""
    real = Gateway._heed

    def heed(self: Gateway, outcome: Any, result: Any) -> None:
        real(self, outcome, result)
        kept = ValueError(result)
        kept.__context__ = getattr(self, "_last_error", None)
        self._last_error = kept  # type: ignore[attr-defined]

    swap(stack, Gateway, "_heed", heed)


def label_without_end(stack: ExitStack) -> None:
    real = Gateway._count
    counter = Counter("aggregator_planted_total", "Calls by when they began.", ["moment"], registry=None)
    REGISTRY.register(counter)
    stack.callback(REGISTRY.unregister, counter)

    def count(self: Gateway, request: Any, result: str, began: float) -> None:
        real(self, request, result, began)
        counter.labels(str(began)).inc()

    swap(stack, Gateway, "_count", count)


def stage_that_wakes_itself(stack: ExitStack) -> None:
    real = Polling.run_once

    async def run_once(self: Polling) -> int:
        begun = await real(self)
        self._house.wakeups.wake(self.name)
        return begun

    swap(stack, Polling, "run_once", run_once)


LEAKS: Final = (
    Leak("list_that_keeps_every_request", list_that_keeps_every_request, r"grew: held .*_requests"),
    Leak("list_that_nobody_of_ours_holds", list_that_nobody_of_ours_holds, r"grew: a list from .*kept"),
    Leak("task_that_nobody_awaits", task_that_nobody_awaits, r"grew: tasks Event\.wait"),
    Leak("socket_that_is_not_closed", socket_that_is_not_closed, r"grew: open files"),
    Leak("error_that_is_kept", error_that_is_kept, r"grew: objects builtins\.ValueError"),
    Leak("label_without_end", label_without_end, r"grew: series aggregator_planted"),
    Leak("stage_that_wakes_itself", stage_that_wakes_itself, r"hot: "),
)
