"""What every stage is given and how it works many rows at once; no rule of any stage is here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from aggregator.config import Settings
from aggregator.domain.children import Rates
from aggregator.domain.clock import Clock
from aggregator.domain.errors import ClaimLost, StorageUnavailable
from aggregator.flow.endpoints import Endpoints
from aggregator.flow.health import Health
from aggregator.log import get_logger
from aggregator.providers.gateway import Gateway
from aggregator.storage.database import Database
from aggregator.storage.deliverables import Sealer

log = get_logger()

STORAGE_RETRY_S: Final = 0.5
"""How long a stage that must record something waits before it tries a database again that could not be written."""


class Stage(Protocol):
    """One verb of the flow."""

    name: str

    async def run_once(self) -> int:
        """Begin what is due, as far as there is room; how many rows that was. Work may go on after it returns."""
        ...

    async def idle(self) -> None:
        """Wait until everything begun has ended."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Begin nothing more; let what must not be cut end within `grace_s`, cut the rest."""
        ...


@dataclass(slots=True)
class Wakeups:
    """Who looks sooner when something was committed; correctness never depends on it."""

    _listeners: dict[str, Callable[[], None]] = field(default_factory=dict)

    def on(self, name: str, listener: Callable[[], None]) -> None:
        self._listeners[name] = listener

    def wake(self, *names: str) -> None:
        for name in names:
            listener = self._listeners.get(name)
            if listener is not None:
                listener()


CROWD: Final = 8
"""Orders that callers wait for at one moment."""
CROWD_LASTS_S: Final = 0.25
TURN_S: Final = 0.05
"""How far apart turns are that others get meanwhile."""


class Callers:
    """How many orders callers wait for at the doors. While that is a crowd, what can wait makes room: their orders
    are not durable yet, those behind the door are."""

    def __init__(self) -> None:
        self._waiting = 0
        self._crowded_until = float("-inf")
        self._turns = asyncio.Lock()

    def wait(self, orders: int) -> _Wait:
        """So many orders are being stored inside."""
        return _Wait(self, orders)

    def come(self, orders: int) -> None:
        self._waiting += orders
        if self._waiting >= CROWD:
            self._crowded_until = asyncio.get_running_loop().time() + CROWD_LASTS_S

    def go(self, orders: int) -> None:
        self._waiting -= orders

    @property
    def crowded(self) -> bool:
        """Whether it is a crowd, or was a moment ago: between two commits there may be nobody."""
        return asyncio.get_running_loop().time() < self._crowded_until

    async def make_room(self) -> None:
        """Wait for a turn while it is a crowd: twenty a second for all that can wait, so that it goes on, slowly."""
        if self.crowded:
            async with self._turns:
                if self.crowded:
                    await asyncio.sleep(TURN_S)


class _Wait:
    __slots__ = ("_callers", "_orders")

    def __init__(self, callers: Callers, orders: int) -> None:
        self._callers = callers
        self._orders = orders

    def __enter__(self) -> None:
        self._callers.come(self._orders)

    def __exit__(self, *_: object) -> None:
        self._callers.go(self._orders)


@dataclass(slots=True)
class House:
    """Everything a stage may use.

    `settings` and `gateways` are those of the newest config (`adopt`): whoever keeps what they said over a wait may
    find a provider or a service gone after it.
    """

    settings: Settings
    database: Database
    gateways: Mapping[str, Gateway]
    health: Health
    clock: Clock
    sealer: Sealer
    wakeups: Wakeups = field(default_factory=Wakeups)
    callers: Callers = field(default_factory=Callers)
    endpoints: Endpoints = field(default_factory=Endpoints)

    def __post_init__(self) -> None:
        self.endpoints.configure(self.settings)

    @property
    def rates(self) -> Rates:
        """What amounts of other currencies are worth, by the config as it is now."""
        return Rates(self.settings.currency, self.settings.exchange_rates)

    def adopt(self, settings: Settings, gateways: Mapping[str, Gateway]) -> None:
        """Go by another config from now on. Calls under way end at the gateways at which they began."""
        self.settings, self.gateways = settings, gateways
        self.endpoints.configure(settings)


class Workers:
    """A bounded set of tasks of one stage. A task that fails is logged, and its rows come due again by themselves."""

    def __init__(self, name: str, limit: int, *, done: Callable[[], None] | None = None) -> None:
        self._name = name
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()
        self._done = done
        self._stopping = False

    @property
    def free(self) -> int:
        return 0 if self._stopping else max(0, self._limit - len(self._tasks))

    @property
    def stopping(self) -> bool:
        return self._stopping

    def resize(self, limit: int) -> None:
        """Have so many at once from now on; none that is at work ends for that."""
        self._limit = limit

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work), name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        # A task that was cancelled before its first step has not touched its work.
        task.add_done_callback(lambda _: work.close())

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._done is not None and not self._stopping:
            self._done()

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except ClaimLost as exc:
            log.info("claim_lost", stage=self._name, row=str(exc))
        except StorageUnavailable as exc:
            log.warning("storage_unavailable", stage=self._name, reason=str(exc))
            # The end of this task wakes its stage: without a pause a full disk would be tried without end.
            await asyncio.sleep(STORAGE_RETRY_S)
        except Exception:
            log.exception("stage_failed", stage=self._name)

    async def idle(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def stop(self, grace_s: float) -> None:
        """Start nothing more; after `grace_s` cancel what still runs."""
        self._stopping = True
        if self._tasks and grace_s > 0:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)


class Crews:
    """The workers of one stage, a set for each provider of the config as it is now.

    `size`: how many a provider may have at once; 0 where the stage has nothing to do. Those of a provider that left the
    config end what they have begun.
    """

    def __init__(
        self, house: House, stage: str, size: Callable[[Gateway], int], *, done: Callable[[], None] | None = None
    ) -> None:
        self._house = house
        self._stage = stage
        self._size = size
        self._done = done
        self._workers: dict[str, Workers] = {}
        self._stopping = False

    def at(self, provider: str) -> tuple[Gateway, Workers] | None:
        """A provider and who works there; None where nobody does."""
        gateway = self._house.gateways.get(provider)
        size = self._size(gateway) if gateway is not None else 0
        if gateway is None or not size or self._stopping:
            return None
        workers = self._workers.get(provider)
        if workers is None:
            workers = self._workers[provider] = Workers(f"{self._stage}:{provider}", size, done=self._done)
        workers.resize(size)
        return gateway, workers

    def __iter__(self) -> Iterator[tuple[Gateway, Workers]]:
        for provider in list(self._house.gateways):
            if (crew := self.at(provider)) is not None:
                yield crew

    async def idle(self) -> None:
        await asyncio.gather(*(workers.idle() for workers in self._workers.values()))

    async def stop(self, grace_s: float) -> None:
        """Start nothing more; after `grace_s` cancel what still runs."""
        self._stopping = True
        await asyncio.gather(*(workers.stop(grace_s) for workers in self._workers.values()))
