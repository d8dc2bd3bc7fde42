"""`aggregator services …`: what can be ordered of a running daemon, and what it would cost now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from aggregator.cli.names import service_name
from aggregator.cli.options import asks_daemon, with_daemon
from aggregator.cli.orders import link_option, max_cost_option, param_option, provider_option, quantity_option, wish_of
from aggregator.cli.output import Page, emit_answer
from aggregator.cli.suggest import suggest
from aggregator.cli.target import Asked


@click.group()
def services() -> None:
    """Look at what can be ordered, and at what it costs (asks the running daemon)."""


@services.command("list")
@click.option("--kind", type=click.Choice(["smm", "product", "sms"]), help="Of this kind.")
@click.option("--category", help="Of this category.")
@asks_daemon
def list_(asked: Asked, /, **query: Any) -> None:
    """List the services with their best price now."""
    answer = with_daemon(asked, lambda client, _: client.get("/v1/services", **query))
    if asked.as_json:
        emit_answer(answer.body, answer.document)
        return
    found = answer.document["services"]
    page = Page()
    if not found:
        page.line("no services")
        return
    columns = ("service", "kind", "title", ">price", "per", "at", ">min", ">max", ">stock", "refill", "available")
    page.table(columns, [_row(one) for one in found])


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    from aggregator.cli.words import clean, cut, money, shown

    return (
        shown(one.get("service")),
        shown(one.get("kind")),
        cut(shown(one.get("title")), 40),
        money(one.get("price")),
        shown(one.get("price_per")),
        shown(one.get("provider")),
        shown(one.get("min")),
        shown(one.get("max")),
        shown(one.get("stock")),
        "yes" if one.get("refill") else "no",
        "yes" if one.get("available") else f"no: {clean(one.get('reason'))}",
    )


@services.command()
@click.argument("service", type=service_name)
@quantity_option
@link_option
@param_option
@max_cost_option
@provider_option
@asks_daemon
def quote(asked: Asked, /, service: str, **said: Any) -> None:
    """Show which offer an order for SERVICE would get now, and why not the others; it buys nothing."""
    from aggregator.cli.order_view import offer, show_candidates
    from aggregator.cli.words import money, shown

    answer = with_daemon(asked, lambda client, _: client.post("/v1/quote", wish_of(service, **said)))
    if asked.as_json:
        emit_answer(answer.body, answer.document)
        return
    page, quoted = Page(), answer.document
    best = quoted.get("best")
    what = f"{shown(quoted.get('quantity'))} of {shown(quoted.get('service'))}"
    page.heading(f"{what}: {money(best.get('cost'))} at {offer(best)}" if best else f"{what}: nobody takes it now")
    show_candidates(page, quoted["candidates"])


services.add_command(suggest)
