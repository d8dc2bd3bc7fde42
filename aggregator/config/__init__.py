"""Every setting of the daemon: typed, frozen, checked as a whole before anything starts.

`load` reads the one YAML file (contract.md §1) and lists all of its problems at once. Nothing here opens a database or
a socket, and no text made here carries a secret.
"""

from aggregator.config.callers import (
    CallbackSettings,
    HttpSettings,
    KeySettings,
    KeyValue,
    Panel,
    Scope,
    SigningSecret,
    WebhookSettings,
)
from aggregator.config.load import SYSTEM_CONFIG, find_config_path, load, read_text
from aggregator.config.models import (
    DIALECT_KINDS,
    DIALECTS,
    CodeInterval,
    CountSource,
    ErrorMeaning,
    Interval,
    OfferSettings,
    ProviderSettings,
    RatePer,
    RefillSettings,
    RetentionSettings,
    ServiceSettings,
    Settings,
    StatusInterval,
    StatusMeaning,
    Strategy,
    Words,
)
from aggregator.config.places import Address, DatabaseUrl, SealingKey, TcpAddress, UnixAddress, parse_address
from aggregator.config.problems import ConfigError, Problem
from aggregator.config.secret import Secret, Sources
from aggregator.config.values import MIN_CALLER_KEY, signing_bytes

__all__ = [
    "DIALECTS",
    "DIALECT_KINDS",
    "MIN_CALLER_KEY",
    "SYSTEM_CONFIG",
    "Address",
    "CallbackSettings",
    "CodeInterval",
    "ConfigError",
    "CountSource",
    "DatabaseUrl",
    "ErrorMeaning",
    "HttpSettings",
    "Interval",
    "KeySettings",
    "KeyValue",
    "OfferSettings",
    "Panel",
    "Problem",
    "ProviderSettings",
    "RatePer",
    "RefillSettings",
    "RetentionSettings",
    "Scope",
    "SealingKey",
    "Secret",
    "ServiceSettings",
    "Settings",
    "SigningSecret",
    "Sources",
    "StatusInterval",
    "StatusMeaning",
    "Strategy",
    "TcpAddress",
    "UnixAddress",
    "WebhookSettings",
    "Words",
    "find_config_path",
    "load",
    "parse_address",
    "read_text",
    "signing_bytes",
]
