"""Every action of smm_plus.txt, held against the samples of the document, and the refusals around them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.sandbox.support import Desk

STATUS_SAMPLE = {"charge": "0.27819", "start_count": "3572", "status": "Partial", "remains": "157", "currency": "USD"}
ROW_SAMPLE = {
    "service": 1,
    "name": "Followers",
    "type": "Default",
    "category": "First Category",
    "rate": "0.90",
    "min": "50",
    "max": "10000",
    "refill": True,
    "cancel": True,
}
LINK = "https://example.com/p"
UNKNOWN = {"error": "Incorrect order ID"}


def shape(value: Any) -> Any:
    """Keys in order, with types."""
    return [(name, type(item)) for name, item in value.items()]


def test_services_have_the_documents_rows(desk: Desk) -> None:
    rows = desk.ask("smmplus", "services")
    assert isinstance(rows, list)
    assert all(shape(row) == shape(ROW_SAMPLE) for row in rows)
    first = rows[0]
    assert (first["service"], first["rate"], first["min"], first["max"]) == (1, "0.90", "50", "10000")


def test_the_catalogue_covers_every_service_type(desk: Desk) -> None:
    types = {row["type"] for row in desk.ask("smmplus", "services")}
    assert types == {
        "Default", "Package", "SEO", "Custom Comments", "Custom Comments Package", "Mentions",
        "Mentions with Hashtags", "Mentions Custom List", "Mentions Hashtag", "Mentions User Followers",
        "Mentions Media Likers", "Comment Likes", "Comment Replies", "Poll", "Invites from Groups", "Subscriptions",
        "Web Traffic",
    }  # fmt: skip


def test_add_answers_a_number_and_charges(desk: Desk) -> None:
    assert desk.ask("smmplus", "add", service=1, link=LINK, quantity=1000) == {"order": 23501}
    assert desk.ask("smmplus", "balance") == {"balance": "999.10", "currency": "USD"}


def test_status_of_one_has_the_documents_strings(desk: Desk) -> None:
    order = desk.buy("smmplus", 19, 1000)
    desk.clock.tick(35)
    found = desk.ask("smmplus", "status", order=order)
    assert shape(found) == shape(STATUS_SAMPLE)
    assert (found["status"], found["remains"], found["charge"]) == ("Partial", "600", "0.008")


def test_status_of_many_is_keyed_by_id_with_an_error_for_the_unknown(desk: Desk) -> None:
    first, second = desk.buy("smmplus", 1, 100), desk.buy("smmplus", 1, 200)
    found = desk.ask("smmplus", "status", orders=f"{first}, {second},99,abc")
    assert list(found) == [first, second, "99", "abc"]
    assert found["99"] == found["abc"] == UNKNOWN
    assert (found[first]["remains"], found[second]["remains"]) == ("100", "200")


def test_start_count_is_unknown_while_pending(desk: Desk) -> None:
    order, cheap = desk.buy("smmplus", 1, 100), desk.buy("smmcheap", 1, 100)
    assert desk.ask("smmplus", "status", order=order)["start_count"] == ""
    assert desk.ask("smmcheap", "status", order=cheap)["start_count"] is None
    desk.clock.tick(6)
    assert int(desk.ask("smmplus", "status", order=order)["start_count"]) >= 100


def test_more_than_100_ids_are_refused(desk: Desk) -> None:
    ids = ",".join(str(number) for number in range(101))
    for action in ("status", "refill", "cancel"):
        assert desk.ask("smmplus", action, orders=ids) == {"error": "Too many IDs, up to 100"}


@pytest.mark.parametrize("action", ["status", "refill", "cancel"])
def test_an_action_without_ids_is_refused(desk: Desk, action: str) -> None:
    assert desk.ask("smmplus", action) == UNKNOWN


def test_refill_one_and_many(desk: Desk) -> None:
    first, second, third = (desk.buy("smmplus", 1, 100) for _ in range(3))
    desk.clock.tick(40)
    assert desk.ask("smmplus", "refill", order=first) == {"refill": "1"}
    assert desk.ask("smmplus", "refill", orders=f"{second},{third},9") == [
        {"order": int(second), "refill": 2},
        {"order": int(third), "refill": 3},
        {"order": 9, "refill": UNKNOWN},
    ]
    assert desk.ask("smmplus", "refill", order=9) == UNKNOWN


def test_refill_status_one_and_many(desk: Desk) -> None:
    order = desk.buy("smmplus", 1, 100)
    desk.clock.tick(40)
    desk.ask("smmplus", "refill", order=order)
    assert desk.ask("smmplus", "refill_status", refill=1) == {"status": "Pending"}
    desk.clock.tick(60)
    assert desk.ask("smmplus", "refill_status", refill=1) == {"status": "Completed"}
    assert desk.ask("smmplus", "refill_status", refills="1,3") == [
        {"refill": 1, "status": "Completed"},
        {"refill": 3, "status": {"error": "Refill not found"}},
    ]
    assert desk.ask("smmplus", "refill_status", refill=3) == {"error": "Refill not found"}


def test_cancel_answers_in_the_callers_order(desk: Desk) -> None:
    order, never = desk.buy("smmplus", 1, 100), desk.buy("smmplus", 19, 100)
    assert desk.ask("smmplus", "cancel", orders=f"9,{order},{never}") == [
        {"order": 9, "cancel": UNKNOWN},
        {"order": int(order), "cancel": 1},
        {"order": int(never), "cancel": {"error": "Cancel is not available"}},
    ]


def test_a_wrong_key_or_action_changes_nothing(desk: Desk) -> None:
    assert desk.ask("smmplus", "add", key="wrong", service=1, link=LINK, quantity=100) == {"error": "Invalid API key"}
    assert desk.ask("smmplus", "inventory", service=1) == {"error": "Incorrect request"}
    assert desk.balance("smmplus") == "1000.00"
    assert len(desk.world.ledger) == 0


REFUSED = [
    ({"service": 999}, "neworder.error.service_inactive", "Incorrect service ID"),
    ({"service": ""}, "neworder.error.service_inactive", "Incorrect service ID"),
    ({"quantity": 49}, "neworder.error.min_quantity", "Quantity less than minimal 50"),
    ({"quantity": 10_001}, "neworder.error.max_quantity", "Quantity more than maximal 5000"),
    ({"quantity": "ten"}, "Incorrect quantity", "Incorrect quantity"),
    ({"quantity": "-5"}, "Incorrect quantity", "Incorrect quantity"),
    ({"link": "not a link"}, "neworder.error.invalid_link", "Bad Link"),
    ({"link": ""}, "neworder.error.invalid_link", "Bad Link"),
    ({"runs": "x"}, "Incorrect runs", "Incorrect runs"),
    ({"runs": 2}, "Incorrect interval", "Incorrect interval"),
]


@pytest.mark.parametrize(("change", "codes", "plain"), REFUSED)
def test_an_order_is_refused_in_the_accounts_words(
    desk: Desk, change: dict[str, object], codes: str, plain: str
) -> None:
    order = {"service": 1, "link": LINK, "quantity": 100} | change
    assert desk.ask("smmplus", "add", **order) == {"error": codes}
    assert desk.ask("smmcheap", "add", **order) == {"error": plain}
    assert len(desk.world.ledger) == 0


def test_no_funds_and_no_stock_are_refused_and_change_nothing(desk: Desk) -> None:
    assert desk.ask("smmplus", "add", service=20, link=LINK, quantity=2000) == {"order": 23501}
    desk.world.accounts["smmplus"].set_balance(desk.world.accounts["smmplus"].balance_at(0) * 0, 0)
    refused = desk.ask("smmplus", "add", service=1, link=LINK, quantity=100)
    assert refused == {"error": "neworder.error.not_enough_funds"}
    desk.buy("smmcheap", 2, 1000)
    assert desk.ask("smmcheap", "add", service=2, link=LINK, quantity=501) == {"error": "Not enough stock"}
    desk.buy("smmcheap", 2, 500)
    assert desk.ask("smmcheap", "add", service=2, link=LINK, quantity=20) == {"error": "Out of stock"}
    assert len(desk.world.ledger) == 3


def test_an_account_may_take_batches_under_order_or_not_at_all(desk: Desk) -> None:
    first, second = desk.buy("smmplus", 1, 100), desk.buy("smmplus", 1, 100)
    account = desk.world.accounts["smmplus"]
    account.settings = replace(account.settings, batch="order")
    assert set(desk.ask("smmplus", "status", order=f"{first},{second}")) == {first, second}
    assert desk.ask("smmplus", "status", order=first)["remains"] == "100"
    assert desk.ask("smmplus", "status", orders=f"{first},{second}") == UNKNOWN
    account.settings = replace(account.settings, batch="none")
    assert desk.ask("smmplus", "status", order=f"{first},{second}") == UNKNOWN
    assert desk.ask("smmplus", "status", orders=first) == UNKNOWN


def test_a_fresh_order_may_be_invisible_for_a_while(desk: Desk) -> None:
    account = desk.world.accounts["smmplus"]
    account.settings = replace(account.settings, visible_after_s=10)
    order = desk.buy("smmplus", 1, 100)
    assert desk.ask("smmplus", "status", order=order) == UNKNOWN
    desk.clock.tick(10)
    assert desk.ask("smmplus", "status", order=order)["status"] == "In progress"


def test_an_active_link_may_be_refused(desk: Desk) -> None:
    account = desk.world.accounts["smmcheap"]
    account.settings = replace(account.settings, refuse_active_link=True)
    desk.buy("smmcheap", 1, 100)
    refused = desk.ask("smmcheap", "add", service=1, link=LINK, quantity=100)
    assert refused["error"].startswith("You have active order with this link")
    desk.clock.tick(35)
    assert "order" in desk.ask("smmcheap", "add", service=1, link=LINK, quantity=100)
