"""The demo's webhook receiver: verifies each signature as Standard Webhooks 1.0 asks, and keeps what it heard."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Heard:
    """One webhook that arrived for the first time."""

    type: str
    data: dict[str, Any]

    @property
    def order(self) -> dict[str, Any]:
        return self.data.get("order") or {}


@dataclass(slots=True)
class Listener:
    """Answers 204 to what verifies and 401 to what does not; the same event twice counts once."""

    secret: str
    on_event: Callable[[Heard], None]
    heard: list[Heard] = field(default_factory=list)
    forged: int = 0
    repeated: int = 0
    _ids: set[str] = field(default_factory=set)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/hook", self._receive)
        return app

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        event_id = request.headers.get("webhook-id", "")
        timestamp = request.headers.get("webhook-timestamp", "")
        key = b64decode(self.secret.removeprefix("whsec_"))
        mac = hmac.new(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
        expected = "v1," + b64encode(mac).decode()
        signatures = request.headers.get("webhook-signature", "").split()
        if not any(hmac.compare_digest(signature, expected) for signature in signatures):
            self.forged += 1
            return web.Response(status=401)
        if event_id in self._ids:
            self.repeated += 1
            return web.Response(status=204)
        self._ids.add(event_id)
        document = json.loads(body)
        event = Heard(document["type"], document["data"])
        self.heard.append(event)
        self.on_event(event)
        return web.Response(status=204)
