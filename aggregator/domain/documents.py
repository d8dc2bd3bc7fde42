"""The JSON that users see of an order and what belongs to it (contract.md §2); one place for API and events.

Pure rendering: it never decides, and delivered accounts are never in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from json.encoder import encode_basestring
from typing import Final

from aggregator.domain.clock import rfc3339
from aggregator.domain.ids import OrderId
from aggregator.domain.money import Money
from aggregator.domain.numbers import Number
from aggregator.domain.orders import Order
from aggregator.domain.refills import Refill


@dataclass(frozen=True, slots=True)
class Related:
    """What belongs to an order beside its own row."""

    numbers: Sequence[Number] = ()
    refills: Sequence[Refill] = ()
    children: Sequence[OrderId] = ()
    cancel_detail: str | None = None
    """What was said to the wish to cancel it."""


NOTHING_RELATED = Related()


def _time(value: datetime | None) -> str | None:
    return rfc3339(value) if value is not None else None


def _money(value: Money | None) -> dict[str, str] | None:
    return value.as_json() if value is not None else None


def _cancel(order: Order, related: Related) -> dict[str, object]:
    return {"state": order.cancel_state, "at": _time(order.cancel_at), "detail": related.cancel_detail}


def order_document(order: Order, related: Related = NOTHING_RELATED, *, params: bool = True) -> dict[str, object]:
    """An order as contract.md §2 shows it; events leave `params` out."""
    document: dict[str, object] = {
        "id": order.id,
        "number": order.number,
        "service": order.service,
        "kind": order.kind,
        "state": str(order.state),
        "link": order.link,
        "quantity": order.quantity,
        "params": dict(order.params),
        "reference": order.reference,
        "metadata": dict(order.metadata),
        "provider": order.provider,
        "provider_order": order.provider_order,
        "expected_cost": _money(order.expected_cost),
        "charge": _money(order.charge),
        "start_count": order.start_count,
        "remains": order.remains,
        "provider_children": list(order.provider_children),
        "count": order.count,
        "count_at": _time(order.count_at),
        "stuck_at": _time(order.stuck_at),
        "parent": order.parent,
        "children": list(related.children),
        "refills": [refill_document(refill) for refill in related.refills],
        "numbers": [number_document(number) for number in related.numbers],
        "cancel": _cancel(order, related) if order.cancel_state else None,
        "error": {"type": order.error_type, "detail": order.error_detail} if order.error_type else None,
        "created_at": _time(order.created_at),
        "updated_at": _time(order.updated_at),
        "finished_at": _time(order.finished_at),
    }
    if not params:
        del document["params"]
    return document


_NOTHING_YET: Final = (
    '"provider":null,"provider_order":null,"expected_cost":null,"charge":null,"start_count":null,"remains":null,'
    '"provider_children":[],"count":null,"count_at":null,"stuck_at":null,"parent":null,"children":[],"refills":[],'
    '"numbers":[],"cancel":null,"error":null'
)


def accepted_text(order: Order, *, params: bool = True) -> str:
    """The document of an order that was just accepted and is nobody's child, as compact JSON: the same text as of
    `order_document`, for a tenth of the time. There is little to say yet, but it is said thousands of times a second.
    """
    made = rfc3339(order.created_at)
    told = f'"params":{_json(order.params)},' if params else ""
    return (
        f'{{"id":"{order.id}","number":{order.number},"service":{encode_basestring(order.service)},'
        f'"kind":"{order.kind}","state":"accepted","link":{_text(order.link)},"quantity":{order.quantity},{told}'
        f'"reference":{_text(order.reference)},"metadata":{_json(order.metadata)},{_NOTHING_YET},'
        f'"created_at":"{made}","updated_at":"{made}","finished_at":null}}'
    )


def _text(value: str | None) -> str:
    return "null" if value is None else encode_basestring(value)


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(dict(value), ensure_ascii=False, separators=(",", ":")) if value else "{}"


def number_document(number: Number) -> dict[str, object]:
    return {
        "number": number.number,
        "phone": number.phone,
        "provider_order": number.provider_order,
        "state": str(number.state),
        "codes": [
            {"code": code.code, "text": code.text, "received_at": rfc3339(code.received_at)} for code in number.codes
        ],
        "expires_at": _time(number.expires_at),
    }


def refill_document(refill: Refill) -> dict[str, object]:
    return {
        "id": refill.id,
        "number": refill.number,
        "state": str(refill.state),
        "provider_refill": refill.provider_refill,
        "drop": refill.dropped,
        "requested_at": rfc3339(refill.requested_at),
        "finished_at": _time(refill.finished_at),
    }
