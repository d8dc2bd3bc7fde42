"""`aggregator providers …` and `aggregator ledger`: the providers of a running daemon, as its operator sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from aggregator.cli.names import provider_name
from aggregator.cli.options import asks_daemon, cursor_option, limit_option, with_daemon
from aggregator.cli.output import Page, emit_answer
from aggregator.cli.target import Asked
from aggregator.cli.words import clean, money, shown, when

if TYPE_CHECKING:
    from aggregator.cli.client import Answer

SYNC_S: Final = 600.0
"""How long a catalogue may take to be fetched: some come in many pages, and rate limits hold them up."""

Document = Mapping[str, Any]


@click.group()
def providers() -> None:
    """Look at providers; sync, pause and resume them (asks the running daemon)."""


@providers.command("list")
@asks_daemon
def list_(asked: Asked, /) -> None:
    """List the providers: health, balance, catalogue, books."""
    answer = with_daemon(asked, lambda client, _: client.get("/v1/providers"))
    if asked.as_json:
        emit_answer(answer.body, answer.document)
        return
    found = answer.document["providers"]
    page = Page()
    if not found:
        page.line("no providers")
        return
    columns = ("provider", "dialect", "state", ">balance", ">open orders", ">services", "synced", "books")
    rows = [
        (
            shown(one.get("name")),
            shown(one.get("dialect")),
            state_of(one),
            _balance(one),
            shown(one.get("open_orders")),
            shown((one.get("catalogue") or {}).get("rows")),
            when((one.get("catalogue") or {}).get("synced_at")),
            books_words(one.get("ledger")),
        )
        for one in found
    ]
    page.table(columns, rows)
    for one in found:
        for trouble in troubles(one):
            page.line(f"{shown(one.get('name'))}: {trouble}", style="yellow")


@providers.command()
@click.argument("name", type=provider_name)
@asks_daemon
def show(asked: Asked, /, name: str) -> None:
    """Show all that is known of the provider NAME."""
    _tell(asked, with_daemon(asked, lambda client, _: client.get(f"/v1/providers/{name}")))


@providers.command()
@click.argument("name", type=provider_name)
@asks_daemon
def sync(asked: Asked, /, name: str) -> None:
    """Fetch the catalogue of the provider NAME now, and wait for it."""
    path = f"/v1/providers/{name}/sync"
    _tell(asked, with_daemon(asked, lambda client, _: client.post(path, timeout_s=SYNC_S)))


@providers.command()
@click.argument("name", type=provider_name)
@asks_daemon
def pause(asked: Asked, /, name: str) -> None:
    """Buy nothing at the provider NAME any more; what was bought there is followed on."""
    _tell(asked, with_daemon(asked, lambda client, _: client.post(f"/v1/providers/{name}/pause")))


@providers.command()
@click.argument("name", type=provider_name)
@asks_daemon
def resume(asked: Asked, /, name: str) -> None:
    """Buy at the provider NAME again."""
    _tell(asked, with_daemon(asked, lambda client, _: client.post(f"/v1/providers/{name}/resume")))


@click.command()
@click.argument("provider", type=provider_name)
@limit_option
@cursor_option
@asks_daemon
def ledger(asked: Asked, /, provider: str, **query: Any) -> None:
    """List what PROVIDER's balance said and what orders were charged, newest first; what is paid is negative."""
    answer = with_daemon(asked, lambda client, _: client.get(f"/v1/providers/{provider}/ledger", **query))
    if asked.as_json:
        emit_answer(answer.body, answer.document)
        return
    page, rows = Page(), answer.document["ledger"]
    if not rows:
        page.line("nothing yet")
        return
    cells = [
        (
            when(row.get("at")),
            shown(row.get("kind")),
            money(row.get("amount")),
            shown(row.get("order_number")),
            shown(row.get("note")),
        )
        for row in rows
    ]
    page.table(("at", "kind", ">amount", ">order", "note"), cells)
    page.more(answer.document.get("next_cursor"))


def _tell(asked: Asked, /, answer: Answer) -> None:
    if asked.as_json:
        emit_answer(answer.body, answer.document)
    else:
        show_provider(Page(), answer.document)


def show_provider(page: Page, one: Document) -> None:
    """One provider by itself."""
    catalogue: Document = one.get("catalogue") or {}
    capabilities: Document = one.get("capabilities") or {}
    able = [clean(name).replace("_", " ") for name, value in capabilities.items() if value is True]
    page.heading(f"provider {shown(one.get('name'))}", state_of(one))
    page.facts(
        [
            ("dialect", shown(one.get("dialect"))),
            ("kinds", ", ".join(map(clean, capabilities.get("kinds") or [])) or "-"),
            ("can", ", ".join(able) or "-"),
            ("balance", f"{_balance(one)} (read {when(one.get('balance_at'))})" if one.get("balance") else "unknown"),
            ("open orders", shown(one.get("open_orders"))),
            ("services", f"{shown(catalogue.get('rows'))}, synced {when(catalogue.get('synced_at'))}"),
            ("next sync", when(catalogue.get("next_at"))),
            ("books", books_words(one.get("ledger"))),
            *(("trouble", trouble) for trouble in troubles(one)),
        ]
    )
    candidates = (one.get("ledger") or {}).get("candidates")
    if candidates:
        page.line()
        page.line("what might explain the difference", indent=2, style="bold")
        page.table(
            ("cause", "order", "attempt", ">amount"),
            [tuple(shown(cause.get(name)) for name in ("kind", "order", "attempt", "amount")) for cause in candidates],
            indent=2,
        )


def state_of(one: Document) -> str:
    """One word: whether it is bought from now."""
    if not one.get("configured", True):
        return "not in the config"
    if not one.get("enabled", True):
        return "disabled"
    if one.get("paused"):
        return "paused"
    return "up" if one.get("up") else "down"


def troubles(one: Document) -> list[str]:
    """What the operator should look at, in sentences."""
    breaker: Document = one.get("breaker") or {}
    found = []
    if breaker.get("open"):
        until = f", tried again {when(breaker['until'])}" if breaker.get("until") else ""
        found.append(f"down since {when(breaker.get('since'))}: {shown(breaker.get('reason'))}{until}")
    if (one.get("catalogue") or {}).get("error"):
        found.append(f"the last sync failed: {clean(one['catalogue']['error'])}")
    if one.get("balance_low"):
        found.append("the balance is below min_balance")
    return found


def books_words(ledger: Document | None) -> str:
    """How the balance and the books agree; `-` before the books begin."""
    if not ledger:
        return "-"
    if not ledger.get("difference"):
        return f"agree, {money(ledger.get('certain'))} certain"
    return f"differ by {money(ledger['difference'])} (seen {shown(ledger.get('readings'))} times)"


def _balance(one: Document) -> str:
    return f"{money(one.get('balance'))}{' (low)' if one.get('balance_low') else ''}"
