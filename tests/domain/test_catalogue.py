"""Service types of the panel protocol: how they are named, what they take and where their quantity comes from."""

from __future__ import annotations

import pytest

from aggregator.domain.catalogue import (
    ACCOUNT_PRODUCT,
    LINE_LISTS,
    PARAMS,
    SERVICE_TYPES,
    SMS_NUMBERS,
    QuantityFrom,
    ServiceType,
    lines,
    service_type,
)


@pytest.mark.parametrize("raw", [None, "", "Default", "default", " DEFAULT ", "\tdefault\n"])
def test_a_row_without_a_type_is_default(raw: str | None) -> None:
    found = service_type("smm", raw)
    assert found is not None
    assert found.name == "Default"


@pytest.mark.parametrize("name", [kind.name for kind in SERVICE_TYPES.values()])
def test_a_type_is_found_however_it_is_spelled(name: str) -> None:
    for spelled in (name, name.upper(), name.lower(), f"  {name.replace(' ', '   ')} "):
        assert service_type("smm", spelled) is SERVICE_TYPES[name.casefold()]


@pytest.mark.parametrize("raw", ["Mystery", "Custom Comment", "Default!"])
def test_a_type_that_nobody_documented_is_unknown(raw: str) -> None:
    assert service_type("smm", raw) is None


def test_products_and_numbers_have_one_type_each_whatever_the_row_says() -> None:
    assert service_type("product", "Mystery") is ACCOUNT_PRODUCT
    assert service_type("sms", None) is SMS_NUMBERS
    assert not ACCOUNT_PRODUCT.needs_link
    assert not SMS_NUMBERS.needs_link


@pytest.mark.parametrize("kind", SERVICE_TYPES.values(), ids=lambda kind: kind.name)
def test_a_derived_quantity_comes_from_a_required_parameter(kind: ServiceType) -> None:
    source = {QuantityFrom.COMMENTS: "comments", QuantityFrom.USERNAMES: "usernames", QuantityFrom.SUBSCRIPTION: "max"}
    assert kind.sends_quantity == (kind.quantity is QuantityFrom.CALLER)
    if kind.quantity in source:
        assert source[kind.quantity] in kind.required
    assert not set(kind.required) & set(kind.optional)


def test_only_whole_packages_are_priced_by_the_order() -> None:
    assert {kind.name for kind in SERVICE_TYPES.values() if kind.per_order} == {"Package", "Custom Comments Package"}


def test_every_list_of_lines_is_a_known_parameter() -> None:
    assert LINE_LISTS <= PARAMS
    assert {"runs", "interval", "country", "phone", "answer_number", "expiry"} <= PARAMS


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("\n\n", ()),
        ("one", ("one",)),
        ("one\ntwo", ("one", "two")),
        ("one\r\ntwo\rthree\n", ("one", "two", "three")),
        ("  one \n \t \n two", ("one", "two")),
        ("nice\u2028post", ("nice\u2028post",)),
        ("form\x0cfeed, next\x85line, file\x1cseparator", ("form\x0cfeed, next\x85line, file\x1cseparator",)),
    ],
)
def test_lines_end_where_the_providers_end_them(text: str, found: tuple[str, ...]) -> None:
    assert lines(text) == found
