"""A question that was not answered, in words for the operator: what is wrong, and what to do about it.

Decides the words, and the stable word of the cause that metrics go by. Never quotes a URL: people put keys into them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from aggregator.providers.contract import Failure, FailureKind

_ADDRESS: Final = "is `{p}.url` the API's address? It usually ends in /api/v2"
_FAULT: Final = "if it lasts, ask the provider; nothing here mends it"

# (kind, what the failure's own text looks like, the stable cause, our words before and after that text).
# The first that fits counts; `{p}` is the provider's place in the config.
_TABLE: Final[tuple[tuple[FailureKind, str, str, str, str], ...]] = (
    (FailureKind.UNREADABLE, r"HTTP 2\d\d, html", "html", "answers HTML instead of JSON", _ADDRESS),
    (
        FailureKind.UNREADABLE,
        r"HTTP 2\d\d, empty",
        "empty",
        "answers nothing at all",
        _ADDRESS,
    ),
    (
        FailureKind.UNREADABLE,
        r"HTTP 2\d\d, ",
        "not_json",
        "answers what is no JSON, or only the beginning of it",
        _ADDRESS + ". If it worked before, the provider is broken",
    ),
    (
        FailureKind.UNREADABLE,
        r"HTTP 3\d\d, ",
        "redirect",
        "answers with a redirect, which is not followed because the key would go along",
        "set `{p}.url` to the address that it leads to (https://, with or without www.)",
    ),
    (FailureKind.UNREADABLE, r"HTTP 4(?:04|05|10), ", "no_such_page", "has no API at this address", _ADDRESS),
    (
        FailureKind.UNREADABLE,
        r"HTTP 403, ",
        "forbidden",
        "refuses this machine",
        "a protection page, or a list of allowed addresses? Ask the provider to let this machine in; " + _ADDRESS,
    ),
    (
        FailureKind.UNREADABLE,
        r"HTTP 4\d\d, ",
        "http_4xx",
        "refuses the question without a reason that can be read",
        _ADDRESS,
    ),
    (FailureKind.UNREADABLE, r"HTTP 5\d\d, ", "http_5xx", "has a fault of its own", _FAULT),
    (
        FailureKind.UNREADABLE,
        r"no .* in the answer",
        "unknown_shape",
        "answers JSON without what was asked for",
        "is `{p}.dialect` right? And " + _ADDRESS,
    ),
    (
        FailureKind.AUTH,
        "",
        "auth",
        "refuses the key",
        "is `{p}.api_key` the key of this account, and the account active?",
    ),
    (
        FailureKind.RATE_LIMIT,
        "",
        "rate_limit",
        "wants fewer calls",
        "lower `{p}.requests_per_second` or `{p}.max_concurrency` if it lasts",
    ),
    (
        FailureKind.NOT_SENT,
        "resolve",
        "no_such_host",
        "cannot be reached",
        "is the host in `{p}.url` spelled right, and does this machine's DNS work?",
    ),
    (
        FailureKind.NOT_SENT,
        "certificate",
        "tls",
        "cannot be trusted",
        "is the host in `{p}.url` right, and this machine's clock? Renew its CA certificates if they are old",
    ),
    (
        FailureKind.NOT_SENT,
        "SSL|TLS",
        "tls",
        "cannot be reached by TLS",
        "does `{p}.url` say https:// where the provider speaks http://, or name a wrong port?",
    ),
    (
        FailureKind.NOT_SENT,
        "URL|form",
        "bad_url",
        "cannot be asked",
        "is `{p}.url` a URL, and `{p}.api_key` plain text?",
    ),
    (
        FailureKind.NOT_SENT,
        "",
        "no_connection",
        "cannot be reached",
        "is `{p}.url` right, and may this machine connect to it (firewall, proxy)?",
    ),
    (
        FailureKind.LOST,
        "timeout",
        "timeout",
        "does not answer in time",
        "raise `{p}.timeout_s` if it is only slow; else ask the provider",
    ),
    (
        FailureKind.LOST,
        "too_large",
        "too_large",
        "answers more than can be read",
        _ADDRESS,
    ),
    (
        FailureKind.LOST,
        "not_http",
        "not_http",
        "answers what is no HTTP",
        "does `{p}.url` name the right port, and http:// or https:// as the provider speaks?",
    ),
    (FailureKind.LOST, "", "connection_lost", "breaks the connection off", _FAULT),
)


def advised(provider: str, failure: Failure) -> Failure:
    """The same failure, whose text says what is wrong and what to do; as it was where nothing can be advised."""
    for kind, like, cause, words, remedy in _TABLE:
        if kind is failure.kind and re.search(like, failure.text):
            said = f" ({failure.text})" if failure.text else ""
            place = f"providers.{provider}"
            return replace(failure, text=f"{words}{said}: {remedy.format(p=place)}", cause=cause)
    return replace(failure, cause=str(failure.kind))
