"""Every setting, typed and frozen, with its default and bounds (contract.md §1).

Decides what one setting may be on its own; what settings mean together is in `crosscheck`. config.example.yaml is the
twin of this file and says for each setting when to change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, field_validator
from pydantic import ValidationInfo as Info

from aggregator.config.callers import CallbackSettings, HttpSettings, KeySettings, WebhookSettings
from aggregator.config.places import (
    Address,
    DatabaseUrl,
    SealingKey,
    UnixAddress,
    count_url,
    read_sealing_key,
)
from aggregator.config.problems import refuse
from aggregator.config.secret import Secret
from aggregator.config.values import (
    MAX_ID,
    Amount,
    CurrencyCode,
    Days,
    DaysOrForEver,
    ExchangeRate,
    Hours,
    HoursOrNone,
    Identifier,
    JsonPointer,
    Model,
    Name,
    RatePerSecond,
    RequestSeconds,
    Seconds,
    Several,
    Table,
    Text,
    Url,
)
from aggregator.domain.catalogue import Kind

DIALECTS: Final = ("panel_v2", "hstockplus")
"""The dialects that exist; the providers package holds one file for each."""
DIALECT_KINDS: Final[Mapping[str, frozenset[Kind]]] = {
    "panel_v2": frozenset({"smm"}),
    "hstockplus": frozenset({"smm", "product", "sms"}),
}
"""Which kinds of services a dialect can buy."""

Strategy = Literal["cheapest", "best_value"]
ErrorMeaning = Literal["next_offer", "later", "callers_fault", "provider_down", "unclear"]
StatusMeaning = Literal["pending", "processing", "in_progress", "completed", "partial", "canceled", "failed"]


class Interval(Model):
    """The bounds of an adaptive interval, in seconds."""

    min: Seconds
    max: Seconds

    @field_validator("max")
    @classmethod
    def _ordered(cls, value: float, info: Info) -> float:
        if value < info.data.get("min", 0):
            raise refuse(f"must be at least min ({info.data['min']:g}), got {value:g}")
        return value


class StatusInterval(Interval):
    """Bounds of an order's polling; what the file leaves out keeps its default."""

    min: Seconds = 15
    max: Seconds = 3600


class CodeInterval(Interval):
    """Bounds of an SMS number's polling; what the file leaves out keeps its default."""

    min: Seconds = 3
    max: Seconds = 15


class RatePer(Model):
    """How many pieces a catalogue's price buys, until real charges have taught better."""

    smm: int = Field(default=1000, ge=1, le=1_000_000)
    product: int = Field(default=1, ge=1, le=1_000_000)


class Words(Model):
    """The operator's own readings of a provider's texts; they win over the dialect's."""

    errors: Table[Text, ErrorMeaning] = Field(default_factory=dict)
    status: Table[Text, StatusMeaning] = Field(default_factory=dict)


class ProviderSettings(Model):
    """One of `providers`: an upstream account."""

    dialect: Literal["panel_v2", "hstockplus"]
    url: Url
    api_key: Secret
    enabled: bool = True
    currency: CurrencyCode = "USD"
    timeout_s: RequestSeconds = 30
    max_concurrency: int = Field(default=4, ge=1, le=1000)
    requests_per_second: RatePerSecond = 5
    batch_size: int = Field(default=100, ge=1, le=100)
    status_batch: Literal["auto", "orders", "order", "single"] = "auto"
    """How many ids go in one status call: found out, or as said here."""
    status_every_s: StatusInterval = StatusInterval()
    code_every_s: CodeInterval = CodeInterval()
    catalogue_every_s: Seconds = 900
    balance_every_s: Seconds = 300
    settle_s: Seconds = 900
    """How long after an unclear purchase the provider may still bring it to light; reconciliation waits for it."""
    min_balance: Amount = Decimal(0)
    rate_per: RatePer = RatePer()
    default_link: Text | None = None
    words: Words = Words()
    exclusive_account: bool = False
    idempotent_add: bool = False
    recover_ids: bool = False

    @field_validator("settle_s")
    @classmethod
    def _settles_after_timeouts(cls, value: float, info: Info) -> float:
        least = 3 * info.data.get("timeout_s", 0)
        if value < least:
            raise refuse(f"must be at least three times timeout_s ({least:g}), got {value:g}")
        return value


