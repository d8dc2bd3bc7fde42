"""HStockPlus as hstockplus.txt documents it: panel services, account products with stock, and rented SMS numbers.

Decides what became of a rental, what a number received, and which accounts a product order delivered. It documents no
batched status, refill or cancel; its rows say `"refill": true` all the same, so ask the capability, not the flag.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from aggregator.domain.catalogue import SMS_NUMBERS, CatalogueRow, Kind
from aggregator.domain.clock import parse_rfc3339
from aggregator.domain.numbers import NumberReport
from aggregator.domain.wire import HttpReply, HttpRequest
from aggregator.providers import words
from aggregator.providers.contract import (
    AddSmsRequest,
    Capabilities,
    CataloguePage,
    Category,
    Country,
    Failure,
    FailureKind,
    Inventory,
    NumberStatus,
    Placed,
    PlacedNumber,
    PurchaseResult,
    Unclear,
)
from aggregator.providers.envelope import Opened, said
from aggregator.providers.panel import PanelDialect
from aggregator.providers.reading import absent, as_object, currency, flag, identifier, money, plain, storable, whole

MAX_NUMBERS: Final = 10
"""hstockplus.txt, add_sms: "Number of numbers (1-10)"."""

_MAX_CODE: Final = 64
_MAX_SMS: Final = 2000
_KINDS: Final[Mapping[str, Kind]] = {"product": "product", "smm": "smm"}


class HStockPlus(PanelDialect):
    """hstockplus.txt."""

    name = "hstockplus"
    capabilities = Capabilities(
        kinds=frozenset({"smm", "product", "sms"}),
        inventory=True,
        paged_catalogue=True,
        categories=True,
        accounts=True,
        sms=True,
    )

    # --- catalogue ---

    def build_services(
        self, page: int = 1, limit: int = 0, category: str | None = None, subcategory: str | None = None
    ) -> HttpRequest:
        """`page` is sent only with a limit: "Used when limit > 0"."""
        return self.ask(
            "services",
            ("page", page if limit > 0 else None),
            ("limit", limit if limit > 0 else None),
            ("category", category or None),
            ("subcategory", subcategory or None),
        )

    def catalogue_row(self, item: object) -> CatalogueRow | None:
        # {"service": 2, "name": "Gmail Account - USA", "type": "Default", "category": "Accounts-Email",
        #  "rate": "25.00", "min": 1, "max": 50, "refill": false, "cancel": false, "stock": 50,
        #  "entityType": "product", "autoDelivery": true}
        row = super().catalogue_row(item)
        if row is None or not isinstance(item, dict):
            return None
        auto = flag(item.get("autoDelivery"))
        return replace(row, stock=whole(item.get("stock")), has_stock=True, auto_delivery=auto is not False)

    def row_kind(self, item: Mapping[str, object]) -> Kind:
        return _KINDS.get(words.word(plain(item.get("entityType"))), "smm")

    def build_categories(self) -> HttpRequest:
        return self.ask("categories")

    def read_categories(self, reply: HttpReply) -> tuple[Category, ...] | Failure:
        # {"categories": [{"category": "Instagram", "subcategories": ["Followers", "Comments", "Likes"]}]}
        found = self.listed(reply, "categories")
        if isinstance(found, Failure):
            return found
        categories = []
        for item in found[1]:
            name = self.text(item.get("category") if isinstance(item, dict) else item)
            inner = item.get("subcategories") if isinstance(item, dict) else None
            subcategories = [self.text(one) for one in inner] if isinstance(inner, list) else []
            if name:
                categories.append(Category(name, tuple(one for one in subcategories if one)))
        return tuple(categories)

    def build_inventory(self, service: str) -> HttpRequest:
        return self.ask("inventory", ("service", service))

    def read_inventory(self, reply: HttpReply, service: str) -> Inventory | Failure:
        # {"service": 23501, "stock": 42, "available": true, "entityType": "product", "autoDelivery": true}
        opened = self.envelope.open_answer(reply)
        if isinstance(opened, Failure):
            return opened
        complaint = self.envelope.complaint(opened)
        if complaint is not None:
            return complaint
        for one in reversed(opened.objects):
            if "stock" not in one and "available" not in one:
                continue
            if identifier(one.get("service")) not in (None, service):
                return Failure(FailureKind.UNREADABLE, "the answer is about another service")
            return Inventory(service, whole(one.get("stock")), flag(one.get("available")))
        return self.envelope.no_answer(opened, "stock")

    # --- delivered accounts ---

    def accounts(self, value: object) -> tuple[str, ...]:
        # {"status": "Completed", …, "entityType": "product", "accounts": ["user1:pass1", "user2:pass2"]}
        # One string per account, as it is: the formats differ, and what is handed over must be what was bought. An
        # entry that is no string is kept as JSON rather than lost.
        if isinstance(value, str):
            value = value.splitlines()
        entries = value if isinstance(value, list) else []
        written = (
            one if isinstance(one, str) else json.dumps(one, ensure_ascii=False, default=str)
            for one in entries
            if one is not None
        )
        return tuple(account for account in (storable(one).strip("\r\n") for one in written) if account.strip())

    # --- SMS: what there is ---

    def build_sms_projects(self, country: str | None = None) -> HttpRequest:
        return self.ask("sms_projects", ("country", country or None))

    def read_sms_projects(self, reply: HttpReply) -> CataloguePage | Failure:
        # [{"project_id": "65f...", "name": "OpenAI / ChatGPT", "price": "0.5000", "country_id": "us",
        #   "country_title": "United States"}] — the same project several times at different prices, each kept.
        found = self.listed(reply, "projects")
        if isinstance(found, Failure):
            return found
        read = [self._project(item) for item in found[1]]
        kept = tuple(row for row in read if row is not None)
        return CataloguePage(kept, len(read) - len(kept))

    def _project(self, item: object) -> CatalogueRow | None:
        ids = self.ids([item.get("project_id")]) if isinstance(item, dict) else ()
        if not isinstance(item, dict) or not ids:
            return None
        price = money(item.get("price"), self.account.currency)
        sold = price is not None and price.units > 0
        problem = None if sold else f"the price {self.text(item.get('price'), 40)!r} is no amount above 0"
        return CatalogueRow(
            service=ids[0],
            name=self.text(item.get("name")),
            kind="sms",
            type=SMS_NUMBERS.name,
            category=self.text(item.get("country_title")),
            rate=price,
            minimum=1,
            maximum=MAX_NUMBERS,
            refill=False,
            cancel=False,
            country=self.text(item.get("country_id")),
            problem=problem,
            raw=self.raw(item),
        )

    def build_sms_countries(self) -> HttpRequest:
        return self.ask("sms_countries")

    def read_sms_countries(self, reply: HttpReply) -> tuple[Country, ...] | Failure:
        # [{"country_code": "us", "country_name": "United States"}]; a dial code "+93" has been seen as the code.
        found = self.listed(reply, "countries")
        if isinstance(found, Failure):
            return found
        items = (item for item in found[1] if isinstance(item, dict))
        countries = (Country(self.text(one.get("country_code")), self.text(one.get("country_name"))) for one in items)
        return tuple(country for country in countries if country.code)

    # --- SMS: renting ---

    def build_add_sms(self, request: AddSmsRequest) -> HttpRequest:
        if not 1 <= request.quantity <= MAX_NUMBERS:
            raise ValueError(f"add_sms rents 1 to {MAX_NUMBERS} numbers, got {request.quantity}")
        return self.ask(
            "add_sms",
            ("project_id", request.project),
            ("quantity", request.quantity),
            ("country", request.country or None),
            ("phone", request.phone or None),
            idempotency_key=request.idempotency_key,
        )

    def read_add_sms(self, reply: HttpReply) -> PurchaseResult:
        # {"orders": [{"order": 12345, "phone": "+1234567890", "country": "us", "status": "active"}]}
        # Fewer than asked for may come back; one without a phone is rented all the same.
        opened = self.envelope.open_action(reply)
        if isinstance(opened, Unclear):
            return opened
        items = tuple(_rented(opened))
        numbers: dict[str, PlacedNumber] = {}
        for one in items:
            for order in self.ids([one.get("order")]):
                known = numbers.get(order)
                if known is None or not known.phone:
                    numbers[order] = PlacedNumber(order, self.text(one.get("phone")), self.text(one.get("country")))
        spoken = said((*opened.objects, *items))
        if not numbers:
            return self.envelope.not_placed(opened, spoken)
        if self.envelope.contradicts(opened, spoken):
            return self.envelope.unclear("contradiction", reply)
        return Placed(next(iter(numbers)), tuple(numbers.values()))

    # --- SMS: codes ---

    def build_sms_code(self, order: str) -> HttpRequest:
        return self.ask("sms_code", ("order", order))

    def read_sms_code(self, reply: HttpReply) -> NumberStatus | Failure:
        # {"status": "completed", "code": "123456", "sms_content": "Your verification code is 123456"}
        # {"status": "waiting", "message": "Waiting for code"}
        return self._number(reply)

    def build_sms_status(self, order: str) -> HttpRequest:
        return self.ask("sms_status", ("order", order))

    def read_sms_status(self, reply: HttpReply) -> NumberStatus | Failure:
        # {"status": "code_received", "phone": "+1234567890", "code": "123456", "charge": "0.5000", "currency": "USD",
        #  "expires_at": "2023-01-01T12:00:00.000Z"}
        return self._number(reply)

    def _number(self, reply: HttpReply) -> NumberStatus | Failure:
        opened = self.envelope.open_answer(reply)
        if isinstance(opened, Failure):
            return opened
        complaint = self.envelope.complaint(opened, own=["code"])
        if complaint is not None:
            return complaint
        for one in reversed(opened.objects):
            word = plain(one.get("status"))
            if not word or isinstance(one.get("data"), dict):
                continue
            named = currency(one.get("currency"), self.account.currency)
            charge = money(one.get("charge"), named) if named is not None else None
            report = NumberReport(
                state=words.NUMBER_STATES.get(words.word(word)),
                phone=None if absent(one.get("phone")) else self.text(one.get("phone")) or None,
                code=self._code(one.get("code")),
                text=None if absent(one.get("sms_content")) else self.text(one.get("sms_content"), _MAX_SMS) or None,
                charge=charge if charge is not None and charge.units >= 0 else None,
                expires_at=_instant(one.get("expires_at")),
            )
            return NumberStatus(self.envelope.clean(word), report)
        return self.envelope.no_answer(opened, "status of the number")

    def _code(self, value: object) -> str | None:
        if absent(value):
            return None
        code = self.text(value, _MAX_SMS)
        return code if 0 < len(code) <= _MAX_CODE and code.isprintable() else None


def _rented(opened: Opened) -> Iterator[Mapping[str, object]]:
    """The rented numbers of an answer: under `orders`, as a bare array, or a single one as `add` answers."""
    found = False
    holders = [opened.document] if isinstance(opened.document, list) else [one.get("orders") for one in opened.objects]
    for holder in holders:
        for item in holder if isinstance(holder, list) else ():
            if isinstance(item, dict) and "orders" not in item and "data" not in item:
                found = True
                yield item
    if not found:
        yield from (one for one in opened.objects if as_object(one) is not None and "order" in one)


def _instant(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        return parse_rfc3339(value)
    except (ValueError, OverflowError):
        return None
