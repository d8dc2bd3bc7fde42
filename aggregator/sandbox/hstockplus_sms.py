"""The SMS actions of hstockplus.txt. Decides the shape of their answers, not which number gets which code.

Bare arrays on success, an object with `error` on refusal, as the document and its users report.
"""

from __future__ import annotations

from decimal import Decimal

from .account import Account
from .ledger import Call
from .money import shown
from .refusals import Reason, Refusal
from .renting import find_number, rent
from .service_types import whole
from .world import World

MAX_NUMBERS = 10
PRICE_DIGITS = 4
_MESSAGES = {"expired": "Number has expired", "cancel": "Number was canceled"}


def sms_projects(world: World, account: Account, call: Call) -> object:
    """`[{"project_id": "65f…", "name": "…", "price": "0.5000", "country_id": "us", "country_title": "…"}]`"""
    country = call.params.get("country", "").strip()
    return [
        {
            "project_id": row.project_id,
            "name": row.name,
            "price": row.price,
            "country_id": row.country_id,
            "country_title": row.country_title,
        }
        for row in account.projects
        if country in ("", row.country_id)
    ]


def sms_countries(world: World, account: Account, call: Call) -> object:
    """`[{"country_code": "us", "country_name": "United States"}]`"""
    names = {row.country_id: row.country_title for row in account.projects}
    return [{"country_code": code, "country_name": name} for code, name in names.items()]


def add_sms(world: World, account: Account, call: Call) -> object:
    """`{"orders": [{"order": 12345, "phone": "+1234567890", "country": "us", "status": "active"}]}`"""
    project, country = call.params.get("project_id", "").strip(), call.params.get("country", "").strip()
    if not project:
        raise Refusal(Reason.PARAMETER, "project_id")
    quantity = whole(call.params, "quantity", 1, MAX_NUMBERS) if call.params.get("quantity") else 1
    numbers = rent(account, project, country, quantity, call.params.get("phone", "").strip(), world.now())
    world.rented(call, numbers, sum((number.charge for number in numbers), Decimal(0)))
    return {
        "orders": [
            {"order": int(number.id), "phone": number.phone, "country": number.project.country_id, "status": "active"}
            for number in numbers
        ]
    }


def sms_code(world: World, account: Account, call: Call) -> object:
    """`{"status": "completed", "code": "123456", "sms_content": "…"}` or `{"status": "waiting", "message": "…"}`."""
    view = find_number(account, call.params.get("order", "")).view(world.now())
    if view.latest is not None:
        return {"status": "completed", "code": view.latest.code, "sms_content": view.latest.text}
    if view.status == "active":
        return {"status": "waiting", "message": "Waiting for code"}
    return {"status": view.status, "message": _MESSAGES[view.status]}


def sms_status(world: World, account: Account, call: Call) -> object:
    """`{"status": "code_received", "phone", "code", "charge": "0.5000", "currency": "USD", "expires_at": "…Z"}`

    Before a code the status is `active`, as in add_sms, and the code null.
    """
    number = find_number(account, call.params.get("order", ""))
    view = number.view(world.now())
    return {
        "status": view.status,
        "phone": number.phone,
        "code": None if view.latest is None else view.latest.code,
        "charge": shown(view.charge, PRICE_DIGITS),
        "currency": account.settings.currency,
        "expires_at": world.timeline.date(number.ends_at),
    }
