"""Endpoints and deliveries as the API tells them: no secret, no query of a URL, the last try of each delivery."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from aggregator.config import WebhookSettings
from aggregator.domain.clock import rfc3339
from aggregator.storage.database import RowMapping
from aggregator.storage.deliveries import Backlog
from aggregator.web.rendering import times

STATES: Final = ("healthy", "failing", "disabled")


def state_of(row: RowMapping) -> str:
    if not row["enabled"]:
        return "disabled"
    return "failing" if row["standing"] == "failing" else "healthy"


def source_of(row: RowMapping, *, configured: bool) -> str:
    """Where an endpoint comes from; what the config has no more came from there, too."""
    if row["owner"]:
        return "callback"
    return "config" if configured or row["settings"] is None else "api"


def endpoint_document(
    row: RowMapping,
    hook: WebhookSettings | None,
    *,
    source: str,
    backlog: Backlog,
    replaying: int,
    now: datetime,
) -> dict[str, object]:
    """One endpoint; `hook` is None for a host of callbacks, and for what the config has no more."""
    state = state_of(row)
    since, reason = _why(row, hook, state)
    return {
        "name": row["name"],
        "source": source,
        "owner": row["owner"] or None,
        "url": shown_url(hook.url) if hook is not None else None,
        "events": list(hook.events) if hook is not None else None,
        "services": list(hook.services) if hook is not None else None,
        "description": hook.description if hook is not None else None,
        "timeout_s": hook.timeout_s if hook is not None else None,
        "retry_s": list(hook.retry_s) if hook is not None else None,
        "order_hold_s": hook.order_hold_s if hook is not None else None,
        "disable_after_days": hook.disable_after_days if hook is not None else None,
        "secrets": _secrets(hook, now) if hook is not None else None,
        "enabled": bool(row["enabled"]),
        "state": state,
        "since": rfc3339(since) if since is not None else None,
        "reason": reason,
        "waiting": backlog.waiting,
        "oldest_waiting_at": rfc3339(backlog.oldest) if backlog.oldest is not None else None,
        "parked": backlog.parked,
        "replaying": replaying > 0,
        "last_success_at": rfc3339(row["last_success_at"]) if row["last_success_at"] is not None else None,
        "last_failure": _last_failure(row),
        **times(row, "created_at", "updated_at"),
    }


def _why(row: RowMapping, hook: WebhookSettings | None, state: str) -> tuple[datetime | None, str | None]:
    if state == "failing":
        return row["failing_since"], row["last_error"]
    if state == "healthy":
        return None, None
    if row["disabled_at"] is not None:
        return row["disabled_at"], row["disabled_reason"]
    return None, "the config says enabled: false" if hook is not None else "it is not in the config any more"


def _last_failure(row: RowMapping) -> dict[str, object] | None:
    if row["last_failure_at"] is None:
        return None
    return {"at": rfc3339(row["last_failure_at"]), "error": row["last_error"]}


def _secrets(hook: WebhookSettings, now: datetime) -> list[dict[str, object]]:
    """How many there are and when each ends; never what they are."""
    return [{"until": rfc3339(one.until) if one.until is not None else None} for one in hook.secrets_at(now)]


def shown_url(url: str) -> str:
    """A URL without the values of its query, which are often keys."""
    parts = urlsplit(url)
    if not parts.query:
        return url
    names = (pair.partition("=")[0] for pair in parts.query.split("&"))
    return parts._replace(query="&".join(f"{name}=***" for name in names)).geturl()


def delivery_document(row: RowMapping, *, callback: bool) -> dict[str, object]:
    """One event for one endpoint: where it stands, and its last try."""
    return {
        "id": row["id"],
        "event": row["event_id"],
        "type": row["type"],
        "position": row["position"],
        "order": row["order_id"],
        "order_number": row["order_number"],
        "sequence": row["sequence"],
        "url": shown_url(row["callback_url"]) if callback and row["callback_url"] else None,
        "state": row["state"],
        "tries": row["tries"],
        "status": row["last_status"],
        "error": row["last_error"],
        "answer": row["last_excerpt"],
        "ms": row["last_ms"],
        "tried_at": rfc3339(row["last_at"]) if row["last_at"] is not None else None,
        "next_try_at": rfc3339(row["next_at"]) if row["next_at"] is not None else None,
        "happened_at": rfc3339(row["happened_at"]),
        **times(row, "hold_until", "created_at", "finished_at"),
    }