class OfferSettings(Model):
    """One provider's way to fulfil a service: `service` for smm and product, `project` (and `country`) for sms."""

    provider: str
    service: Identifier | None = None
    project: Identifier | None = None
    country: Identifier | None = None

    @property
    def target(self) -> str:
        """What is asked for at the provider: its service's or its project's id."""
        return self.service or self.project or ""


class RefillSettings(Model):
    """When a drop is refilled, and how often at most; `required`: nothing is bought that cannot be refilled."""

    auto: bool = True
    required: bool = False
    drop_percent: float = Field(default=5, gt=0, le=100)
    window_days: Days = 30
    cooldown_h: Hours = 24
    min_age_h: HoursOrNone = 24
    check_every_h: Hours = 24
    max_refills: int = Field(default=5, ge=1, le=1000)


class CountSource(Model):
    """Where the present count of a link can be asked: an address with `{link}`, and where in its JSON it stands."""

    url: Annotated[str, AfterValidator(count_url)]
    pointer: JsonPointer


class ServiceSettings(Model):
    """One of `services`: what callers order."""

    kind: Kind
    offers: Annotated[Several[OfferSettings], Field(min_length=1)]
    title: Text | None = None
    category: Text | None = None
    panel_id: Annotated[int, Field(ge=1, le=MAX_ID)] | None = None
    refill: RefillSettings = RefillSettings()
    give_up_after_s: Seconds = 86400
    strategy: Strategy = "cheapest"
    reroute_remainder: bool = False
    count_source: CountSource | None = None


class RetentionSettings(Model):
    """How many days finished things are kept; 0: for ever."""

    orders_days: DaysOrForEver = 365
    exchanges_days: DaysOrForEver = 30
    deliveries_days: DaysOrForEver = 90


class Settings(Model):
    """The whole file."""

    database: DatabaseUrl = Field(default="sqlite:///aggregator.db", validate_default=True)
    http: HttpSettings = HttpSettings()
    keys: Several[KeySettings] = ()
    sealing_key: Annotated[SealingKey, PlainValidator(read_sealing_key), PlainSerializer(str)] = Field(
        default=None, validate_default=True
    )
    currency: CurrencyCode = "USD"
    exchange_rates: Table[CurrencyCode, ExchangeRate] = Field(default_factory=dict)
    providers: Table[Name, ProviderSettings] = Field(default_factory=dict)
    services: Table[Name, ServiceSettings] = Field(default_factory=dict)
    webhooks: Several[WebhookSettings] = ()
    callbacks: CallbackSettings = CallbackSettings()
    retention: RetentionSettings = RetentionSettings()

    @cached_property
    def at_panel(self) -> Mapping[int, str]:
        """What is sold at the panel door: the names of services by their `panel_id`."""
        return {one.panel_id: name for name, one in self.services.items() if one.panel_id is not None}

    @property
    def local_admin(self) -> bool:
        """Without keys a unix socket acts as the admin `local`, and no TCP port is opened."""
        return not self.keys

    @property
    def listen(self) -> tuple[Address, ...]:
        """What to open of `http.listen`: without keys unix sockets only."""
        return tuple(a for a in self.http.listen if self.keys or isinstance(a, UnixAddress))

    def secrets(self) -> Iterator[str]:
        """Every secret value that the file names, for redaction. A sealing key in a file is storage's to add."""
        yield from self.database.passwords
        yield from _secrets(self)

    # A traceback or a log of the settings as a whole helps nobody.
    def __repr__(self) -> str:
        return f"<Settings: {len(self.providers)} providers, {len(self.services)} services>"


def _secrets(value: object) -> Iterator[str]:
    if isinstance(value, Secret):
        text = value.reveal()
        yield text
        if "\n" in text:  # several sealing keys
            yield from text.splitlines()
        if text.startswith("whsec_"):
            yield text.removeprefix("whsec_")
    elif isinstance(value, SealingKey):
        yield from _secrets(value.value)
    elif isinstance(value, Model):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _secrets(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from _secrets(item)
