"""Money: what is read, how it is rounded, and that nothing passes through a binary float."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from aggregator.domain.money import MAX_UNITS, UNIT, Money, MoneyError, format_units, parse_decimal, units_of

units = st.integers(-MAX_UNITS, MAX_UNITS)
amounts = st.builds(Money, units, st.just("USD"))


@given(amounts)
@example(Money(MAX_UNITS, "USD"))
@example(Money(-MAX_UNITS, "USD"))
@example(Money(0, "USD"))
@example(Money(-1, "USD"))
def test_an_amount_survives_writing_and_reading(money: Money) -> None:
    assert Money.parse(money.amount, "usd") == money


@given(units)
def test_an_amount_is_written_plainly_with_2_to_8_fraction_digits(count: int) -> None:
    text = format_units(count)

    whole, fraction = text.lstrip("-").split(".")
    assert whole.isdigit()
    assert fraction.isdigit()
    assert 2 <= len(fraction) <= 8
    assert not (len(fraction) > 2 and fraction.endswith("0"))
    assert not (len(whole) > 1 and whole.startswith("0"))
    assert Fraction(text) == Fraction(count, UNIT)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0.00"),
        (1, "0.00000001"),
        (-1, "-0.00000001"),
        (UNIT, "1.00"),
        (27_819_000, "0.27819"),
        (-150_000_000, "-1.50"),
        (MAX_UNITS, "92233720368.54775807"),
    ],
)
def test_amounts_read_as_people_write_them(count: int, text: str) -> None:
    assert format_units(count) == text


@pytest.mark.parametrize(
    ("raw", "count"),
    [
        ("0.90", 90_000_000),
        (" 1.5 ", 150_000_000),
        ("1", UNIT),
        (3, 3 * UNIT),
        (Decimal("0.1"), 10_000_000),
        ("1e-05", 1_000),
        ("1.0E-5", 1_000),
        (Decimal("1E+3"), 1000 * UNIT),
        ("-0", 0),
        ("+2.5", 250_000_000),
        (".5", 50_000_000),
        ("5.", 5 * UNIT),
        ("0e9999", 0),
        ("00012.30", 1_230_000_000),
    ],
)
def test_numbers_are_read_as_providers_write_them(raw: object, count: int) -> None:
    assert Money.parse(raw, "USD").units == count


@pytest.mark.parametrize(
    "raw",
    [
        "", " ", "abc", "1,5", "1,000.50", "1_000", "١٢", "１２", "0x10", "1.2.3", "--1", "$1", "1 USD", "NaN", "sNaN",
        "Infinity", "-inf", "1e", "e5", ".", "1" * 65, "1e40", "1e-50", "1e99999", "1\x00", "1\n2", None, True, False,
        b"1", 1.5, 0.1, float("nan"), Decimal("NaN"), Decimal("Infinity"), [], {},
        pytest.param(10**5000, id="5000-digits"),
    ],
)  # fmt: skip
def test_what_is_no_decimal_number_is_refused(raw: object) -> None:
    with pytest.raises(MoneyError):
        Money.parse(raw, "USD")


@given(st.one_of(st.text(max_size=70), st.from_regex(r"\A[+-]?[0-9_.eE ]{1,20}\Z"), st.integers(), st.decimals()))
def test_whatever_a_provider_sends_is_an_amount_or_a_money_error(raw: object) -> None:
    try:
        money = Money.parse(raw, "USD")
    except MoneyError:
        return
    assert abs(Fraction(money.units, UNIT) - Fraction(parse_decimal(raw))) <= Fraction(1, 2 * UNIT)


@given(st.floats())
def test_a_float_is_never_money(value: float) -> None:
    with pytest.raises(MoneyError):
        Money.parse(value, "USD")
    with pytest.raises(MoneyError):
        Money(value, "USD")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0.000000005", 0),
        ("0.000000015", 2),
        ("0.000000025", 2),
        ("0.0000000250000000000000000000000000000001", 3),
        ("-0.000000015", -2),
        ("0.0000000049999", 0),
    ],
)
def test_digits_beyond_the_eighth_round_half_to_even(text: str, count: int) -> None:
    assert Money.parse(text, "USD").units == count


@pytest.mark.parametrize(
    "raw",
    [
        "120481927710.83",  # a real mistake in a real catalogue
        "92233720368.54775808",
        "-92233720368.54775808",
        "92233720368.547758075",
        "9" * 39,
        10**30,
    ],
)
def test_an_amount_beyond_64_bits_is_refused(raw: object) -> None:
    with pytest.raises(MoneyError):
        Money.parse(raw, "USD")


def test_the_largest_amounts_are_taken() -> None:
    assert Money.parse("92233720368.54775807", "USD").units == 2**63 - 1
    assert Money.parse("-92233720368.54775807", "USD").units == -(2**63 - 1)
    with pytest.raises(MoneyError):
        Money(-(2**63), "USD")


@given(amounts, amounts)
def test_sums_are_exact_or_refused(one: Money, other: Money) -> None:
    total = one.units + other.units
    if abs(total) > MAX_UNITS:
        with pytest.raises(MoneyError):
            one + other
    else:
        assert (one + other).units == total
        assert one + other - other == one


def test_currencies_do_not_mix() -> None:
    dollars, euros = Money(1, "USD"), Money(1, "EUR")
    assert dollars != euros
    with pytest.raises(MoneyError):
        dollars + euros
    with pytest.raises(MoneyError):
        dollars - euros
    with pytest.raises(MoneyError):
        assert dollars < euros
    with pytest.raises(MoneyError):
        assert dollars <= euros


def _half_even(value: Fraction) -> int:
    return round(value)  # Fraction rounds half to even, exactly


@given(units, st.integers(0, 10**15), st.integers(1, 10**15))
@example(1, 500, 1000)
@example(3, 500, 1000)
@example(-1, 500, 1000)
@example(MAX_UNITS, 10**15, 10**15)
@example(1, 10**15 - 1, 10**15)
@example(9_999_999_999_999_999, 999_999_999_999_999, 10**12)
def test_a_cost_is_the_exact_ratio_rounded_half_to_even(rate: int, pieces: int, per: int) -> None:
    exact = _half_even(Fraction(rate * pieces, per))
    if abs(exact) > MAX_UNITS:
        with pytest.raises(MoneyError):
            Money(rate, "USD").times(pieces, per)
    else:
        assert Money(rate, "USD").times(pieces, per) == Money(exact, "USD")


@given(units, st.integers(0, 10**9), st.integers(1, 10**6))
def test_a_cost_does_not_depend_on_the_threads_decimal_context(rate: int, pieces: int, per: int) -> None:
    assume(abs(rate) * pieces <= MAX_UNITS * per)
    usual = Money(rate, "USD").times(pieces, per)
    with localcontext(prec=3, rounding="ROUND_UP"):
        assert Money(rate, "USD").times(pieces, per) == usual
        assert Money.parse(usual.amount, "USD") == usual


@given(units, st.decimals(min_value=Decimal("0.0001"), max_value=Decimal("10000"), places=8))
def test_conversion_multiplies_exactly_and_rounds_once(count: int, rate: Decimal) -> None:
    with localcontext(prec=100):
        exact = int((Decimal(count) * rate).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))
    if abs(exact) > MAX_UNITS:
        with pytest.raises(MoneyError):
            Money(count, "EUR").convert(rate, "USD")
    else:
        assert Money(count, "EUR").convert(rate, "USD") == Money(exact, "USD")


@pytest.mark.parametrize("rate", [Decimal("1e39"), Decimal("1e60"), Decimal("1e300")])
def test_a_conversion_that_overflows_is_a_money_error(rate: Decimal) -> None:
    with pytest.raises(MoneyError):
        Money(MAX_UNITS, "EUR").convert(rate, "USD")
    with pytest.raises(MoneyError):
        units_of(rate)


def test_json_holds_a_string_and_the_currency() -> None:
    assert Money.parse("0.27819", "usd").as_json() == {"amount": "0.27819", "currency": "USD"}
