"""What the dialects promise beside their fixtures: what they cannot do, the batches' bounds, whose words come first."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from aggregator.domain.catalogue import service_type
from aggregator.domain.orders import OrderState
from aggregator.domain.wire import HttpReply
from aggregator.providers.contract import (
    Account,
    AddRequest,
    AddSmsRequest,
    Consequence,
    Dialect,
    Failure,
    FailureKind,
    Meaning,
    Refused,
    StatusReport,
    Unclear,
)
from aggregator.providers.dialects import DIALECTS
from aggregator.providers.panel import UnsupportedAction

KEY = "c7b4d1f0a9e84e55"


def speak(name: str, **account: object) -> Dialect:
    return DIALECTS[name](Account("panel", "https://panel.example/api/v2", KEY, **account))  # type: ignore[arg-type]


def reply(document: object, status: int = 200) -> HttpReply:
    return HttpReply(status, json.dumps(document).encode())


ONLY_PANEL: list[Callable[[Dialect], object]] = [
    lambda dialect: dialect.build_statuses(["1"]),
    lambda dialect: dialect.build_refills(["1"]),
    lambda dialect: dialect.build_refill_statuses(["1"]),
    lambda dialect: dialect.build_cancels(["1"]),
]
ONLY_HSTOCK: list[Callable[[Dialect], object]] = [
    lambda dialect: dialect.build_categories(),
    lambda dialect: dialect.build_inventory("1"),
    lambda dialect: dialect.build_sms_projects(),
    lambda dialect: dialect.build_sms_countries(),
    lambda dialect: dialect.build_add_sms(AddSmsRequest("65f0aa")),
    lambda dialect: dialect.build_sms_code("1"),
    lambda dialect: dialect.build_sms_status("1"),
]


@pytest.mark.parametrize("build", ONLY_PANEL)
def test_hstockplus_documents_no_batch_refill_or_cancel(build: Callable[[Dialect], object]) -> None:
    with pytest.raises(UnsupportedAction):
        build(speak("hstockplus"))


@pytest.mark.parametrize("build", ONLY_HSTOCK)
def test_panel_v2_documents_no_stock_and_no_sms(build: Callable[[Dialect], object]) -> None:
    with pytest.raises(UnsupportedAction):
        build(speak("panel_v2"))


def test_reads_of_undocumented_actions_learn_nothing() -> None:
    answer = reply([{"order": 1, "refill": 1, "cancel": 1}])
    hstock = speak("hstockplus")
    assert hstock.read_refills(answer, ["1"]) == {"1": Unclear("unsupported")}
    assert hstock.read_cancels(answer, ["1"]) == {"1": Unclear("unsupported")}
    assert isinstance(hstock.read_statuses(answer, ["1"]), Failure)
    assert speak("panel_v2").read_add_sms(reply({"orders": [{"order": 1}]})) == Unclear("unsupported")


@pytest.mark.parametrize("count", [0, 101])
def test_a_batch_holds_one_to_a_hundred_ids(count: int) -> None:
    panel = speak("panel_v2")
    for build in (panel.build_statuses, panel.build_refills, panel.build_refill_statuses, panel.build_cancels):
        with pytest.raises(ValueError, match="1 to 100"):
            build([str(one) for one in range(1, count + 1)])


@pytest.mark.parametrize("count", [0, 11])
def test_a_rental_is_of_one_to_ten_numbers(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 10"):
        speak("hstockplus").build_add_sms(AddSmsRequest("65f0aa", count))


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_a_type_gets_its_own_parameters_and_no_others(name: str) -> None:
    package = service_type("smm", "package")
    assert package is not None
    request = speak(name).build_add(
        AddRequest("1", "smm", package, 1, "https://x.example", {"comments": "a", "runs": "2", "key": "other"})
    )
    assert dict(request.form) == {"key": KEY, "action": "add", "service": "1", "link": "https://x.example"}


@pytest.mark.parametrize("name", sorted(DIALECTS))
@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (Consequence.NEXT_OFFER, Refused(Meaning.OPERATOR, Consequence.NEXT_OFFER, "Sold out!")),
        (Consequence.LATER, Refused(Meaning.OPERATOR, Consequence.LATER, "Sold out!")),
        (Consequence.CALLERS_FAULT, Refused(Meaning.OPERATOR, Consequence.CALLERS_FAULT, "Sold out!")),
        (Consequence.PROVIDER_DOWN, Refused(Meaning.OPERATOR, Consequence.PROVIDER_DOWN, "Sold out!")),
        (Consequence.UNCLEAR, Unclear("error_text", "Sold out!")),
    ],
)
def test_the_operators_reading_of_an_error_comes_before_the_tables(
    name: str, word: Consequence, expected: Refused | Unclear
) -> None:
    for spelling in ("Sold out!", "sold OUT"):
        dialect = speak(name, error_words={spelling: word})
        assert dialect.read_add(reply({"error": "Sold out!"})) == expected


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_the_operator_cannot_read_a_5xx_or_an_id_away(name: str) -> None:
    dialect = speak(name, error_words={"Sold out!": Consequence.NEXT_OFFER})
    assert isinstance(dialect.read_add(reply({"error": "Sold out!"}, 500)), Unclear)
    assert isinstance(dialect.read_add(reply({"error": "Sold out!", "order": 5})), Unclear)


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_the_operators_status_word_comes_before_the_tables(name: str) -> None:
    dialect = speak(name, status_words={"Done ok": OrderState.COMPLETED, "Partial": OrderState.CANCELED})
    for word, state in (("done_OK", OrderState.COMPLETED), ("PARTIAL", OrderState.CANCELED)):
        report = dialect.read_status(reply({"status": word, "charge": "1"}), "1")
        assert isinstance(report, StatusReport)
        assert (report.state, report.word) == (state, word)


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_an_error_is_never_a_status_whatever_the_operator_calls_failed(name: str) -> None:
    dialect = speak(name, status_words={"error": OrderState.FAILED})
    failure = dialect.read_status(reply({"status": "error", "message": "Order not found"}), "1")
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.NOT_FOUND


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_a_long_text_is_cut_after_the_key_is_taken_out(name: str) -> None:
    result = speak(name).read_add(reply({"error": "x" * 495 + KEY + "y" * 600}))
    assert isinstance(result, Unclear)
    assert len(result.text) == 500
    assert not any(KEY[:length] in result.text for length in range(3, len(KEY)))


def test_names_are_those_of_the_config() -> None:
    assert {name: dialect.name for name, dialect in DIALECTS.items()} == {
        "panel_v2": "panel_v2",
        "hstockplus": "hstockplus",
    }
