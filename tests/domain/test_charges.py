"""What three charges teach: the unit of a rate, a price that is not the catalogue's, and nothing where in doubt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aggregator.domain.charges import KEPT, Lesson, Sample, agrees, learn, remember

UNIT = 10**8
RATE = 90 * UNIT // 100


def bought(*charges: tuple[int, int], rate: int = RATE) -> list[Sample]:
    return [Sample(place, charge, quantity, rate) for place, (charge, quantity) in enumerate(charges, 1)]


def priced(per: int, *quantities: int, factor: float = 1.0) -> list[Sample]:
    return bought(*((int(RATE * quantity * factor) // per, quantity) for quantity in quantities))


def test_three_charges_settle_what_a_rate_buys() -> None:
    believed = Lesson(1000)
    assert learn(priced(1, 3, 5), believed, doubtful=True) is None
    assert learn(priced(1, 3, 5, 2), believed, doubtful=True) == Lesson(1)
    assert learn(priced(1000, 300, 500, 2000), Lesson(1), doubtful=True) == Lesson(1000)
    assert learn(priced(1000, 300, 500, 2000), believed, doubtful=True) == believed


def test_a_unit_that_is_not_in_doubt_is_never_put_to_the_test() -> None:
    """Numbers cost a piece each, packages one rate: a thousandth of it is another price, not another unit."""
    samples = priced(1000, 1, 1, 1, factor=1000)
    assert learn(samples, Lesson(1), doubtful=False) == Lesson(1)
    assert learn(priced(1, 1, 1, 1, factor=0.5), Lesson(1), doubtful=False) == Lesson(1, RATE // 2)


def test_a_price_that_is_charged_three_times_is_the_price() -> None:
    found = learn(priced(1000, 300, 500, 2000, factor=1.25), Lesson(1000), doubtful=True)
    assert found == Lesson(1000, RATE * 5 // 4)


def test_what_is_believed_stands_while_charges_agree_with_it() -> None:
    believed = Lesson(1000, RATE * 5 // 4)
    rounded = bought((140_000_000 // 10**6 * 10**6, 1244), (34_000_000, 302), (56_250_000, 500))
    assert learn(rounded, believed, doubtful=True) == believed


def test_the_catalogues_price_is_believed_again_when_it_is_charged_again() -> None:
    believed = Lesson(1000, RATE * 5 // 4)
    assert learn(priced(1000, 300, 500, 2000), believed, doubtful=True) == Lesson(1000)


def test_charges_that_disagree_teach_nothing() -> None:
    mixed = [*priced(1000, 300, factor=1.25), *priced(1000, 500, 700)]
    assert learn(mixed, Lesson(1000), doubtful=True) is None
    assert learn([*priced(1, 3), *priced(1000, 500, 700)], Lesson(1000), doubtful=True) is None


def test_a_charge_that_rounding_explains_both_ways_teaches_nothing() -> None:
    """0.01 is 0.0009 rounded up; it is also the 0.009 of a rate per piece."""
    tiny = [Sample(place, 10**6, 1, 900_000) for place in range(3)]
    assert learn(tiny, Lesson(1000), doubtful=True) is None


def test_a_thousandth_of_a_price_that_is_no_other_unit_is_no_bargain() -> None:
    """What such a provider calls its charge is not what it takes."""
    assert learn(priced(1000, 300, 500, 2000, factor=0.1), Lesson(1000), doubtful=True) is None
    assert learn(priced(1, 1, 1, 1, factor=0.001), Lesson(1), doubtful=False) is None
    assert learn(bought(*[(1000, 5000)] * 3), Lesson(1), doubtful=False) is None


def test_another_unit_at_another_price_is_both() -> None:
    found = learn(priced(1000, 300, 500, 2000, factor=1.25), Lesson(1), doubtful=True)
    assert found == Lesson(1000, RATE * 5 // 4)


def test_what_is_charged_many_times_too_dear_is_believed_as_far_as_it_can_be_stored() -> None:
    assert learn(priced(1000, 300, 500, 2000, factor=40), Lesson(1000), doubtful=True) == Lesson(1000, 40 * RATE)
    assert learn(bought(*[(9 * 10**17, 10)] * 3), Lesson(1000), doubtful=True) is None


def test_nothing_charged_teaches_nothing() -> None:
    assert not agrees(0, 5)
    assert not agrees(0, 0)


def test_the_newest_charges_are_remembered_one_for_each_order() -> None:
    samples: list[Sample] = []
    for order in (1, 2, 3, 4, 5, 6, 3):
        samples = remember(samples, Sample(order, order, 1, RATE))
    assert [one.of for one in samples] == [2, 4, 5, 6, 3]
    assert len(samples) == KEPT


@given(
    rate=st.integers(10**4, 10**12),
    per=st.sampled_from([1, 1000]),
    believed=st.sampled_from([1, 1000]),
    quantities=st.lists(st.integers(1, 10**6), min_size=3, max_size=5),
    digits=st.sampled_from([2, 4, 5, 8]),
)
def test_whatever_is_learned_explains_the_charges(
    rate: int, per: int, believed: int, quantities: list[int], digits: int
) -> None:
    step = 10 ** (8 - digits)
    charges = [-(-rate * quantity // per // step) * step for quantity in quantities]
    samples = [Sample(of, charge, q, rate) for of, (charge, q) in enumerate(zip(charges, quantities, strict=True))]
    found = learn(samples, Lesson(believed), doubtful=True)
    assert found in (None, Lesson(per))
