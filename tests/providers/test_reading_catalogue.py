"""Figures and flags of catalogue rows: what is unambiguous is read, everything else stays unreadable."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aggregator.domain.parameters import MAX_QUANTITY
from aggregator.domain.wire import HttpReply
from aggregator.providers.contract import Account, CataloguePage
from aggregator.providers.dialects.panel_v2 import PanelV2
from aggregator.providers.reading import count, granted, granted_days, price


@pytest.mark.parametrize(
    ("value", "currency", "amount"),
    [
        ("1,234.50", "USD", "1234.50"),
        ("12,345,678.5", "USD", "12345678.50"),
        ("0.90 USD", "USD", "0.90"),
        ("USD 0.90", "usd", "0.90"),
        ("0.90usd", "USD", "0.90"),
        ("$0.90", "USD", "0.90"),
        ("0.90$", "CAD", "0.90"),
        ("$1,234.50 USD", "USD", "1234.50"),
        ("€ 5", "EUR", "5.00"),
        ("9e-1", "USD", "0.90"),
        (" 0.90 ", "USD", "0.90"),
    ],
)
def test_a_price_is_read_where_it_can_mean_one_thing_only(value: str, currency: str, amount: str) -> None:
    found = price(value, currency)
    assert found is not None
    assert (found.amount, found.currency) == (amount, currency.upper())


@pytest.mark.parametrize(
    "value",
    [
        "0,90",
        "1234,50",
        "1,234",
        "1,23.50",
        "12,3456.00",
        "0,123.50",
        "1,234.567,8",
        "1 000.00",
        "0.90/1k",
        "0.90 EUR",
        "€0.90",
        "$0.90 EUR",
        "~0.90",
        "$",
        "USD",
        "0.90 per",
        "",
        None,
        True,
        [0.9],
        {"USD": "0.90"},
        "-$0.90",
        "0.9.0",
        "$-0.90",
        "1,,234.50",
        ",123.50",
        "$ $0.90",
        "٠.٩",
    ],
)
def test_a_price_that_may_mean_two_things_is_not_guessed_at(value: object) -> None:
    assert price(value, "USD") is None


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("1,000,000", 1_000_000),
        ("1,000.00", 1000),
        ("10", 10),
        (10, 10),
        ("1,00", None),
        ("1,0000", None),
        ("0,100", None),
        ("1.000.000", None),
        ("1 000", None),
        ("10k", None),
        ("1,000.5", None),
        (None, None),
        ("9,999,999,999,999,999,999", None),
    ],
)
def test_a_comma_parts_the_thousands_of_a_count(value: object, read: int | None) -> None:
    assert count(value) == read


@pytest.mark.parametrize("value", ["Y", "yes", "Enabled", "1", "true", "on", 1, True])
def test_what_a_row_grants_is_read_in_many_words(value: object) -> None:
    assert granted(value)
    assert granted_days(value)


@pytest.mark.parametrize("value", ["30", "30 days", "30 Days", "1 day", "30d", "R30", 30])
def test_days_stand_for_a_refill_and_for_nothing_else(value: object) -> None:
    assert granted_days(value)
    assert not granted(value)


@pytest.mark.parametrize(
    "value", ["0", 0, -1, "0 days", "no", "N", "disabled", "", None, False, "No refill", [1], {"days": 30}]
)
def test_what_grants_nothing_is_no_refill(value: object) -> None:
    assert not granted(value)
    assert not granted_days(value)


def row_of(**fields: Any) -> Any:
    usual = {"service": 1, "name": "x", "rate": "0.90", "min": 10, "max": 1000}
    body = json.dumps([usual | fields]).encode()
    dialect = PanelV2(Account(name="panel", url="https://panel.example", api_key="c7b4d1f0a9e84e55"))
    page = dialect.read_services(HttpReply(200, body))
    assert isinstance(page, CataloguePage)
    return page.rows[0]


@pytest.mark.parametrize("most", [None, "", "N/A"])
def test_no_upper_limit_is_none_that_is_known(most: object) -> None:
    row = row_of(max=most)
    assert (row.maximum, row.problem) == (MAX_QUANTITY, None)


def test_a_row_with_figures_written_for_people_can_be_bought() -> None:
    row = row_of(rate="$1,234.50", min="1,000", max="1,000,000", refill="30 days", cancel="Y")
    assert (row.rate.amount, row.minimum, row.maximum, row.refill, row.cancel, row.problem) == (
        "1234.50",
        1000,
        1_000_000,
        True,
        True,
        None,
    )
    assert (row_of(min="").minimum, row_of(min="").problem) == (1, None)
