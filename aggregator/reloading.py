"""The config is read again while the daemon runs: all of it is taken over at one moment, or nothing.

Decides in which order its parts change. A file that cannot be used, or that changes what is opened at the start alone,
changes nothing and is refused with the reason. What is under way ends where it began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from prometheus_client import Gauge

from aggregator.config import ConfigError, KeySettings, ProviderSettings, Settings
from aggregator.config.changes import changes, needs_restart
from aggregator.domain.errors import StorageUnavailable
from aggregator.flow import ends
from aggregator.flow.base import House
from aggregator.flow.delivery import Delivery
from aggregator.flow.intake import Intake
from aggregator.flow.routing import Routing
from aggregator.log import Redactor, get_logger
from aggregator.outbound import Outbound
from aggregator.providers.gateway import Gateway, build_gateways
from aggregator.storage import attempts, catalogue, reports
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection
from aggregator.web.services import Reloaded

log = get_logger()

LAST_RELOAD: Final = Gauge(
    "aggregator_config_last_reload_successful", "Whether the config was taken over when it was last read: 1, else 0."
)
IN_USE_SINCE: Final = Gauge(
    "aggregator_config_last_reload_success_timestamp_seconds", "When the config in use was read."
)
_NAMED: Final = 20
"""How many paths a log line names."""


@dataclass(slots=True)
class Reloading:
    """What has to hear of another config. `read` reads the file; ConfigError says all that is wrong with it."""

    read: Callable[[], Settings]
    house: House
    outbound: Outbound
    redactor: Redactor
    routing: Routing
    intake: Intake
    delivery: Delivery
    let_in: Callable[[Sequence[KeySettings]], None]
    """Tells the doors who may call."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._note(good=True)

    async def reload(self) -> Reloaded:
        """Take the file over as it is now. ConfigError and StorageUnavailable: nothing was changed."""
        async with self._turn:
            try:
                reloaded = await self._reload()
            except (ConfigError, StorageUnavailable) as exc:
                self._note(good=False)
                log.error("config_refused", problems=str(exc).splitlines(), reason="the config in use stays as it was")
                raise
            self._note(good=True)
            paths = [f"{one.path} ({one.how})" for one in reloaded.changes]
            log.info("config_reloaded", changes=len(paths), paths=paths[:_NAMED], warnings=list(reloaded.warnings))
            return reloaded

    def _note(self, *, good: bool) -> None:
        LAST_RELOAD.set(int(good))
        if good:
            IN_USE_SINCE.set(self.house.clock.now().timestamp())

    async def _reload(self) -> Reloaded:
        house = self.house
        before, after = house.settings, await asyncio.to_thread(self.read)
        found = changes(before, after)
        if fixed := needs_restart(before, after):
            raise ConfigError(fixed)
        if not found:
            return Reloaded((), ())
        for secret in after.secrets():
            self.redactor.add(secret)
        renewed = [name for name, one in after.providers.items() if before.providers.get(name) != one]
        await house.database.write(partial(catalogue.ensure_providers, names=renewed, now=house.clock.now()))
        await house.health.add(renewed)
        warnings = _warnings(before, after, await house.database.read(reports.open_by_provider))
        gateways = self._gateways(after.providers, renewed)

        # From here to the end of this block nobody else has a turn: everybody sees the one config or the other.
        house.adopt(after, gateways)
        self.outbound.allow(after.callbacks.allow)
        self.let_in(after.keys)
        ends.expect(renewed)
        self.routing.expect(name for name in renewed if name not in before.providers)
        self.delivery.renew()

        await self._look_again()
        return Reloaded(found, warnings)

    def _gateways(self, providers: Mapping[str, ProviderSettings], renewed: Iterable[str]) -> dict[str, Gateway]:
        """Those of providers that stayed as they were stay; others know what their predecessors found out."""
        house, names = self.house, set(renewed)
        made = build_gateways(
            ((name, one) for name, one in providers.items() if name in names),
            self.outbound,
            self.redactor,
            house.clock,
        )
        for name, gateway in made.items():
            if name in house.gateways:
                gateway.succeed(house.gateways[name])
        return {name: made.get(name) or house.gateways[name] for name in providers}

    async def _look_again(self) -> None:
        """What was decided by the old config and not done yet is decided anew. Without it a plan is looked at when it
        is carried out, and an order that nobody took when its pause is over."""
        now = self.house.clock.now()

        def write(connection: Connection) -> None:
            attempts.take_back(connection, None, now)
            order_store.look_again(connection, now)

        try:
            await self.intake.refresh()
            await self.house.database.write(write)
        except StorageUnavailable as exc:
            log.warning("storage_unavailable", stage="reloading", reason=str(exc))
        self.house.wakeups.wake("routing", "placement", "polling", "catalogue_sync", "sms_watch", "refilling")


def _warnings(before: Settings, after: Settings, open_orders: Mapping[str, int]) -> tuple[str, ...]:
    """What was asked for and may not be what was meant."""
    said = []
    for name, count in sorted(open_orders.items()):
        old, new = before.providers.get(name), after.providers.get(name)
        if old is not None and new is None:
            said.append(
                f"providers.{name} is gone, and {count} unfinished orders there are followed no longer; "
                "put it back with `enabled: false` to buy nothing more and follow them to their end"
            )
        elif old is not None and new is not None and old.url != new.url:
            said.append(f"providers.{name}.url changed: {count} unfinished orders are asked for at the new address")
    return tuple(said)
