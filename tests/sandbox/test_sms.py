"""SMS numbers of hstockplus.txt: projects, countries, renting, codes, expiry and money."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.sandbox.support import START, Desk


def rent(desk: Desk, project: str, **params: object) -> dict[str, Any]:
    [number] = desk.ask("hstock", "add_sms", project_id=project, **params)["orders"]
    assert isinstance(number, dict)
    return number


def test_projects_are_a_bare_array_filtered_by_country(desk: Desk) -> None:
    rows = desk.ask("hstock", "sms_projects")
    assert rows[0] == {
        "project_id": "65f0aa",
        "name": "OpenAI / ChatGPT",
        "price": "0.5000",
        "country_id": "us",
        "country_title": "United States",
    }
    assert {row["country_id"] for row in desk.ask("hstock", "sms_projects", country="gb")} == {"gb"}
    assert len(rows) > len(desk.ask("hstock", "sms_projects", country="gb")) > 1


def test_countries_are_a_bare_array(desk: Desk) -> None:
    rows = desk.ask("hstock", "sms_countries")
    assert rows[:2] == [
        {"country_code": "us", "country_name": "United States"},
        {"country_code": "gb", "country_name": "United Kingdom"},
    ]
    assert len({row["country_code"] for row in rows}) == len(rows)


def test_a_code_arrives_after_a_while(desk: Desk) -> None:
    number = rent(desk, "65f0aa", country="us")
    assert number | {"phone": ""} == {"order": 5001, "phone": "", "country": "us", "status": "active"}
    assert number["phone"].startswith("+1202")
    assert desk.ask("hstock", "sms_code", order=5001) == {"status": "waiting", "message": "Waiting for code"}
    waiting = desk.ask("hstock", "sms_status", order=5001)
    assert (waiting["status"], waiting["code"]) == ("active", None)
    desk.clock.tick(10)
    found = desk.ask("hstock", "sms_code", order=5001)
    code = found["code"]
    assert found == {"status": "completed", "code": code, "sms_content": f"Your verification code is {code}"}
    assert len(code) == 6
    expires = datetime.fromtimestamp(START + 1200, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    assert desk.ask("hstock", "sms_status", order=5001) == {
        "status": "code_received",
        "phone": number["phone"],
        "code": code,
        "charge": "0.5000",
        "currency": "USD",
        "expires_at": expires,
    }


def test_a_second_code_replaces_the_first(desk: Desk) -> None:
    order = rent(desk, "65f0bb", country="us")["order"]
    desk.clock.tick(10)
    first = desk.ask("hstock", "sms_code", order=order)["code"]
    desk.clock.tick(20)
    assert desk.ask("hstock", "sms_code", order=order)["code"] != first


@pytest.mark.parametrize(("project", "after_s", "word"), [("65f0cc", 1200, "expired"), ("65f0dc", 10, "cancel")])
def test_a_number_without_code_ends_and_is_paid_back(desk: Desk, project: str, after_s: float, word: str) -> None:
    order = rent(desk, project)["order"]
    desk.clock.tick(after_s - 1)
    assert desk.ask("hstock", "sms_code", order=order)["status"] == "waiting"
    assert desk.balance("hstock") != "500.00"
    desk.clock.tick(1)
    assert desk.ask("hstock", "sms_code", order=order)["status"] == word
    found = desk.ask("hstock", "sms_status", order=order)
    assert (found["status"], found["charge"]) == (word, "0.0000")
    assert desk.balance("hstock") == "500.00"


def test_fewer_numbers_than_asked_come_back_and_only_those_are_charged(desk: Desk) -> None:
    found = desk.ask("hstock", "add_sms", project_id="65f0ff", quantity=5)
    assert len(found["orders"]) == 3
    assert desk.balance("hstock") == "499.40"
    assert desk.ask("hstock", "add_sms", project_id="65f0ff") == {"error": "Out of stock"}
    [entry] = desk.world.ledger.entries()
    assert (entry.quantity, entry.charge, len(entry.orders), entry.order) == (3, "0.60", 3, "5001")


def test_the_cheapest_row_of_a_project_goes_first(desk: Desk) -> None:
    desk.ask("hstock", "add_sms", project_id="65f0ee", quantity=6)
    # Five at 0.30 and one at 0.35.
    assert desk.balance("hstock") == "498.15"


@pytest.mark.parametrize("quantity", [0, 11, "x"])
def test_one_to_ten_numbers(desk: Desk, quantity: object) -> None:
    refused = desk.ask("hstock", "add_sms", project_id="65f0aa", quantity=quantity)
    assert refused == {"error": "Incorrect quantity"}
    assert len(desk.ask("hstock", "add_sms", project_id="65f0aa", quantity=10)["orders"]) == 10


def test_unknown_project_country_and_number(desk: Desk) -> None:
    assert desk.ask("hstock", "add_sms") == {"error": "Incorrect project_id"}
    assert desk.ask("hstock", "add_sms", project_id="nope") == {"error": "Service not found"}
    assert desk.ask("hstock", "add_sms", project_id="65f0aa", country="fr") == {"error": "Service not found"}
    assert desk.ask("hstock", "sms_code", order=1) == {"error": "Order not found"}
    assert desk.ask("hstock", "sms_status") == {"error": "Order not found"}


def test_a_phone_can_be_rented_again(desk: Desk) -> None:
    first = rent(desk, "65f0aa", country="us")
    again = rent(desk, "65f0aa", country="us", phone=first["phone"])
    assert again["phone"] == first["phone"]
    assert again["order"] != first["order"]
    refused = desk.ask("hstock", "add_sms", project_id="65f0aa", phone="+19999999999")
    assert refused == {"error": "Phone number is not available"}


def test_a_dial_code_country_gives_a_bare_national_number(desk: Desk) -> None:
    number = rent(desk, "65f0bb", country="+93")
    assert number["country"] == "+93"
    assert number["phone"].startswith("70")
