"""The panel protocol that all dialects share: forms out; services, orders, statuses and balances in.

Decides how a documented action is asked for and read; a dialect adds its own actions and says what it can. Actions
that a dialect does not document raise UnsupportedAction where they are built; their reads say that nothing was learnt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from aggregator.domain.catalogue import LINE_LISTS, CatalogueRow, Kind, lines
from aggregator.domain.money import Money
from aggregator.domain.parameters import MAX_QUANTITY
from aggregator.domain.wire import HttpReply, HttpRequest
from aggregator.providers import words
from aggregator.providers.contract import (
    MAX_BATCH,
    Account,
    AddRequest,
    AddSmsRequest,
    BatchForm,
    CancelResult,
    Capabilities,
    CataloguePage,
    Category,
    Country,
    Failure,
    FailureKind,
    Inventory,
    NumberStatus,
    Placed,
    PurchaseResult,
    RefillReport,
    RefillResult,
    StatusBatch,
    StatusReport,
    Unclear,
)
from aggregator.providers.envelope import Envelope, Opened, said
from aggregator.providers.reading import (
    absent,
    count,
    currency,
    flag,
    granted,
    granted_days,
    identifier,
    money,
    plain,
    price,
    receipt,
    rows,
    whole,
)

_LONG_TEXT: Final = 4000
_PAGES: Final = ("total_pages", "pages", "last_page", "page_count", "totalPages", "lastPage")
_TOTAL: Final = ("total", "total_count", "total_services", "count")
_LIMIT: Final = ("limit", "per_page", "perPage")
_PAGE: Final = ("page", "current_page", "currentPage")
_PAGING_PARTS: Final = ("data", "meta", "pagination")
"""The names under which panels state how many pages and rows their catalogue has, and how many come at once."""
_UNSUPPORTED: Final = Failure(FailureKind.UNSUPPORTED, "this dialect does not document the action")


class UnsupportedAction(Exception):
    """The dialect does not document this action; whoever built it did not ask `capabilities`."""


class PanelDialect:
    """One provider account speaking the panel protocol. A dialect derives from it, sets `name` and `capabilities`."""

    name: str
    capabilities: Capabilities

    def __init__(self, account: Account) -> None:
        self.account = account
        self.envelope = Envelope(account)

    # --- forms ---

    def ask(self, action: str, *fields: tuple[str, object | None], idempotency_key: str | None = None) -> HttpRequest:
        """One form: the key, the action, then the fields that are set."""
        form = [("key", self.account.api_key), ("action", action)]
        form += [(name, str(value)) for name, value in fields if value is not None]
        headers = (("Idempotency-Key", idempotency_key),) if idempotency_key else ()
        return HttpRequest(self.account.url, tuple(form), headers)

    def joined(self, ids: Sequence[str]) -> str:
        """Both documents: "separated by a comma, up to 100 IDs"."""
        if not 1 <= len(ids) <= MAX_BATCH:
            raise ValueError(f"a batch holds 1 to {MAX_BATCH} ids, got {len(ids)}")
        return ",".join(ids)

    # --- services ---

    def build_services(
        self, page: int = 1, limit: int = 0, category: str | None = None, subcategory: str | None = None
    ) -> HttpRequest:
        """`page` is not documented, so it is sent only where an answer has said that there are more of them."""
        return self.ask("services", ("page", page if page > 1 else None))

    def read_services(self, reply: HttpReply) -> CataloguePage | Failure:
        # [{"service":1,"name":"Followers","type":"Default","category":"First Category","rate":"0.90","min":"50",
        #   "max":"10000","refill":true,"cancel":true}]
        found = self.listed(reply, "services")
        if isinstance(found, Failure):
            return found
        opened, items = found
        read = [self.catalogue_row(item) for item in items]
        page, pages, total = _paging(opened.document, len(read))
        kept = tuple(row for row in read if row is not None)
        return CataloguePage(kept, len(read) - len(kept), page, pages, total)

    def listed(self, reply: HttpReply, *names: str) -> tuple[Opened, Sequence[object]] | Failure:
        """The list that answers a question, bare or under one of `names`."""
        opened = self.envelope.open_answer(reply)
        if isinstance(opened, Failure):
            return opened
        items = rows(opened.document, *names)
        complaint = self.envelope.complaint(opened)
        if complaint is not None:
            return complaint
        if items is None:
            return self.envelope.no_answer(opened, f"list of {names[0]}")
        return opened, items

    def catalogue_row(self, item: object) -> CatalogueRow | None:
        """One row, with `problem` where it cannot be bought; None when it has no usable id."""
        if not isinstance(item, dict):
            return None
        ids = self.ids([item.get("service")])
        if not ids:
            return None
        rate = price(item.get("rate"), self.account.currency)
        # No least is one piece. No most is none that anybody knows of: the provider refuses what is too much for it.
        minimum = 1 if absent(item.get("min")) else count(item.get("min"))
        maximum = MAX_QUANTITY if absent(item.get("max")) else count(item.get("max"))
        return CatalogueRow(
            service=ids[0],
            name=self.text(item.get("name")),
            kind=self.row_kind(item),
            type=self.text(item.get("type")) or "Default",
            category=self.text(item.get("category")),
            rate=rate,
            minimum=1 if minimum is None else minimum,
            maximum=0 if maximum is None else maximum,
            refill=granted_days(item.get("refill")),
            cancel=granted(item.get("cancel")),
            subcategory=self.text(item.get("subcategory")),
            description=self.text(item.get("description")) or self.text(item.get("desc")),
            problem=self._problem(item, rate, minimum, maximum),
            raw=self.raw(item),
        )

    def _problem(
        self, item: Mapping[str, object], rate: Money | None, minimum: int | None, maximum: int | None
    ) -> str | None:
        """Why nobody should buy this row. Prices such as 120481927710.83 are real mistakes, and 0 is no bargain."""
        stated = {name: repr(self.text(item.get(name), 40)) for name in ("rate", "min", "max")}
        problems = (
            (rate is None, f"the rate {stated['rate']} is no amount that can be stored"),
            (rate is not None and rate.units <= 0, f"the rate {stated['rate']} is not above 0"),
            (minimum is None, f"min {stated['min']} is no number"),
            (maximum is None, f"max {stated['max']} is no number"),
            (max(minimum or 0, 1) > (maximum or 0), f"min {stated['min']} and max {stated['max']} leave no quantity"),
        )
        return next((problem for found, problem in problems if found), None)

    def row_kind(self, item: Mapping[str, object]) -> Kind:
        return "smm"

    def text(self, value: object, limit: int = _LONG_TEXT) -> str:
        """A provider's text as it may be kept."""
        return self.envelope.clean(plain(value), limit)

    def raw(self, item: Mapping[str, object]) -> str:
        """The row as it came, for the page that shows why it was quarantined."""
        return self.envelope.clean(json.dumps(item, ensure_ascii=False, default=str), _LONG_TEXT)

    # --- add ---

    def build_add(self, request: AddRequest) -> HttpRequest:
        link = request.link if request.type.needs_link or request.kind == "product" else None
        if request.kind == "product" and not link:
            link = self.account.default_link
        fields: list[tuple[str, object | None]] = [("service", request.service), ("link", link or None)]
        if request.type.sends_quantity:
            fields.append(("quantity", request.quantity))
        for name in (*request.type.required, *request.type.optional):
            value = request.params.get(name, "")
            # Servers split lists at "\n"; those that expect "\r\n" cut at "\n" and trim, others would keep the "\r".
            written = "\n".join(lines(value)) if name in LINE_LISTS else value.strip()
            fields.append((name, written or None))
        return self.ask("add", *fields, idempotency_key=request.idempotency_key)

    def read_add(self, reply: HttpReply) -> PurchaseResult:
        # {"order": 23501} · {"order": "23501"} · {"status": "success", "order": 23501}
        opened = self.envelope.open_action(reply)
        if isinstance(opened, Unclear):
            return opened
        spoken = said(opened.objects)
        ids = self.receipts(one.get("order") for one in opened.objects)
        if not ids:
            return self.envelope.not_placed(opened, spoken)
        if len(ids) > 1 or self.envelope.contradicts(opened, spoken):
            return self.envelope.unclear("contradiction", reply)
        return Placed(ids[0])

    def ids(self, values: Iterable[object]) -> tuple[str, ...]:
        """The distinct ids among `values`, in their order. What holds the API key is none: ids are shown."""
        found = (identifier(value) for value in values)
        return tuple(dict.fromkeys(one for one in found if one is not None and self.envelope.clean.without(one) == one))

    def receipts(self, values: Iterable[object]) -> tuple[str, ...]:
        """The distinct ids of what a provider took; a word in an id's place is none."""
        return self.ids(receipt(value) for value in values)

    # --- status ---

    def build_status(self, order: str) -> HttpRequest:
        return self.ask("status", ("order", order))

    def read_status(self, reply: HttpReply, order: str) -> StatusReport | Failure:
        # {"charge":"0.27819","start_count":"3572","status":"Partial","remains":"157","currency":"USD"}
        opened = self.envelope.open_answer(reply)
        if isinstance(opened, Failure):
            return opened
        keyed = [one[order] for one in opened.objects if isinstance(one.get(order), dict)]
        for one in (*keyed, *reversed(opened.objects)):
            report = self.report(one, reply, by_id=any(one is found for found in keyed))
            if isinstance(report, Failure):
                return report
            if report is not None and self.about(one, "order", order):
                return report
            if report is not None:
                return Failure(FailureKind.UNREADABLE, "the answer is about another order")
        return self.envelope.complaint(opened) or self.envelope.no_answer(opened, "status")

    def about(self, one: object, name: str, asked: str) -> bool:
        """Whether an object that may name its id under `name` is about the one asked for."""
        return self.ids([one.get(name)] if isinstance(one, dict) else ()) in ((), (asked,))

    def report(self, one: object, reply: HttpReply, *, by_id: bool = False) -> StatusReport | Failure | None:
        """An order's status out of an object; the error it states instead; None when it is neither. `by_id`: the answer
        gives it as that of one order, so that its `status` cannot speak of the call."""
        if not isinstance(one, dict):
            return None
        nested = one.get("status")
        spoken = said((one, nested) if isinstance(nested, dict) else (one,), own=["status"])
        if spoken.failed:
            return self.envelope.failure(spoken.texts, reply)
        if "status" not in one or not (nested is None or isinstance(nested, str | int)) or isinstance(nested, bool):
            return None
        word = plain(nested)
        charge, figures = self._figures(one)
        own = self.envelope.own_order_state(word)
        spelled = words.word(word)
        state = self.envelope.order_state(word)
        accounts = self.accounts(one.get("accounts"))
        if not figures:
            # {"status":"fail","message":"…"} speaks of the call, {"status":"Fail","charge":"0.5","remains":"10"} of the
            # order. A bare "fail" might be either, unless it stands under an order's id: not enough to end an order.
            if spelled in words.ENVELOPE_FAILED and spoken.hints:
                return self.envelope.failure(spoken.hints, reply)
            if own is None and (spelled in words.ENVELOPE_SUCCEEDED or not word) and not accounts:
                return None
            if own is None and spelled in words.ENVELOPE_FAILED and not by_id:
                state = None
        return StatusReport(
            word=self.envelope.clean(word),
            state=state,
            charge=charge,
            start_count=whole(one.get("start_count")),
            remains=whole(one.get("remains")),
            accounts=accounts,
            auto_delivery=flag(one.get("autoDelivery")),
            children=self._children(one.get("orders")),
        )

    def accounts(self, value: object) -> tuple[str, ...]:
        """Delivered accounts; only for dialects that document them."""
        return ()

    def _figures(self, one: Mapping[str, object]) -> tuple[Money | None, bool]:
        """The charge, and whether the object holds any figure of an order. `"1.00000000"`, `""`, null and a missing
        currency are all seen; a negative charge is none."""
        named = currency(one.get("currency"), self.account.currency)
        charge = money(one.get("charge"), named) if named is not None else None
        if charge is not None and charge.units < 0:
            charge = None
        others = (whole(one.get("start_count")), whole(one.get("remains")))
        return charge, charge is not None or any(count is not None for count in others)

    def _children(self, value: object) -> tuple[str, ...]:
        # Drip parents: {"status":"In progress","runs":5,"orders":[101,102]}
        return self.ids(value) if isinstance(value, list) else ()

    # --- balance ---

    def build_balance(self) -> HttpRequest:
        return self.ask("balance")

    def read_balance(self, reply: HttpReply) -> Money | Failure:
        # {"balance": "100.84292", "currency": "USD"}
        opened = self.envelope.open_answer(reply)
        if isinstance(opened, Failure):
            return opened
        complaint = self.envelope.complaint(opened)
        if complaint is not None:
            return complaint
        for one in reversed(opened.objects):
            named = currency(one.get("currency"), self.account.currency)
            balance = money(one.get("balance"), named) if named is not None else None
            if balance is not None:
                return balance
        return self.envelope.no_answer(opened, "balance")

    # --- what a dialect may not document ---

    def _unsupported(self, action: str) -> UnsupportedAction:
        return UnsupportedAction(f"{self.name} documents no {action}")

    def build_categories(self) -> HttpRequest:
        raise self._unsupported("categories")

    def read_categories(self, reply: HttpReply) -> tuple[Category, ...] | Failure:
        return _UNSUPPORTED

    def build_inventory(self, service: str) -> HttpRequest:
        raise self._unsupported("inventory")

    def read_inventory(self, reply: HttpReply, service: str) -> Inventory | Failure:
        return _UNSUPPORTED

    def build_statuses(self, orders: Sequence[str], form: BatchForm = BatchForm.ORDERS) -> HttpRequest:
        raise self._unsupported("batched status")

    def read_statuses(self, reply: HttpReply, orders: Sequence[str]) -> StatusBatch | Failure:
        return _UNSUPPORTED

    def build_refills(self, orders: Sequence[str], idempotency_key: str | None = None) -> HttpRequest:
        raise self._unsupported("refill")

    def read_refills(self, reply: HttpReply, orders: Sequence[str]) -> Mapping[str, RefillResult]:
        return dict.fromkeys(orders, Unclear("unsupported"))

    def build_refill_statuses(self, refills: Sequence[str]) -> HttpRequest:
        raise self._unsupported("refill_status")

    def read_refill_statuses(
        self, reply: HttpReply, refills: Sequence[str]
    ) -> Mapping[str, RefillReport | Failure] | Failure:
        return _UNSUPPORTED

    def build_cancels(self, orders: Sequence[str], idempotency_key: str | None = None) -> HttpRequest:
        raise self._unsupported("cancel")

    def read_cancels(self, reply: HttpReply, orders: Sequence[str]) -> Mapping[str, CancelResult]:
        return dict.fromkeys(orders, Unclear("unsupported"))

    def build_sms_projects(self, country: str | None = None) -> HttpRequest:
        raise self._unsupported("sms_projects")

    def read_sms_projects(self, reply: HttpReply) -> CataloguePage | Failure:
        return _UNSUPPORTED

    def build_sms_countries(self) -> HttpRequest:
        raise self._unsupported("sms_countries")

    def read_sms_countries(self, reply: HttpReply) -> tuple[Country, ...] | Failure:
        return _UNSUPPORTED

    def build_add_sms(self, request: AddSmsRequest) -> HttpRequest:
        raise self._unsupported("add_sms")

    def read_add_sms(self, reply: HttpReply) -> PurchaseResult:
        return Unclear("unsupported")

    def build_sms_code(self, order: str) -> HttpRequest:
        raise self._unsupported("sms_code")

    def read_sms_code(self, reply: HttpReply) -> NumberStatus | Failure:
        return _UNSUPPORTED

    def build_sms_status(self, order: str) -> HttpRequest:
        raise self._unsupported("sms_status")

    def read_sms_status(self, reply: HttpReply) -> NumberStatus | Failure:
        return _UNSUPPORTED


def _paging(document: object, rows_read: int) -> tuple[int, int, int | None]:
    """(page, pages, total) of a paged catalogue; 1 of 1 for a bare array.

    A total below the rows that came is none. hstockplus.txt: "When limit is 0 or omitted, all services are returned and
    page/limit equal total", so `page` is then no page number.
    """
    holders = [one for one in (document, *_parts(document)) if isinstance(one, dict)]

    def stated(names: Sequence[str]) -> int | None:
        found = (whole(holder.get(name)) for name in names for holder in holders)
        return next((number for number in found if number), None)

    total, limit = stated(_TOTAL), stated(_LIMIT)
    if total is not None and total < rows_read:
        total = None
    pages = stated(_PAGES) or 1
    if total is not None and limit is not None and total > rows_read:
        pages = max(pages, -(-total // limit))
    page = stated(_PAGE) or 1
    return page if page <= pages else 1, pages, total


def _parts(document: object) -> Sequence[object]:
    """Where an object may keep what it says of its pages."""
    return [document.get(name) for name in _PAGING_PARTS] if isinstance(document, dict) else []
