"""Plain examples of the domain's values, for tests that care about one or two of their fields."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from aggregator.domain.ids import AttemptId, OrderId, OrderNumber, RefillId
from aggregator.domain.money import Money
from aggregator.domain.numbers import Number, NumberState
from aggregator.domain.orders import Order, OrderState
from aggregator.domain.refills import Refill, RefillPolicy, RefillState

NOW = datetime(2026, 11, 21, 18, 0, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def an_order(**fields: Any) -> Order:
    """An order as it was accepted a moment ago."""
    usual: dict[str, Any] = {
        "id": OrderId("ord_1"),
        "number": OrderNumber(1),
        "owner": "shop",
        "service": "ig-followers",
        "kind": "smm",
        "state": OrderState.ACCEPTED,
        "quantity": 1000,
        "created_at": NOW,
        "updated_at": NOW,
        "link": "https://example.com/page",
        "sequence": 1,
        "version": 1,
    }
    return Order(**{**usual, **fields})


def a_bought_order(**fields: Any) -> Order:
    """An order that a provider works on."""
    usual: dict[str, Any] = {
        "state": OrderState.PENDING,
        "provider": "smmplus",
        "provider_service": "1",
        "provider_order": "23501",
        "attempt": AttemptId("att_1"),
        "expected_cost": Money.parse("0.90", "USD"),
    }
    return an_order(**{**usual, **fields})


def a_completed_order(**fields: Any) -> Order:
    return a_bought_order(**{"state": OrderState.COMPLETED, "finished_at": NOW, "remains": 0, **fields})


def a_number(**fields: Any) -> Number:
    usual: dict[str, Any] = {
        "id": 7,
        "number": 7,
        "order": OrderId("ord_1"),
        "provider": "hstock",
        "provider_order": "o-7",
        "phone": "15550100",
        "state": NumberState.WAITING,
    }
    return Number(**{**usual, **fields})


def a_refill(**fields: Any) -> Refill:
    usual: dict[str, Any] = {
        "id": RefillId("ref_1"),
        "number": 1,
        "order": OrderId("ord_1"),
        "provider": "smmplus",
        "state": RefillState.COMPLETED,
        "requested_at": NOW,
    }
    return Refill(**{**usual, **fields})


def a_refill_policy(**fields: Any) -> RefillPolicy:
    """The defaults of the config (contract.md §1)."""
    usual: dict[str, Any] = {
        "auto": True,
        "drop_percent": 5,
        "window": timedelta(days=30),
        "cooldown": timedelta(hours=24),
        "min_age": timedelta(hours=24),
        "check_every": timedelta(hours=24),
        "max_refills": 5,
    }
    return RefillPolicy(**{**usual, **fields})
