"""The parameters of an order against a service type: what is missing, what is refused and how many pieces it is."""

from __future__ import annotations

import pytest

from aggregator.domain.catalogue import SERVICE_TYPES, ServiceType
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.parameters import check_params, missing_params, quantity_of

LINK = "https://example.com/page"


@pytest.mark.parametrize("kind", SERVICE_TYPES.values(), ids=lambda kind: kind.name)
def test_every_required_parameter_is_missed_when_it_is_not_there(kind: ServiceType) -> None:
    full = dict.fromkeys(kind.required, "1")
    assert missing_params(kind, LINK, full) == []
    for name in kind.required:
        for nothing in ("", " ", "\t\r\n", "\u00a0\u2003"):
            assert missing_params(kind, LINK, {**full, name: nothing}) == [name]
    assert missing_params(kind, " \n", full) == (["link"] if kind.needs_link else [])
    assert missing_params(kind, None, full) == (["link"] if kind.needs_link else [])


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"quantity": "5"}, "params.quantity"),
        ({"RUNS": "5"}, "params.RUNS"),
        ({"runs": "five", "interval": "1"}, "params.runs"),
        ({"runs": "-1", "interval": "1"}, "params.runs"),
        ({"runs": "1.5", "interval": "1"}, "params.runs"),
        ({"runs": "١", "interval": "1"}, "params.runs"),
        ({"runs": "1" * 16, "interval": "1"}, "params.runs"),
        ({"runs": "5"}, "params.interval"),
        ({"interval": "5"}, "params.runs"),
        ({"min": ""}, "params.min"),
    ],
)
def test_a_wrong_parameter_is_refused_by_its_name(params: dict[str, str], field: str) -> None:
    with pytest.raises(Problem) as caught:
        check_params(params)
    assert (caught.value.kind, caught.value.field) == (ProblemKind.INVALID_FIELD, field)


def test_a_right_parameter_passes() -> None:
    check_params({"runs": "5", "interval": "60", "comments": "nice\ngreat", "country": "us"})


@pytest.mark.parametrize(
    ("kind", "given", "params", "quantity"),
    [
        ("default", 1000, {}, 1000),
        ("package", None, {}, 1),
        ("package", 1, {}, 1),
        ("custom comments", None, {"comments": "a\n\n b \nc"}, 3),
        ("custom comments package", None, {"comments": "a\nb"}, 1),
        ("mentions custom list", None, {"usernames": "a\r\nb"}, 2),
        ("subscriptions", None, {"max": "100", "posts": "5"}, 500),
        ("subscriptions", None, {"max": "100"}, 100),
        ("subscriptions", None, {"max": "100", "posts": "0"}, 100),
    ],
)
def test_the_quantity_is_the_callers_or_derived(
    kind: str, given: int | None, params: dict[str, str], quantity: int
) -> None:
    assert quantity_of(SERVICE_TYPES[kind], given, params) == quantity


@pytest.mark.parametrize(
    ("kind", "given", "params", "field"),
    [
        ("default", None, {}, "quantity"),
        ("custom comments", 5, {"comments": "a\nb"}, "quantity"),
        ("custom comments", None, {"comments": " \n "}, "params.comments"),
        ("mentions custom list", None, {}, "params.usernames"),
        ("package", 2, {}, "quantity"),
    ],
)
def test_a_quantity_that_cannot_be_told_is_refused(
    kind: str, given: int | None, params: dict[str, str], field: str
) -> None:
    with pytest.raises(Problem) as caught:
        quantity_of(SERVICE_TYPES[kind], given, params)
    assert caught.value.field == field
