"""Every action of hstockplus.txt, held against the samples of the document, and its six errors word for word."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from tests.sandbox.support import Desk

LINK = "https://instagram.com/username"
SERVICE_SAMPLE = {
    "service": 1,
    "name": "Instagram Followers",
    "type": "Default",
    "category": "Instagram",
    "rate": "0.50",
    "min": 100,
    "max": 10000,
    "refill": True,
    "cancel": False,
    "stock": 10000,
    "entityType": "smm",
    "autoDelivery": True,
}
STATUS_SAMPLE = {
    "status": "In progress",
    "charge": "5.00",
    "start_count": 1000,
    "remains": 500,
    "currency": "USD",
    "autoDelivery": True,
}
PRODUCT_SAMPLE = {
    "status": "Completed",
    "charge": "10.00",
    "start_count": 5,
    "remains": 0,
    "currency": "USD",
    "entityType": "product",
    "autoDelivery": True,
    "accounts": ["user1:pass1", "user2:pass2"],
}


def shape(value: Any) -> Any:
    """Keys in order, with types."""
    return [(name, type(item)) for name, item in value.items()]


def test_categories_can_be_used_as_filters(desk: Desk) -> None:
    found = desk.ask("hstock", "categories")
    assert list(found) == ["categories"]
    assert found["categories"][0] == {"category": "Instagram", "subcategories": ["Followers", "Likes", "Views"]}
    for row in found["categories"]:
        assert desk.ask("hstock", "services", category=row["category"])["total"] >= len(row["subcategories"])
    both = desk.ask("hstock", "services", category="Instagram", subcategory="Followers")
    assert [service["service"] for service in both["services"]] == [1]
    assert desk.ask("hstock", "services", subcategory="Followers")["total"] == 2
    assert desk.ask("hstock", "services", category="Nothing")["services"] == []


def test_services_without_limit_are_all_on_one_page(desk: Desk) -> None:
    found = desk.ask("hstock", "services")
    rows = found.pop("services")
    assert found == {"total": 10, "page": 1, "limit": 10, "total_pages": 1}
    assert shape(rows[0]) == shape(SERVICE_SAMPLE)
    assert rows[9]["stock"] is None
    assert (rows[1]["entityType"], rows[1]["rate"], rows[2]["autoDelivery"]) == ("product", "0.25", False)


def test_services_in_pages_are_each_there_once(desk: Desk) -> None:
    pages = [desk.ask("hstock", "services", page=page, limit=4) for page in (1, 2, 3, 4)]
    assert [row["service"] for page in pages for row in page["services"]] == list(range(1, 11))
    assert (pages[2]["total"], pages[2]["page"], pages[2]["limit"], pages[2]["total_pages"]) == (10, 3, 4, 3)
    assert pages[3]["services"] == []


def test_inventory_follows_what_was_bought(desk: Desk) -> None:
    sample = {"service": 5, "stock": 3, "available": True, "entityType": "product", "autoDelivery": True}
    assert desk.ask("hstock", "inventory", service=5) == sample
    desk.ask("hstock", "add", service=5, quantity=3)
    assert desk.ask("hstock", "inventory", service=5) == sample | {"stock": 0, "available": False}
    assert desk.ask("hstock", "add", service=5, quantity=1) == {"error": "Out of stock"}
    assert desk.ask("hstock", "inventory", service=10)["available"] is True


def test_an_smm_order_has_the_documents_status(desk: Desk) -> None:
    assert desk.ask("hstock", "add", service=1, link=LINK, quantity=1000) == {"order": 5001}
    desk.clock.tick(20)
    found = desk.ask("hstock", "status", order=5001)
    assert shape(found) == shape(STATUS_SAMPLE)
    assert (found["status"], found["remains"], found["charge"]) == ("In progress", 500, "0.50")


def test_a_product_needs_no_link_and_delivers_its_accounts(desk: Desk) -> None:
    assert desk.ask("hstock", "add", service=2, quantity=2) == {"order": 5001}
    assert "accounts" not in desk.ask("hstock", "status", order=5001)
    desk.clock.tick(5)
    found = desk.ask("hstock", "status", order=5001)
    assert shape(found) == shape(PRODUCT_SAMPLE)
    assert (found["charge"], len(found["accounts"])) == ("0.50", 2)
    assert all(account.count(":") == 1 for account in found["accounts"])


@pytest.mark.parametrize(("service", "mark", "parts"), [(3, ":", 3), (4, "|", 3), (5, "----", 2)])
def test_products_have_formats_of_their_own(desk: Desk, service: int, mark: str, parts: int) -> None:
    order = desk.ask("hstock", "add", service=service, quantity=2)["order"]
    desk.clock.tick(700)
    accounts = desk.ask("hstock", "status", order=order)["accounts"]
    assert [len(account.split(mark)) for account in accounts] == [parts, parts]


def test_a_product_by_hand_comes_slowly_and_cumulatively(desk: Desk) -> None:
    order = desk.ask("hstock", "add", service=3, quantity=6)["order"]
    seen: list[list[str]] = []
    for _ in range(12):
        desk.clock.tick(60)
        found = desk.ask("hstock", "status", order=order)
        assert found["autoDelivery"] is False
        seen.append(found.get("accounts", []))
        assert found["remains"] == 6 - len(seen[-1])
    assert {len(accounts) for accounts in seen} == {0, 2, 4, 6}
    assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(seen))
    assert found["status"] == "Completed"


def test_a_products_rate_may_be_per_thousand(desk: Desk) -> None:
    account = desk.world.accounts["hstock"]
    account.settings = replace(account.settings, product_rate_per=1000)
    desk.ask("hstock", "add", service=4, quantity=10)
    assert desk.ask("hstock", "balance") == {"balance": "499.988", "currency": "USD"}


def test_the_six_documented_errors(desk: Desk) -> None:
    assert desk.ask("hstock", "balance", key="wrong") == {"error": "Invalid API key"}
    assert desk.ask("hstock", "refund") == {"error": "Invalid action"}
    assert desk.ask("hstock", "add", link=LINK, quantity=100) == {"error": "Service ID is required"}
    assert desk.ask("hstock", "inventory") == {"error": "Service ID is required"}
    assert desk.ask("hstock", "status", order=1) == {"error": "Order not found"}
    assert desk.ask("hstock", "add", service=999, link=LINK, quantity=100) == {"error": "Service not found"}
    account = desk.world.accounts["hstock"]
    account.set_balance(account.balance_at(0) * 0, 0)
    assert desk.ask("hstock", "add", service=1, link=LINK, quantity=100) == {"error": "Insufficient balance"}
    assert desk.ask("hstock", "add_sms", project_id="65f0aa") == {"error": "Insufficient balance"}
    assert len(desk.world.ledger) == 0


def test_there_is_no_batch_no_refill_and_no_cancel(desk: Desk) -> None:
    order = desk.ask("hstock", "add", service=1, link=LINK, quantity=100)["order"]
    assert desk.ask("hstock", "status", orders=order) == {"error": "Order not found"}
    assert desk.ask("hstock", "status", order=f"{order},{order}") == {"error": "Order not found"}
    for action in ("refill", "refill_status", "cancel"):
        assert desk.ask("hstock", action, order=order, orders=order) == {"error": "Invalid action"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"link": ""}, "Bad Link"),
        ({"quantity": 99}, "Quantity less than minimal 100"),
        ({"quantity": 10001}, "Quantity more than maximal 10000"),
        ({"quantity": ""}, "Incorrect quantity"),
    ],
)
def test_other_refusals(desk: Desk, change: dict[str, object], words: str) -> None:
    assert desk.ask("hstock", "add", **{"service": 1, "link": LINK, "quantity": 100} | change) == {"error": words}
    assert desk.balance("hstock") == "500.00"
