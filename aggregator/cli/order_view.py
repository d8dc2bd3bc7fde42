"""Orders, their attempts and their events, as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aggregator.cli.evidence import decide, evidence_words, reply_words, sent_words, unclear_attempt
from aggregator.cli.output import Page
from aggregator.cli.target import Target
from aggregator.cli.words import charged, clean, compact, cut, event_words, money, shown, when

FINAL: Final = frozenset({"completed", "partial", "canceled", "failed"})

Document = Mapping[str, Any]


def list_orders(page: Page, orders: Sequence[Document]) -> None:
    """One line for each; `~` stands before a cost that is only expected."""
    columns = (
        *(">#", "service", "state", ">quantity", ">left", "provider", "its order", ">cost"),
        *("reference", "created"),
    )
    rows = [
        (
            str(order.get("number")),
            shown(order.get("service")),
            shown(order.get("state")),
            shown(order.get("quantity")),
            shown(order.get("remains")),
            shown(order.get("provider")),
            shown(order.get("provider_order")),
            charged(order),
            shown(order.get("reference")),
            when(order.get("created_at")),
        )
        for order in orders
    ]
    page.table(columns, rows)


def show_order(page: Page, order: Document) -> None:
    """One order by itself."""
    page.heading(f"order {order.get('number')}", shown(order.get("state")))
    page.facts(_facts(order))
    if order.get("numbers"):
        page.line()
        page.table(
            ("number", "phone", "state", "codes", "until"),
            [
                (
                    shown(one.get("number")),
                    shown(one.get("phone")),
                    shown(one.get("state")),
                    ", ".join(clean(code.get("code")) for code in one.get("codes") or []) or "-",
                    when(one.get("expires_at")),
                )
                for one in order["numbers"]
            ],
            indent=2,
        )
    if order.get("refills"):
        page.line()
        page.table(
            (">refill", "state", ">lost", "its refill", "requested", "finished"),
            [
                (
                    shown(one.get("number")),
                    shown(one.get("state")),
                    shown(one.get("drop")),
                    shown(one.get("provider_refill")),
                    when(one.get("requested_at")),
                    when(one.get("finished_at")),
                )
                for one in order["refills"]
            ],
            indent=2,
        )


def _facts(order: Document) -> list[tuple[str, str]]:
    facts: list[tuple[str, object]] = [
        ("id", order.get("id")),
        ("service", f"{shown(order.get('service'))} ({shown(order.get('kind'))})"),
        ("link", order.get("link")),
        ("quantity", order.get("quantity")),
        *((str(name), value) for name, value in (order.get("params") or {}).items()),
        ("reference", order.get("reference")),
        ("metadata", compact(order["metadata"]) if order.get("metadata") else None),
        ("provider", order.get("provider")),
        ("its order", order.get("provider_order")),
        ("expected cost", money(order["expected_cost"]) if order.get("expected_cost") else None),
        ("charge", money(order["charge"]) if order.get("charge") else None),
        ("start count", order.get("start_count")),
        ("left", order.get("remains")),
        ("parent", order.get("parent")),
        ("children", ", ".join(order.get("children") or [])),
        ("cancel", compact(order["cancel"]) if order.get("cancel") else None),
        ("error", (order.get("error") or {}).get("detail")),
        ("created", when(order.get("created_at"))),
        ("updated", when(order.get("updated_at"))),
        ("finished", when(order["finished_at"]) if order.get("finished_at") else None),
    ]
    return [(clean(name), clean(value)) for name, value in facts if value not in (None, "")]


def show_attempts(page: Page, attempts: Sequence[Document]) -> None:
    """Every try to buy it: what could have been chosen and why it was not, what was sent, what is known."""
    for one in attempts:
        page.line()
        page.heading(f"attempt {one.get('ordinal')}", shown(one.get("state")))
        facts = []
        if one.get("provider"):
            facts += [("at", f"{offer(one)}, expected cost {money(one.get('expected_cost'))}")]
        if one.get("detail"):
            facts += [("outcome", clean(one["detail"]))]
        open_still = one.get("state") == "unclear"  # what is known of that one is told at length, below
        if one.get("sent_at") and not open_still:
            facts += [("sent", f"{when(one['sent_at'])}: {sent_words(one)}"), ("came back", reply_words(one))]
        if one.get("evidence") and not open_still:
            facts += [("evidence", f"{at}  {text}") for at, text in evidence_words(one)]
        page.facts(facts)
        if one.get("candidates"):
            page.line()
            show_candidates(page, one["candidates"], indent=2)


def show_candidates(page: Page, candidates: Sequence[Document], *, indent: int = 0) -> None:
    """A ranking, best first, with the reason of each place."""
    rows = [
        (
            str(place) if one.get("eligible") else "-",
            offer(one),
            money(one.get("cost") or one.get("expected_cost")),
            shown(one.get("stock")),
            shown(one.get("reason")),
        )
        for place, one in enumerate(candidates, 1)
    ]
    page.table((">place", "offer", ">cost", ">stock", "why"), rows, indent=indent)


def offer(one: Document) -> str:
    """`smmplus/1`, or with the country of a number: `hstock/65f0aa/us`."""
    parts = (one.get("provider"), one.get("service"), one.get("country"))
    return "/".join(clean(part) for part in parts if part)


def show_events(page: Page, events: Sequence[Document]) -> None:
    page.line()
    page.heading("events")
    rows = [event_row(event) for event in events]
    page.table((">#", "at", "event", "state", "what"), rows, indent=2)


def event_row(event: Document) -> tuple[str, str, str, str, str]:
    data = event.get("data") or {}
    order = data.get("order") or {}
    return (
        shown(data.get("sequence")),
        when(event.get("timestamp")),
        shown(event.get("type")),
        shown(order.get("state")),
        cut(event_words(event), 200),
    )


def event_line(page: Page, event: Document) -> None:
    """One event by itself, as it happens."""
    _, at, kind, state, what = event_row(event)
    page.line(f"{at}  {kind:<16}  {state:<11}  {what}".rstrip(), wrap=False)


def show_whole(
    page: Page, target: Target, order: Document, attempts: Sequence[Document], events: Sequence[Document]
) -> None:
    """An order with all that is known of it; of an unclear one last what helps to decide."""
    show_order(page, order)
    show_attempts(page, attempts)
    show_events(page, events)
    found = unclear_attempt(attempts)
    if order.get("state") == "unclear" and found is not None:
        decide(page, target, order, found)
