"""The endpoints of a house, of whatever origin, as the stages see them: what each wants, and how it is sent to.

The operator's are those of the config and those made by API, which live in the database and are remembered here; a name
of the config wins. Callers' callbacks are endpoints as well, one for each caller and host. Nothing here sends anything.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_network
from typing import Any, Final

from aggregator.config import KeySettings, Settings, SigningSecret, WebhookSettings
from aggregator.domain.callbacks import Network, endpoint_name, parse
from aggregator.domain.clock import rfc3339
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.webhooks import Patience
from aggregator.storage.database import RowMapping
from aggregator.storage.deliverables import Sealer

AT_ONCE: Final = 16
"""Deliveries in flight per endpoint of the operator's."""
URGENT_AT_ONCE: Final = 2
"""Places beside those, for codes alone: full of slow events, an endpoint still gets them at once."""
CALLBACKS_AT_ONCE: Final = 4
"""Deliveries in flight per caller and host."""
_ANYWHERE: Final = (ip_network("0.0.0.0/0"), ip_network("::/0"))
_PATIENT: Final = Patience(failures=AT_ONCE, longest_pause_s=15)
_WITH_CALLBACKS: Final = Patience(failures=3, longest_pause_s=300)
_STORED: Final = (
    "url", "events", "services", "description", "timeout_s", "retry_s", "order_hold_s", "disable_after_days",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """How an endpoint is sent to. `guarded`: its address was named by a caller, and is looked at before each try."""

    name: str
    hook: WebhookSettings | None
    signing: tuple[tuple[bytes, datetime | None], ...] = field(repr=False)
    """The keys that a try is signed with, each with the instant from which it counts no more."""
    timeout_s: float
    retry_s: tuple[float, ...]
    order_hold_s: float
    disable_after_s: float
    places: int
    urgent_places: int
    patience: Patience

    @property
    def guarded(self) -> bool:
        return self.hook is None

    def url(self, callback_url: str | None) -> str | None:
        return self.hook.url if self.hook is not None else callback_url

    def secrets_at(self, now: datetime) -> list[bytes]:
        """What a try is signed with; empty: a caller's key has no secret any more."""
        return [key for key, until in self.signing if until is None or now < until]


def _signing(secrets: Iterable[SigningSecret]) -> tuple[tuple[bytes, datetime | None], ...]:
    return tuple((secret.signing_bytes, secret.until) for secret in secrets)


class Endpoints:
    """Who is told of events. Kept by the house: the stages and the doors see the same ones."""

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._configured: dict[str, WebhookSettings] = {}
        self._made: dict[str, WebhookSettings] = {}
        self._hooks: dict[str, WebhookSettings] = {}
        self._keys: dict[str, KeySettings] = {}
        self._allow: Sequence[Network] = ()
        self._targets: dict[str, Target] = {}
        self._off: set[str] = set()
        """Those that somebody has switched off in this run; the database knows of the others."""
        self.telling = asyncio.Lock()
        """Held by whoever reads what was committed and takes it over: the last one has read the newest."""

    def configure(self, settings: Settings) -> None:
        """Take the config's endpoints, and the callers who may have callbacks."""
        if settings is self._settings:
            return
        self._settings = settings
        self._configured = {hook.name: hook for hook in settings.webhooks}
        self._keys = {key.name: key for key in settings.keys if key.callback_secret}
        self._allow = settings.callbacks.allow
        self._changed()

    def load(self, rows: Iterable[RowMapping], sealer: Sealer) -> None:
        """Take the endpoints made by API; SealingError when their secrets cannot be opened."""
        self._made = {row["name"]: from_row(row, sealer) for row in rows}
        self._changed()

    def put(self, hook: WebhookSettings) -> None:
        """One was made or changed by API."""
        self._made[hook.name] = hook
        self._changed()

    def drop(self, name: str) -> None:
        self._made.pop(name, None)
        self._changed()

    def switch(self, name: str, on: bool) -> None:
        """Nothing more is sent there, or again."""
        (self._off.discard if on else self._off.add)(name)

    def _changed(self) -> None:
        self._hooks = {**self._made, **self._configured}
        self._targets = {}

    @property
    def hooks(self) -> Mapping[str, WebhookSettings]:
        """The operator's endpoints by name, also those that are switched off."""
        return self._hooks

    @property
    def configured(self) -> Mapping[str, WebhookSettings]:
        """Those of the config."""
        return self._configured

    @property
    def callers(self) -> Iterable[str]:
        """Who may have callbacks."""
        return self._keys

    def check_callback(self, owner: str, url: str) -> None:
        """Whether a caller's order may name this URL; Problem naming the field and the remedy when not."""
        if owner not in self._keys:
            detail = "cannot be signed: give this key a `callback_secret` in the config, or leave the field out"
            raise Problem(ProblemKind.INVALID_FIELD, detail, "callback_url")
        try:
            parse(url, self._allow)
        except ValueError as exc:
            raise Problem(ProblemKind.INVALID_FIELD, str(exc), "callback_url") from None

    def callback(self, owner: str | None, url: str | None) -> str | None:
        """The endpoint that hears of an order with this callback URL; None: nobody does, or nothing could be signed."""
        if owner is None or url is None or owner not in self._keys:
            return None
        try:
            # Judged when it was taken; whether its address may be reached is judged at each try.
            return endpoint_name(owner, parse(url, _ANYWHERE))
        except ValueError:
            return None

    def target(self, name: str) -> Target | None:
        """How to send to an endpoint; None when it is not there any more, or was switched off."""
        if name in self._off:
            return None
        known = self._targets.get(name)
        if known is not None:
            return known
        hook, key = self._hooks.get(name), self._keys.get(name.partition("@")[0] if "@" in name else "")
        if hook is not None:
            known = Target(
                name=name,
                hook=hook,
                signing=_signing(hook.secret),
                timeout_s=float(hook.timeout_s),
                retry_s=tuple(map(float, hook.retry_s)),
                order_hold_s=float(hook.order_hold_s),
                disable_after_s=float(hook.disable_after_days) * 86_400,
                places=AT_ONCE,
                urgent_places=URGENT_AT_ONCE,
                patience=_PATIENT,
            )
            self._targets[name] = known  # of callbacks there may be thousands, and they are soon made
        elif key is not None:
            usual = WebhookSettings.model_fields
            known = Target(
                name=name,
                hook=None,
                signing=_signing(key.callback_secret or ()),
                timeout_s=float(usual["timeout_s"].default),
                retry_s=tuple(map(float, usual["retry_s"].default)),
                order_hold_s=float(usual["order_hold_s"].default),
                disable_after_s=0,
                places=CALLBACKS_AT_ONCE,
                urgent_places=0,
                patience=_WITH_CALLBACKS,
            )
        return known


def stored(hook: WebhookSettings) -> dict[str, Any]:
    """An endpoint's settings as they are kept, without name and secrets."""
    return {name: list(value) if isinstance(value := getattr(hook, name), tuple) else value for name in _STORED}


def sealed(secrets: Iterable[SigningSecret], sealer: Sealer) -> bytes:
    """Its secrets as they are kept."""
    entries = [
        {"value": one.value.reveal(), "until": rfc3339(one.until) if one.until is not None else None} for one in secrets
    ]
    return sealer.seal(json.dumps(entries))


def from_row(row: RowMapping, sealer: Sealer) -> WebhookSettings:
    """An endpoint made by API, as if it stood in the config; SealingError when its secrets cannot be opened."""
    secrets = json.loads(sealer.open(row["secrets"]))
    # A setting that a later version knows no more must not keep the daemon from starting.
    known = {name: value for name, value in row["settings"].items() if name in _STORED}
    return WebhookSettings.model_validate({"name": row["name"], "secret": secrets, **known})
