"""What a fresh catalogue changes, and which ones are not believed."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.domain.catalogue import CatalogueRow
from aggregator.domain.money import Money
from aggregator.domain.sync import (
    BELIEVED_AFTER,
    Believed,
    Change,
    Diff,
    Doubted,
    Key,
    compare,
    distinct,
    first_doubts,
)


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
        ({"rate": None, "problem": "absurd"}, True, False),
        ({"rate": Money.parse("0.90", "EUR")}, True, True),
        ({"stock": 5}, True, False),
        ({"name": "service 1 [fast]"}, False, False),
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
    rows = (a_row(stock=before, has_stock=True, maximum=1), a_row(stock=after, has_stock=True, maximum=2))
    [change] = compare(keyed(rows[0]), keyed(rows[1])).changed
    assert change.sold_out is sold_out


def test_sold_out_is_the_step_from_what_was_told_last_not_from_what_our_orders_left() -> None:
    left, none = a_row(stock=0, has_stock=True), a_row(stock=0, has_stock=True)
    [change] = compare(keyed(left), keyed(none), told={("1", ""): 5}).changed
    assert (change.sold_out, change.priced) == (True, True)
    assert compare(keyed(left), keyed(none), told={("1", ""): 0}).same == (("1", ""),)


def test_stock_that_our_orders_lowered_is_history_once_the_provider_says_so() -> None:
    [change] = compare(keyed(a_row(stock=3)), keyed(a_row(stock=3)), told={("1", ""): 5}).changed
    assert (change.sold_out, change.priced) == (False, True)
    [back] = compare(keyed(a_row(stock=3)), keyed(a_row(stock=5)), told={("1", ""): 5}).changed
    assert (back.priced, back.after.stock) == (False, 5), "the provider told nothing new, the row is set right"


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
    assert diff.shrunk is not believed
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


def test_a_shrunken_catalogue_can_be_believed_and_says_that_it_shrank() -> None:
    diff = compare(many(100), many(30), believe_shrink=True)
    assert (diff.refused, diff.shrunk, len(diff.missing)) == (None, True, 70)
    assert compare(many(100), many(30)).shrunk
    assert not compare(many(100), many(60)).shrunk


def test_an_empty_catalogue_is_never_believed() -> None:
    diff = compare(many(100), {}, believe_shrink=True)
    assert (diff.refused, diff.shrunk) == ("the catalogue is empty", False)


# --- quarantine ------------------------------------------------------------------------------------------------------

KEY = ("1", "")
FREE: dict[str, Any] = {"rate": usd("0"), "problem": "the rate '0' is not above 0"}
VALUES = {"USD": Decimal(1), "EUR": Decimal("1.08")}


class Shelf:
    """One row as the database keeps it from sync to sync."""

    def __init__(self, **fields: Any) -> None:
        self.row = a_row(**fields)
        self.doubted: Doubted | None = None

    def sync(self, **fields: Any) -> Change | None:
        """A complete sync that shows these values; what changes of the row."""
        doubted = {KEY: self.doubted} if self.doubted is not None else {}
        diff = compare(keyed(self.row), keyed(a_row(**fields)), doubted=doubted, values=VALUES)
        if not diff.changed:
            assert diff.same == (KEY,)
            return None
        [change] = diff.changed
        self.row = change.after
        self.doubted = Doubted(change.accepted, change.doubts) if change.after.problem is not None else None
        return change

    @property
    def problem(self) -> str | None:
        return self.row.problem


DOUBTS: list[tuple[dict[str, Any], str]] = [
    ({"rate": usd("4.51")}, "the price was 0.90 USD and is 4.51 USD now, more than 5 times as much"),
    ({"rate": usd("0.179")}, "the price was 0.90 USD and is 0.179 USD now, less than a fifth of it"),
    ({"rate": Money.parse("5", "EUR")}, "the price was 0.90 USD and is 5.00 EUR now, more than 5 times as much"),
    ({"type": "Package"}, "its type was 'Default' (smm) and is 'Package' (smm) now"),
    ({"kind": "product"}, "its type was 'Default' (smm) and is 'Default' (product) now"),
    (
        {"name": "Instagram likes"},
        "its name was 'service 1' and is 'Instagram likes' now, which may be another thing",
    ),
    (FREE, "the rate '0' is not above 0"),
    (
        {"type": "Package", "rate": usd("9")},
        "its type was 'Default' (smm) and is 'Package' (smm) now;"
        " the price was 0.90 USD and is 9.00 USD now, more than 5 times as much",
    ),
]


@pytest.mark.parametrize(("change", "reason"), DOUBTS)
def test_a_row_that_changes_too_much_goes_into_quarantine_and_what_was_believed_is_kept(
    change: dict[str, Any], reason: str
) -> None:
    shelf = Shelf()
    found = shelf.sync(**change)
    assert found is not None
    assert (found.quarantined, found.price_changed, found.doubts) == (True, False, 1)
    assert found.accepted == Believed("service 1", "smm", "Default", usd("0.90"))
    assert shelf.problem == reason
    assert found.after == a_row(**{**change, "problem": reason}), "what is doubted is stored all the same"


@pytest.mark.parametrize(("change", "reason"), DOUBTS)
def test_values_that_return_end_the_quarantine_as_if_nothing_had_been(change: dict[str, Any], reason: str) -> None:
    shelf = Shelf()
    shelf.sync(**change)
    shelf.sync(**change)
    found = shelf.sync()
    assert found is not None
    assert (found.released, found.price_changed, shelf.row) == (True, False, a_row())
    assert shelf.sync() is None


@pytest.mark.parametrize(("change", "reason"), DOUBTS)
def test_the_same_new_values_are_believed_when_ten_syncs_have_shown_them(change: dict[str, Any], reason: str) -> None:
    shelf = Shelf()
    for seen in range(1, BELIEVED_AFTER):
        found = shelf.sync(**change)
        assert found is not None
        assert (found.doubts, shelf.problem) == (seen, reason)
    found = shelf.sync(**change)
    assert found is not None
    assert (found.released, shelf.problem, found.accepted) == (True, None, None)
    assert found.price_changed is ("rate" in change)
    assert shelf.sync(**change) is None, "and they are what later ones are compared with"


def test_other_new_values_begin_to_be_counted_anew_and_are_compared_with_what_was_believed() -> None:
    shelf = Shelf()
    for _ in range(BELIEVED_AFTER - 1):
        shelf.sync(rate=usd("9"))
    found = shelf.sync(rate=usd("20"))
    assert found is not None
    assert (found.doubts, found.was) == (1, Believed("service 1", "smm", "Default", usd("0.90")))
    sane = shelf.sync(rate=usd("1.00"))
    assert sane is not None
    assert (sane.released, sane.price_changed) == (True, True), "in the range of what was believed"


@pytest.mark.parametrize("rate", ["0.18", "4.50", "0.90000001"])
def test_a_price_from_a_fifth_to_five_times_the_last_one_is_believed(rate: str) -> None:
    found = Shelf().sync(rate=usd(rate))
    assert found is not None
    assert (found.after.problem, found.price_changed) == (None, True)


def test_a_price_that_climbs_slowly_is_compared_with_the_last_believed_one() -> None:
    shelf = Shelf()
    for rate in ("2.00", "8.00", "30.00"):
        shelf.sync(rate=usd(rate))
        assert shelf.problem is None


def test_prices_in_currencies_without_a_common_value_are_not_compared() -> None:
    found = Shelf().sync(rate=Money.parse("900", "IRR"))
    assert found is not None
    assert found.after.problem is None


def test_another_spelling_of_the_type_is_the_same_type() -> None:
    found = Shelf(type="Custom Comments").sync(type="custom  comments")
    assert found is not None
    assert found.after.problem is None


def test_a_price_of_nothing_that_was_believed_is_no_doubt_any_more() -> None:
    shelf = Shelf()
    shelf.row, shelf.doubted = replace(a_row(**FREE), problem=None), None  # released by the operator
    assert shelf.sync(**FREE) is None
    shelf.sync(rate=usd("0.90"))
    assert shelf.problem is None, "that something costs again is no mistake"


@pytest.mark.parametrize(
    "broken", [{"rate": None, "problem": "no price"}, {"minimum": 9, "maximum": 1, "problem": "x"}]
)
def test_what_nobody_could_buy_is_not_believed_however_often_it_is_seen(broken: dict[str, Any]) -> None:
    shelf = Shelf()
    for _ in range(BELIEVED_AFTER + 2):
        shelf.sync(**broken)
        assert shelf.problem == broken["problem"]
        assert shelf.doubted == Doubted(Believed("service 1", "smm", "Default", usd("0.90")), 0)
    shelf.sync(rate=usd("0.95"))
    assert shelf.problem is None
    shelf.sync(**broken)
    shelf.sync(rate=usd("50"))
    assert shelf.problem is not None, "what was believed before it broke is not forgotten"
    assert shelf.doubted == Doubted(Believed("service 1", "smm", "Default", usd("0.95")), 1)


def test_a_row_that_was_never_believed_is_doubted_for_what_it_is_alone() -> None:
    shelf = Shelf(**FREE)
    shelf.doubted = Doubted(None, first_doubts(shelf.row))
    found = shelf.sync(name="another thing", rate=usd("500"))
    assert found is not None
    assert (found.released, found.price_changed, found.was) == (True, True, None)


def test_a_free_row_from_the_first_sync_on_is_believed_after_ten() -> None:
    shelf = Shelf(**FREE)
    shelf.doubted = Doubted(None, first_doubts(shelf.row))
    for _ in range(BELIEVED_AFTER - 2):
        shelf.sync(**FREE)
        assert shelf.problem is not None
    shelf.sync(**FREE)
    assert (shelf.problem, shelf.row.rate) == (None, usd("0"))


def test_the_stock_of_a_quarantined_row_goes_on() -> None:
    shelf = Shelf(stock=5, has_stock=True)
    shelf.sync(rate=usd("9"), stock=5, has_stock=True)
    found = shelf.sync(rate=usd("9"), stock=0, has_stock=True, maximum=77)
    assert found is not None
    assert (found.sold_out, found.priced, found.after.maximum, found.doubts) == (True, True, 77, 2)


# --- rows that come twice --------------------------------------------------------------------------------------------


def test_a_row_repeated_over_pages_is_one_row() -> None:
    assert distinct([a_row(), a_row(), a_row("2")]) == keyed(a_row(), a_row("2"))


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_that_differ_the_dearer_one_stays_in_doubt(order: int) -> None:
    cheap, dear, absurd = a_row(rate=usd("0.01")), a_row(rate=usd("0.90")), a_row(rate=None)
    [row] = distinct([cheap, absurd, dear][::order]).values()
    reason = "the catalogue states it several times: 'service 1' ('Default') at 0.90 USD and 'service 1' ('Default')"
    assert row == replace(dear, problem=f"{reason} at 0.01 USD")
    assert first_doubts(row) == 1, "the operator may release it"
    assert distinct([absurd, dear][::order]) == keyed(dear)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("rates", "chosen"),
    [(("0.90", "50"), "0.90"), (("0.95", "0.92", "50"), "0.95"), (("0.90", "0.95"), "0.90"), (("50", "60"), "60")],
)
def test_of_several_that_differ_the_one_that_agrees_with_what_is_believed_stays(
    order: int, rates: tuple[str, ...], chosen: str
) -> None:
    rows = [a_row(rate=usd(rate)) for rate in rates][::order]
    [row] = distinct(rows, keyed(a_row())).values()
    assert (row, row.rivals is not None) == (a_row(rate=usd(chosen)), True)
    quarantined = a_row(rate=usd("50"), problem="too dear")
    doubted = {("1", ""): Doubted(Believed.of(a_row()), 3)}
    assert distinct(rows, keyed(quarantined), doubted) == keyed(a_row(rate=usd(chosen)))


@pytest.mark.parametrize("order", [1, -1])
def test_numbers_come_at_several_prices_and_the_dearest_is_reckoned_with(order: int) -> None:
    rows = [a_row(kind="sms", rate=usd(rate)) for rate in ("0.50", "0.70")]
    assert distinct(rows[::order]) == keyed(rows[1])


def test_rows_that_differ_in_nothing_that_matters_contradict_nobody() -> None:
    [row] = distinct([a_row(), a_row(maximum=5, name="SERVICE 1", type="default")]).values()
    assert (row, row.rivals) == (a_row(), None)


def test_what_an_incomplete_catalogue_lacks_is_not_missing() -> None:
    diff = compare(many(100), many(3), incomplete="half of it")
    assert (diff.refused, diff.shrunk, diff.missing, diff.incomplete) == (None, False, (), "half of it")
    assert (len(diff.same), diff.complaint) == (3, "half of it")
    both = compare(many(1), {}, incomplete="a") + compare(many(9), many(1), incomplete="b")
    assert (both.refused, both.incomplete, both.complaint) == ("the catalogue is empty", "a; b", both.complaint)
    assert both.complaint == "the catalogue is empty; a; b"


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
        assert diff == Diff(refused=diff.refused, shrunk=diff.shrunk)
        assert diff.shrunk is bool(after)
        live = before.keys() - gone
        assert not after or 2 * len(live & after.keys()) < len(live)
        return
    told = [(row.service, row.country) for row in diff.added]
    told += [(change.after.service, change.after.country) for change in diff.changed]
    assert sorted([*told, *diff.same]) == sorted(after)
    assert set(diff.missing) == before.keys() - after.keys() - gone
    assert all(before[key] == replace(after[key], raw="") for key in diff.same)
