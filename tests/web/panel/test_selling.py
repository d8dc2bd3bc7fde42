"""What the panel door lists: services, stock, projects and the balance, in the shapes of both documents."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from aggregator.domain.clock import ManualClock
from aggregator.domain.money import Money
from aggregator.storage import catalogue
from tests.web.panel.support import CONFIG, SMM, STOCK, PanelDoors, opened_panel
from tests.web.support import a_row


async def test_smm_plus_lists_services_in_text(doors: PanelDoors) -> None:
    listed = await doors.panel("services")
    # 0.50 EUR of the one is less than 0.90 USD of the other; what nobody has ever listed is not sold.
    assert listed[0] == {
        "service": 1,
        "name": "Instagram followers",
        "type": "Default",
        "category": "Instagram",
        "rate": "0.55",
        "min": "10",
        "max": "10000",
        "refill": False,
        "cancel": False,
    }
    assert [row["service"] for row in listed] == [1, 2, 5, 6]
    assert (listed[1]["rate"], listed[2]["type"]) == ("2.20", "Custom Comments")


async def test_hstockplus_lists_services_with_stock_and_pages(doors: PanelDoors) -> None:
    whole = await doors.panel("services", key=STOCK)
    assert {name: whole[name] for name in whole if name != "services"} == {
        "total": 4,
        "page": 1,
        "limit": 4,
        "total_pages": 1,
    }
    assert whole["services"][1] == {
        "service": 2,
        "name": "service 3",
        "type": "Default",
        "category": "Mail",
        "rate": "2.20",
        "min": 1,
        "max": 10_000,
        "refill": False,
        "cancel": False,
        "stock": 7,
        "entityType": "product",
        "autoDelivery": True,
    }
    # Whoever knows no stock, or does not say it, has an unknown one.
    assert whole["services"][0]["stock"] is None
    page = await doors.panel("services", key=STOCK, page=2, limit=3)
    assert [row["service"] for row in page["services"]] == [6]
    assert (page["total"], page["page"], page["limit"], page["total_pages"]) == (4, 2, 3, 2)
    assert (await doors.panel("services", key=STOCK, page=9, limit=2))["services"] == []
    only = await doors.panel("services", key=STOCK, category="Mail")
    assert [row["service"] for row in only["services"]] == [2]
    assert (await doors.panel("services", key=STOCK, category="Instagram", subcategory="Likes"))["services"] == []


async def test_categories_come_with_their_subcategories(doors: PanelDoors) -> None:
    await doors.change("3", "hstock", subcategory="Gmail")
    assert await doors.panel("categories", key=STOCK) == {
        "categories": [
            {"category": "Instagram", "subcategories": []},
            {"category": "Mail", "subcategories": ["Gmail"]},
        ]
    }


async def test_a_service_that_nobody_can_deliver_now_stays_listed(doors: PanelDoors, clock: ManualClock) -> None:
    await doors.write(catalogue.set_health, "hstock", clock.now(), paused=True)
    listed = {row["service"]: row for row in (await doors.panel("services", key=STOCK))["services"]}
    assert listed[1]["rate"] == "0.90"
    assert (listed[2]["rate"], listed[2]["stock"]) == ("2.20", 0)
    sold = await doors.panel("inventory", key=STOCK, service=2)
    assert (sold["stock"], sold["available"]) == (0, False)


async def test_the_rate_is_that_of_the_offer_that_would_win_now(doors: PanelDoors) -> None:
    """With real charges that taught another price, too."""
    await doors.change("1", "hstock", charged_rate_units=Money.parse("2.00", "EUR").units, minimum=300)
    row = (await doors.panel("services"))[0]
    assert (row["rate"], row["min"]) == ("0.90", "10")


async def test_inventory_is_one_services_stock(doors: PanelDoors) -> None:
    assert await doors.panel("inventory", key=STOCK, service=2) == {
        "service": 2,
        "stock": 7,
        "available": True,
        "entityType": "product",
        "autoDelivery": True,
    }
    for service, words in (
        ("", "Service ID is required"),
        ("7", "Service not found"),
        ("3", "Service not found"),
        ("8", "Service not found"),
        ("gmail-usa", "Service not found"),
        ("9" * 30, "Service not found"),
        ("-2", "Service not found"),
    ):
        assert await doors.panel("inventory", key=STOCK, service=service) == {"error": words}, service
    assert await doors.panel("inventory", service="") == {"error": "Incorrect service ID"}


async def test_the_balance_is_what_all_providers_hold(doors: PanelDoors, clock: ManualClock) -> None:
    assert await doors.panel("balance") == {"balance": "0.00", "currency": "USD"}

    def read(connection: Connection) -> None:
        for name, amount, currency in (("smmplus", "100.84292", "USD"), ("hstock", "10.00", "EUR")):
            units = Money.parse(amount, currency).units
            catalogue.set_health(connection, name, clock.now(), balance_units=units, balance_currency=currency)

    await doors.house.database.write(read)
    # 10.00 EUR are 11.00 USD.
    assert await doors.panel("balance", key=STOCK) == {"balance": "111.84292", "currency": "USD"}
    await doors.write(catalogue.set_health, "hstock", clock.now(), balance_currency="XYZ")
    assert (await doors.panel("balance"))["balance"] == "100.84292"


async def test_projects_are_our_services_of_numbers(doors: PanelDoors) -> None:
    for key in (SMM, STOCK):
        assert await doors.panel("sms_projects", key=key) == [
            {
                "project_id": "3",
                "name": "service 65f0aa",
                "price": "0.2200",
                "country_id": "us",
                "country_title": "Codes",
            }
        ]
    assert await doors.panel("sms_projects", key=STOCK, country="US") != []
    assert await doors.panel("sms_projects", key=STOCK, country="gb") == []
    assert await doors.panel("sms_countries", key=STOCK) == [{"country_code": "us", "country_name": "Codes"}]


async def test_an_offer_without_a_country_rents_in_all_of_its_projects(
    database: Any, clock: ManualClock, tmp_path: Any
) -> None:
    config = CONFIG.replace(", country: us}], panel_id: 3", "}], panel_id: 3")
    async with opened_panel(database, clock, tmp_path, config) as doors:
        gb = a_row("65f0aa", "0.30", "EUR", kind="sms", category="United Kingdom", country="gb", minimum=1, maximum=1)
        await doors.house.database.write(lambda c: catalogue.insert_rows(c, "hstock", [gb], "EUR", clock.now()))
        listed = await doors.panel("sms_projects", key=STOCK)
        assert [(row["country_id"], row["price"]) for row in listed] == [("us", "0.2200"), ("gb", "0.3300")]


async def test_what_nobody_has_in_stock_is_refused_before_it_is_taken(doors: PanelDoors) -> None:
    await doors.change("3", "hstock", stock=2)
    assert await doors.panel("add", key=STOCK, service=2, quantity=3) == {"error": "Out of stock"}
    assert await doors.stored() == 0
    assert "order" in await doors.panel("add", key=STOCK, service=2, quantity=2)
    await doors.change("3", "hstock", stock=None)
    assert "order" in await doors.panel("add", key=STOCK, service=2, quantity=3)


async def test_what_was_taken_under_a_key_is_told_again_although_the_stock_is_gone(doors: PanelDoors) -> None:
    """Else the caller would believe in a refusal, and buy elsewhere what was bought already."""
    first = await doors.panel("add", key=STOCK, service=2, quantity=7, idempotency="k-1")
    await doors.change("3", "hstock", stock=0)
    assert await doors.panel("add", key=STOCK, service=2, quantity=7, idempotency="k-1") == first
    assert await doors.panel("add", key=STOCK, service=2, quantity=7) == {"error": "Out of stock"}
