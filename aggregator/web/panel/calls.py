"""One call at the panel door: who calls, in which document's shapes, with which parameters; and how ids are read.

Decides which scope an action needs and which ids are none; what becomes of a call is the actions' to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aiohttp import web

from aggregator.config.callers import Panel
from aggregator.domain.ids import OrderNumber
from aggregator.flow.base import House
from aggregator.web.auth import BUYERS, Caller
from aggregator.web.panel.shapes import Shape
from aggregator.web.panel.words import MAX_IDS, Refused, Word
from aggregator.web.services import WebServices, services_of

MOST_DIGITS = 18
"""Of an id: no longer one fits into 64 bits."""


@dataclass(frozen=True, slots=True)
class Call:
    """A caller's request for an action, its parameters as text."""

    request: web.Request
    caller: Caller
    shape: Shape
    action: str
    fields: Mapping[str, str]

    @property
    def services(self) -> WebServices:
        return services_of(self.request)

    @property
    def house(self) -> House:
        return self.services.house

    @property
    def panel(self) -> Panel:
        return self.caller.panel

    def text(self, name: str) -> str:
        """A parameter without the blanks around it; empty when it is not there."""
        return self.fields.get(name, "").strip()

    def number(self, name: str) -> int | None:
        """A parameter that is a whole number, or None."""
        return as_number(self.text(name))

    def many(self, plural: str, singular: str) -> list[str] | None:
        """The ids of a call about several, each once, in the caller's order; None when it is about one.

        Some clients send `order=10,11` for several. Refused when there are more than a call may have.
        """
        listed = self.text(plural) or (self.text(singular) if "," in self.text(singular) else "")
        if not listed:
            return None
        ids = list(dict.fromkeys(part for one in listed.split(",") if (part := one.strip())))
        if len(ids) > MAX_IDS:
            raise Refused(Word.TOO_MANY_IDS, MAX_IDS)
        return ids or None

    def may_buy(self) -> None:
        """Refused unless the key's scopes let the caller place orders and act on them."""
        if not self.caller.scopes & BUYERS:
            raise Refused(Word.SCOPE, " or ".join(sorted(BUYERS)))

    @property
    def body(self) -> bytes:
        """What makes two calls the same under one Idempotency-Key: everything but the key, which may be rotated."""
        said = sorted((name, value) for name, value in self.fields.items() if name != "key")
        return json.dumps(said).encode()


def as_number(text: str) -> int | None:
    """A whole number as ids are written, or None."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else None


def known(ids: Iterable[str]) -> dict[str, OrderNumber]:
    """Of what was sent as ids, what may be one."""
    read = ((one, as_number(one)) for one in ids)
    return {one: OrderNumber(number) for one, number in read if number is not None}


def shown(one: str) -> int | str:
    """An id in an answer: a number, or what was sent in its place."""
    number = as_number(one)
    return one if number is None else number
