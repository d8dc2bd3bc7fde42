"""HStockPlus as hstockplus.txt documents it: panel services, account products with stock, and rented SMS numbers.

Decides what became of a rental, what a number received, and which accounts a product order delivered. It documents no
batched status, refill or cancel; its rows say `"refill": true` all the same, so ask the capability, not the flag.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from aggregator.domain.catalogue import SMS_NUMBERS, CatalogueRow, Kind
from aggregator.domain.clock import require_utc
from aggregator.domain.numbers import Message, NumberReport, NumberState
from aggregator.domain.orders import OrderState
from aggregator.domain.wire import HttpReply, HttpRequest
from aggregator.providers import words
from aggregator.providers.contract import (
    AddSmsRequest,
    Capabilities,
    CataloguePage,
    Category,
    Consequence,
    Country,
    Failure,
    FailureKind,
    Inventory,
    Meaning,
    NumberStatus,
    Placed,
    PlacedNumber,
    PurchaseResult,
    Unclear,
)
from aggregator.providers.envelope import Opened, said
from aggregator.providers.panel import PanelDialect
from aggregator.providers.reading import (
    absent,
    as_object,
    count,
    currency,
    flag,
    identifier,
    money,
    plain,
    price,
    storable,
    whole,
)

MAX_NUMBERS: Final = 10
"""hstockplus.txt, add_sms: "Number of numbers (1-10)"."""

_MAX_CODE: Final = 64
_MAX_SMS: Final = 2000
_MAX_CODES: Final = 100
_CODES: Final = ("code", "value", "otp", "number")
_TEXTS: Final = ("sms_content", "text", "content", "sms", "message")
"""Where an object in a code's place has been given its parts."""
_ARRIVALS: Final = ("code_received_at", "sms_received_at", "received_at")
_IN_TEXT: Final = re.compile(r"(?<![0-9])[0-9]{4,8}(?![0-9])")
_OWN_STATES: Final[Mapping[OrderState, NumberState]] = {
    OrderState.PENDING: NumberState.WAITING,
    OrderState.PROCESSING: NumberState.WAITING,
    OrderState.IN_PROGRESS: NumberState.WAITING,
    OrderState.COMPLETED: NumberState.RECEIVED,
    OrderState.CANCELED: NumberState.CANCELED,
    OrderState.FAILED: NumberState.CANCELED,
}
"""What an operator's reading of a status word says of a number; of a partial one there is none."""
_SECONDS: Final = (10**9, 10**10)
"""Unix seconds from 2001 to 2286; a thousand times more is milliseconds, anything else no instant."""
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
        return replace(row, stock=count(item.get("stock")), has_stock=True, auto_delivery=auto is not False)

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
        # PHP writes an array with holes as an object of numbered keys; another object is one account.
        entries: Sequence[object] = value if isinstance(value, list) else []
        if isinstance(value, str):
            entries = value.splitlines()
        elif isinstance(value, dict) and value:
            numbered = all(key.isascii() and key.isdecimal() for key in value)
            entries = [value[key] for key in sorted(value, key=lambda key: (len(key), key))] if numbered else [value]
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
        rate = price(item.get("price"), self.account.currency)
        sold = rate is not None and rate.units > 0
        problem = None if sold else f"the price {self.text(item.get('price'), 40)!r} is no amount above 0"
        return CatalogueRow(
            service=ids[0],
            name=self.text(item.get("name")),
            kind="sms",
            type=SMS_NUMBERS.name,
            category=self.text(item.get("country_title")),
            rate=rate,
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
        rented: list[Mapping[str, object]] = []
        for one in items:
            for order in self.receipts([one.get("order")]):
                rented.append(one)
                known = numbers.get(order)
                number = PlacedNumber(order, self.text(one.get("phone")), self.text(one.get("country")))
                if known is not None and not _one_phone(known.phone, number.phone):
                    return self.envelope.unclear("contradiction", reply)
                if known is None or not known.phone:
                    numbers[order] = number
        bare = self._bare_ids(opened)
        if bare is None or (bare and numbers):
            return self.envelope.unclear("contradiction" if numbers else "no_id", reply)
        numbers.update((order, PlacedNumber(order)) for order in bare)
        if not numbers:
            return self.envelope.not_placed(opened, said((*opened.objects, *items)))
        missing = [one for one in items if one not in rented]
        if self._denied(opened, (*opened.objects, *rented), missing, [one.phone for one in numbers.values()]):
            return self.envelope.unclear("contradiction", reply)
        return Placed(next(iter(numbers)), tuple(numbers.values()))

    def _bare_ids(self, opened: Opened) -> tuple[str, ...] | None:
        """The ids of `{"orders": ["5010", 5011]}`; None where only some of such a list read as ids."""
        holders = [one.get("orders") for one in opened.objects]
        lists = [holder for holder in holders if isinstance(holder, list)]
        found = [item for holder in lists for item in holder if isinstance(item, str | int)]
        # A word may have the form of an id; one with a digit in it is no word.
        ids = [one for item in found for one in self.receipts([item]) if any(map(str.isdigit, one))]
        if ids and len(ids) != sum(len(holder) for holder in lists):
            return None
        return tuple(dict.fromkeys(ids))

    def _denied(
        self,
        opened: Opened,
        heard: Sequence[Mapping[str, object]],
        missing: Sequence[Mapping[str, object]],
        phones: Sequence[str],
    ) -> bool:
        """Whether an answer with ids says that nothing was rented.

        Beside ids with phones, as documented, an error in the place of another number, or a word about the stock,
        only says why there are fewer.
        """
        spoken = said(heard)
        if not all(phones):
            return self.envelope.contradicts(opened, said((*heard, *missing)))
        own = self.envelope.own_consequence(spoken.hints)
        meant = {self.envelope.meaning([hint])[0] for hint in spoken.hints}
        doubted = own is not None and own[0] is Consequence.UNCLEAR
        return not opened.accepted or spoken.failed or doubted or not meant <= {Meaning.GENERIC, Meaning.STOCK}

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
            state = self._number_state(word)
            text = None if absent(one.get("sms_content")) else self.text(one.get("sms_content"), _MAX_SMS) or None
            messages = self._messages(one)
            code = messages[-1].code if messages else None
            if not messages and text and state is NumberState.RECEIVED:
                code = _code_in(text)  # {"status": "completed", "code": "", "sms_content": "Your code is 445566"}
            report = NumberReport(
                state=state,
                phone=None if absent(one.get("phone")) else self.text(one.get("phone")) or None,
                code=code or None,
                text=text or (messages[-1].text or None if messages else None),
                charge=charge if charge is not None and charge.units >= 0 else None,
                expires_at=_instant(one.get("expires_at")),
                code_at=next((at for at in map(_instant, map(one.get, _ARRIVALS)) if at is not None), None),
                messages=messages if len(messages) > 1 else (),
            )
            return NumberStatus(self.envelope.clean(word), report)
        return self.envelope.no_answer(opened, "status of the number")

    def _number_state(self, word: str) -> NumberState | None:
        """The table's reading, whose words are the numbers' own; else the operator's of that word."""
        own = self.envelope.own_order_state(word)
        return words.NUMBER_STATES.get(words.word(word)) or (_OWN_STATES.get(own) if own is not None else None)

    def _messages(self, one: Mapping[str, object]) -> tuple[Message, ...]:
        """The codes of an answer: `"code": "1234"` as documented, an object or a list in its place, or `codes`."""
        values: list[object] = []
        for value in (one.get("codes"), one.get("code")):
            if isinstance(value, list):
                values = values or value[:_MAX_CODES]
            elif not values and not absent(value):
                values = [value]
        read = (self._message(value, one.get("sms_content")) for value in values)
        return tuple(message for message in read if message is not None)

    def _message(self, value: object, content: object) -> Message | None:
        text = ""
        if isinstance(value, dict):
            text = next((said for said in (self.text(value.get(name), _MAX_SMS) for name in _TEXTS) if said), "")
            value = next((value[name] for name in _CODES if not absent(value.get(name))), _code_in(text) or None)
        code = self._code(value)
        if code is None:
            return Message("", text) if text else None
        if isinstance(value, int | Decimal):
            # A number has lost its leading zeros; the text still has them.
            whole_one = _code_in(text or plain(content))
            code = whole_one if whole_one.lstrip("0") == code else code
        return Message(code, text)

    def _code(self, value: object) -> str | None:
        if absent(value):
            return None
        code = self.text(value, _MAX_SMS)
        return code if 0 < len(code) <= _MAX_CODE and code.isprintable() else None


def _code_in(text: str) -> str:
    """The code in a message's text, where it can be only one; else `""`."""
    found = _IN_TEXT.findall(text)
    return str(found[0]) if len(found) == 1 else ""


def _one_phone(known: str, named: str) -> bool:
    """Whether two phones under one id are the same; a bare national number is the end of the whole one."""
    one, other = (re.sub(r"\D", "", phone) for phone in (known, named))
    return one.endswith(other) or other.endswith(one)


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
    """An instant as text, without a zone taken as UTC, or in Unix seconds or milliseconds."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    text = str(value).strip()
    try:
        if re.fullmatch(r"[0-9]{1,16}(?:\.[0-9]{1,9})?", text):
            moment = float(text)
            seconds = moment / 1000 if moment >= 1000 * _SECONDS[0] else moment
            return datetime.fromtimestamp(seconds, UTC) if _SECONDS[0] <= seconds < _SECONDS[1] else None
        found = datetime.fromisoformat(text.replace("z", "Z"))
        if found.tzinfo is None:
            # A date alone names no instant of its day.
            return found.replace(tzinfo=UTC) if ":" in text else None
        return require_utc(found)
    except (ValueError, OverflowError):
        return None
