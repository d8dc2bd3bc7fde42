"""What a fresh catalogue changes, and which ones are not believed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.domain.catalogue import CatalogueRow
from aggregator.domain.money import Money
from aggregator.domain.sync import Diff, Key, compare, distinct


def usd(amount: str) -> Money:
    return Money.parse(amount, "USD")


def a_row(service: str = "1", **fields: Any) -> CatalogueRow:
    usual: dict[str, Any] = {
        "name": f"service {service}",
        "kind": "smm",
        "type": "Default",
        "category": "Followers",
        "rate": usd("0.90"),
        "minimum": 50,
        "maximum": 10_000,
        "refill": True,
        "cancel": False,
    }
    return CatalogueRow(service=service, **{**usual, **fields})


def keyed(*rows: CatalogueRow) -> dict[Key, CatalogueRow]:
    return {(row.service, row.country): row for row in rows}


def many(count: int) -> dict[Key, CatalogueRow]:
    return keyed(*(a_row(str(number)) for number in range(count)))


def test_a_first_catalogue_is_all_new() -> None:
    rows = many(3)
    assert compare({}, rows) == Diff(added=tuple(rows.values()))


def test_an_unchanged_catalogue_changes_nothing() -> None:
    rows = many(3)
    assert compare(rows, rows) == Diff(same=tuple(rows))


def test_what_a_row_looked_like_on_the_wire_is_no_change() -> None:
    diff = compare(keyed(a_row(raw="")), keyed(a_row(raw='{"service":1}')))
    assert diff.same == (("1", ""),)


@pytest.mark.parametrize(
    ("change", "priced", "price_changed"),
    [
        ({"rate": usd("1.20")}, True, True),
        ({"rate": None, "problem": "absurd"}, True, True),
        ({"rate": Money.parse("0.90", "EUR")}, True, True),
        ({"stock": 5}, True, False),
        ({"name": "another meaning under the same id"}, False, False),
        ({"maximum": 5}, False, False),
        ({"refill": False}, False, False),
        ({"problem": "min and max leave no quantity"}, False, False),
    ],
)
def test_a_changed_row_is_told_and_a_moved_price_or_stock_gets_history(
    change: dict[str, Any], priced: bool, price_changed: bool
) -> None:
    [found] = compare(keyed(a_row()), keyed(a_row(**change))).changed
    assert (found.priced, found.price_changed) == (priced, price_changed)
    assert found.after == a_row(**change)


@pytest.mark.parametrize(
    ("before", "after", "sold_out"),
    [(5, 0, True), (None, 0, True), (0, 0, False), (5, 1, False), (5, None, False), (0, None, False)],
)
def test_sold_out_is_the_step_to_zero(before: int | None, after: int | None, sold_out: bool) -> None:
    rows = (a_row(stock=before, has_stock=True, name="a"), a_row(stock=after, has_stock=True, name="b"))
    [change] = compare(keyed(rows[0]), keyed(rows[1])).changed
    assert change.sold_out is sold_out


def test_a_row_that_is_not_there_is_missing() -> None:
    assert compare(many(4), many(3)).missing == (("3", ""),)


def test_countries_of_a_project_are_rows_of_their_own() -> None:
    us, de = a_row("p", country="us"), a_row("p", country="de")
    diff = compare(keyed(us), keyed(us, de))
    assert (diff.same, diff.added) == ((("p", "us"),), (de,))


# --- the brake -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [0, 1, 100])
def test_an_empty_catalogue_is_not_believed(stored: int) -> None:
    diff = compare(many(stored), {})
    assert diff.refused is not None
    assert diff == Diff(refused=diff.refused)


@pytest.mark.parametrize(("kept", "believed"), [(100, True), (51, True), (50, True), (49, False), (1, False)])
def test_less_than_half_a_catalogue_is_not_believed(kept: int, believed: bool) -> None:
    diff = compare(many(100), many(kept))
    assert (diff.refused is None) is believed
    assert len(diff.missing) == (100 - kept if believed else 0)


def test_as_many_rows_of_other_services_are_not_the_same_catalogue() -> None:
    fresh = keyed(*(a_row(f"other {number}") for number in range(100)))
    assert compare(many(100), fresh).refused is not None


def test_rows_that_are_gone_for_good_do_not_count_against_a_catalogue() -> None:
    """Else a provider that renews its offer bit by bit would one day be refused for ever."""
    stored = many(100)
    gone = {(str(number), "") for number in range(40, 100)}
    diff = compare(stored, many(40), gone)
    assert diff.refused is None
    assert len(diff.same) == 40


def test_rows_that_are_gone_for_good_are_missed_no_more() -> None:
    assert compare(many(3), many(2), {("2", "")}).missing == ()


def test_a_row_that_was_gone_may_come_back() -> None:
    assert compare(many(3), many(3), {("2", "")}).same == (("0", ""), ("1", ""), ("2", ""))


def test_gone_rows_do_not_make_half_a_catalogue_whole() -> None:
    gone = {(str(number), "") for number in range(90, 100)}
    fresh = {key: row for key, row in many(100).items() if int(row.service) >= 60}
    assert compare(many(100), fresh, gone).refused is not None


# --- rows that come twice --------------------------------------------------------------------------------------------


def test_a_row_repeated_over_pages_is_one_row() -> None:
    assert distinct([a_row(), a_row(), a_row("2")]) == keyed(a_row(), a_row("2"))


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_that_differ_the_dearer_one_is_believed(order: int) -> None:
    cheap, dear, absurd = a_row(rate=usd("0.01")), a_row(rate=usd("0.90")), a_row(rate=None)
    assert distinct([cheap, absurd, dear][::order]) == keyed(dear)


def test_a_row_without_a_usable_price_stands_only_where_there_is_no_other() -> None:
    absurd = a_row(rate=None, problem="absurd")
    assert distinct([absurd, absurd]) == keyed(absurd)


# --- two parts -------------------------------------------------------------------------------------------------------


def test_two_parts_of_a_catalogue_are_refused_each_for_itself() -> None:
    one, other = compare({}, many(2)), Diff(refused="numbers: empty")
    both = one + other
    assert (len(both.added), both.refused) == (2, "numbers: empty")
    assert (other + other).refused == "numbers: empty; numbers: empty"
    assert (one + Diff()) == one


rates = st.one_of(st.none(), st.integers(1, 10**12).map(lambda units: Money(units, "USD")))
rows_ = st.builds(
    lambda service, country, rate, stock: a_row(str(service), country=country, rate=rate, stock=stock),
    st.integers(0, 12),
    st.sampled_from(["", "us", "de"]),
    rates,
    st.one_of(st.none(), st.integers(0, 5)),
)


@given(st.lists(rows_, max_size=20), st.lists(rows_, max_size=20), st.sets(st.integers(0, 12)))
def test_a_believed_catalogue_accounts_for_every_row_once(
    stored: list[CatalogueRow], fresh: list[CatalogueRow], gone_services: set[int]
) -> None:
    before, after = distinct(stored), distinct(fresh)
    gone = {key for key in before if int(key[0]) in gone_services}
    diff = compare(before, after, gone)
    if diff.refused is not None:
        assert diff == Diff(refused=diff.refused)
        live = before.keys() - gone
        assert not after or 2 * len(live & after.keys()) < len(live)
        return
    told = [(row.service, row.country) for row in diff.added]
    told += [(change.after.service, change.after.country) for change in diff.changed]
    assert sorted([*told, *diff.same]) == sorted(after)
    assert set(diff.missing) == before.keys() - after.keys() - gone
    assert all(before[key] == replace(after[key], raw="") for key in diff.same)
