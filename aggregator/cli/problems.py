"""Problem documents (RFC 9457) in words: title, detail, the field at fault, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aggregator.cli.target import Target
from aggregator.cli.words import clean

_OPTIONS: Final = {
    "provider_order": "--placed",
    "Idempotency-Key": "--idempotency-key",
    **{
        name: "--" + name.replace("_", "-")
        for name in ("quantity", "link", "reference", "max_cost", "provider", "state", "since", "limit", "cursor")
    },
}


def problem_words(document: Mapping[str, Any], status: int, wait_s: float, target: Target) -> str:
    """What the daemon refused, for a person; several lines."""
    title = clean(document.get("title") or f"HTTP {status}")
    errors = document.get("errors")
    if isinstance(errors, list):
        details = [f"{clean(one.get('field', ''))}: {clean(one.get('detail', ''))}" for one in errors]
    else:
        details = [clean(document["detail"])] if document.get("detail") else []
    remedy = _remedy(document, status, wait_s, target)
    return "\n  ".join([title, *details, *([f"what to do: {remedy}"] if remedy else [])])


def _remedy(document: Mapping[str, Any], status: int, wait_s: float, target: Target) -> str | None:
    kind = str(document.get("type", "")).rpartition(":")[2]
    field = clean(document.get("field") or "")
    if kind == "unauthenticated":
        if target.key_from is None:
            return "give a key with --key-file or $AGGREGATOR_KEY"
        return (
            f"the key came from {target.key_from}; give one of the daemon's `keys` with --key-file or $AGGREGATOR_KEY"
        )
    if kind == "forbidden":
        return f"the key came from {target.key_from}; give another with --key-file or $AGGREGATOR_KEY"
    if kind == "unknown-order":
        return f"see {target.command('orders', 'list')}"
    if kind == "unknown-service" or field == "service":
        return f"see {target.command('services', 'list')}"
    if kind == "not-found" and "endpoint" in str(document.get("detail")):
        return f"see {target.command('webhooks', 'list')}"
    if kind == "not-found" or field == "provider":
        return f"see {target.command('providers', 'list')}"
    if wait_s and status in (409, 429, 503):
        return f"try again in {wait_s:g} s"
    if status >= 500:
        request = clean(document.get("instance") or "").rpartition(":")[2]
        return f"look into the daemon's log{f' for the request {request}' if request else ''}"
    if field in _OPTIONS:
        return f"mend {_OPTIONS[field]}"
    if field.startswith("params."):
        return f"mend --param {field.split('.')[1]}=…"
    return None
