"""Renting SMS numbers. Decides which numbers an `add_sms` gets and what they cost; never answers anybody.

Fewer numbers than asked come back when the project runs out, and only those are charged.
"""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal

from .account import Account
from .catalogue import SmsProject
from .numbers import Number, course
from .refusals import Reason, Refusal


def rent(account: Account, project_id: str, country: str, quantity: int, phone: str, now: float) -> list[Number]:
    """Rent up to `quantity` numbers of a project, the cheapest row with stock first."""
    rows = [row for row in account.projects if row.project_id == project_id and country in ("", row.country_id)]
    if not rows:
        raise Refusal(Reason.SERVICE)
    if phone and (quantity != 1 or all(number.phone != phone for number in account.numbers.values())):
        raise Refusal(Reason.PHONE)
    picked: list[SmsProject] = []
    for row in sorted(rows, key=lambda row: Decimal(row.price)):
        picked += [row] * min(row.stock, quantity - len(picked))
    if not picked:
        raise Refusal(Reason.STOCK_OUT)
    if sum(Decimal(row.price) for row in picked) > account.balance_at(now):
        raise Refusal(Reason.FUNDS)
    for index, row in enumerate(account.projects):
        account.projects[index] = replace(row, stock=row.stock - picked.count(row))
    return [_rent_one(account, row, phone, now) for row in picked]


def _rent_one(account: Account, row: SmsProject, phone: str, now: float) -> Number:
    ordinal, order_id, rng = account.next()
    codes, ends_at, canceled_at = course(row.behaviour, now, rng)
    number = Number(
        ordinal, order_id, row, phone or _phone(row, rng), Decimal(row.price), now, codes, ends_at, canceled_at
    )
    account.rent(number)
    return number


def _phone(row: SmsProject, rng: random.Random) -> str:
    return f"{row.phone_prefix}{rng.randrange(10_000_000):07d}"


def find_number(account: Account, order_id: str) -> Number:
    """A rented number by its order id, or a refusal."""
    found = account.numbers.get(order_id.strip())
    if found is None:
        raise Refusal(Reason.ORDER)
    return found
