"""Every panel_v2 service type: what a complete order costs, and which parameter is missed when it is not there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sandbox.support import START, Desk

LINK = "https://example.com/p"
LINES = "one\ntwo\n\nthree"
TEN = "\n".join(f"line {n}" for n in range(10))

# service id, all its parameters, charge, the parameters without which it is refused
TYPES: list[tuple[int, dict[str, Any], str, list[str]]] = [
    (1, {"link": LINK, "quantity": 1000}, "0.90", ["link", "quantity"]),
    (2, {"link": LINK, "comments": TEN}, "0.08", ["link", "comments"]),
    (3, {"link": LINK}, "1.50", ["link"]),
    (4, {"link": LINK, "quantity": 100, "keywords": LINES}, "1.20", ["keywords"]),
    (5, {"link": LINK, "comments": LINES}, "2.25", ["comments"]),
    (6, {"link": LINK, "quantity": 20, "usernames": LINES}, "0.06", ["usernames", "quantity"]),
    (7, {"link": LINK, "quantity": 20, "usernames": LINES, "hashtags": LINES}, "0.062", ["usernames", "hashtags"]),
    (8, {"link": LINK, "usernames": LINES}, "0.0096", ["usernames"]),
    (9, {"link": LINK, "quantity": 20, "hashtag": "sun"}, "0.066", ["hashtag"]),
    (10, {"link": LINK, "quantity": 20, "username": "ann"}, "0.068", ["username"]),
    (11, {"link": LINK, "quantity": 20, "media": LINK}, "0.07", ["media"]),
    (12, {"link": LINK, "quantity": 10, "username": "ann"}, "0.012", ["username"]),
    (13, {"link": LINK, "username": "ann", "comments": LINES}, "0.027", ["username", "comments"]),
    (14, {"link": LINK, "quantity": 10, "answer_number": 2}, "0.0075", ["answer_number"]),
    (15, {"link": LINK, "quantity": 50, "groups": LINES}, "0.20", ["groups"]),
    (
        17,
        {
            "link": LINK,
            "quantity": 1000,
            "country": "US",
            "device": 1,
            "type_of_traffic": 1,
            "google_keyword": "shoes",
        },
        "0.35",
        ["country", "device", "type_of_traffic", "google_keyword"],
    ),
]


@pytest.mark.parametrize(("service", "params", "charge", "required"), TYPES)
def test_a_type_is_charged_and_checked(
    desk: Desk, service: int, params: dict[str, Any], charge: str, required: list[str]
) -> None:
    for name in required:
        less = {key: value for key, value in params.items() if key != name}
        assert list(desk.ask("smmplus", "add", service=service, **less)) == ["error"], name
    assert len(desk.world.ledger) == 0
    assert "order" in desk.ask("smmplus", "add", service=service, **params)
    [entry] = desk.world.ledger.entries()
    assert entry.charge == charge
    assert entry.params == {"service": str(service)} | {name: str(value) for name, value in params.items()}


def test_comments_are_counted_by_line_against_min(desk: Desk) -> None:
    nine = "\n".join("abcdefghi")
    assert desk.ask("smmplus", "add", service=2, link=LINK, comments=nine) == {"error": "neworder.error.min_quantity"}


def test_a_type_is_read_in_any_case_of_letters(desk: Desk) -> None:
    assert "order" in desk.ask("smmcheap", "add", service=3, link=LINK, comments=TEN)


def test_web_traffic_with_a_custom_referrer_needs_it(desk: Desk) -> None:
    params: dict[str, Any] = {
        "service": 17,
        "link": LINK,
        "quantity": 100,
        "country": "US",
        "device": 5,
        "type_of_traffic": 2,
    }
    assert desk.ask("smmplus", "add", **params) == {"error": "Incorrect referring_url"}
    assert "order" in desk.ask("smmplus", "add", **params, referring_url=LINK)
    assert "order" in desk.ask("smmplus", "add", **params | {"type_of_traffic": 3})


def test_a_drip_feed_shows_its_runs_as_they_begin(desk: Desk) -> None:
    parent = desk.ask("smmplus", "add", service=1, link=LINK, quantity=100, runs=3, interval=10)["order"]
    assert desk.balance("smmplus") == "999.73"
    found = desk.ask("smmplus", "status", order=parent)
    assert (found["status"], found["runs"], found["orders"]) == ("Pending", 3, [parent + 1])
    assert desk.ask("smmplus", "status", order=parent + 2) == {"error": "Incorrect order ID"}
    desk.clock.tick(600)
    found = desk.ask("smmplus", "status", order=parent)
    assert (found["status"], found["orders"], found["remains"]) == ("In progress", [parent + 1, parent + 2], "200")
    assert desk.ask("smmplus", "status", order=parent + 1)["status"] == "Completed"
    desk.clock.tick(640)
    found = desk.ask("smmplus", "status", order=parent)
    assert (found["status"], found["remains"], found["charge"]) == ("Completed", "0", "0.27")
    assert len(desk.world.ledger) == 1


def test_a_canceled_drip_feed_pays_back_the_runs_that_did_not_begin(desk: Desk) -> None:
    parent = desk.ask("smmplus", "add", service=1, link=LINK, quantity=100, runs=3, interval=10)["order"]
    desk.clock.tick(60)
    assert desk.ask("smmplus", "cancel", orders=parent) == [{"order": parent, "cancel": 1}]
    desk.clock.tick(2000)
    found = desk.ask("smmplus", "status", order=parent)
    assert (found["status"], found["charge"]) == ("Partial", "0.09")
    assert desk.balance("smmplus") == "999.91"


SUBSCRIPTION: dict[str, Any] = {"service": 16, "username": "ann", "min": 10, "max": 20, "delay": 0}


def test_a_subscription_orders_for_each_post(desk: Desk) -> None:
    parent = desk.ask("smmplus", "add", **SUBSCRIPTION, posts=2)["order"]
    found = desk.ask("smmplus", "status", order=parent)
    assert (found["status"], found["posts"], found["orders"]) == ("Active", 2, [])
    desk.clock.tick(3600)
    assert desk.ask("smmplus", "status", order=parent)["orders"] == [parent + 1]
    desk.clock.tick(3700)
    assert desk.ask("smmplus", "status", order=parent)["status"] == "Completed"
    assert 10 <= desk.world.accounts["smmplus"].orders[str(parent + 1)].quantity <= 20


@pytest.mark.parametrize("name", ["username", "min", "max", "delay"])
def test_a_subscription_needs_its_parameters(desk: Desk, name: str) -> None:
    less = {key: value for key, value in SUBSCRIPTION.items() if key != name}
    assert desk.ask("smmplus", "add", **less) == {"error": f"Incorrect {name}"}


def test_a_subscription_ends_with_its_expiry(desk: Desk) -> None:
    # START is 2023-11-14 22:13 UTC: one post fits before midnight, an hour later.
    assert START == 1_700_000_000
    assert desk.ask("smmplus", "add", **SUBSCRIPTION, expiry="13/11/2023") == {"error": "Incorrect expiry"}
    assert desk.ask("smmplus", "add", **SUBSCRIPTION, expiry="2023-11-14") == {"error": "Incorrect expiry"}
    parent = desk.ask("smmplus", "add", **SUBSCRIPTION, posts=5, expiry="14/11/2023")["order"]
    assert desk.ask("smmplus", "status", order=parent)["posts"] == 1
