"""`aggregator orders …`: place, look at, follow, cancel, refill and resolve orders of a running daemon."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from aggregator.cli.names import provider_name, service_name
from aggregator.cli.options import asks_daemon, cursor_option, limit_option, order_reference, with_daemon
from aggregator.cli.output import Page, emit, emit_answer, json_line
from aggregator.cli.target import Asked
from aggregator.domain.orders import RESTORED, OrderState

# What takes long to import is imported by the command that needs it.
if TYPE_CHECKING:
    from aggregator.cli.client import Answer, Client
    from aggregator.cli.target import Target

_MONEY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?: *([A-Za-z0-9]{3,8}))?")
_PARAM: Final = re.compile(r"([A-Za-z0-9_]+)=(.*)", re.DOTALL)


def read_max_cost(context: click.Context, parameter: click.Parameter, value: str | None) -> object:
    """`0.90` or `0.90 USD` as the API takes it."""
    if value is None:
        return None
    found = _MONEY.fullmatch(value.strip())
    if found is None:
        raise click.BadParameter(f'must be an amount such as 0.90 or "0.90 USD", got {value!r}')
    amount, currency = found.groups()
    return {"amount": amount, "currency": currency.upper()} if currency else amount


def read_params(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> dict[str, object]:
    """`name=value` pairs; a name that is given several times is a list of lines."""
    lines: dict[str, list[str]] = {}
    for value in values:
        found = _PARAM.fullmatch(value)
        if found is None:
            raise click.BadParameter(f"must look like name=value, got {value!r}")
        lines.setdefault(found[1], []).append(found[2])
    return {name: given[0] if len(given) == 1 else given for name, given in lines.items()}


quantity_option = click.option("--quantity", type=click.IntRange(min=1), help="How many; some types derive it.")
link_option = click.option("--link", help="What it is for: the page, post or account.")
param_option = click.option(
    "--param",
    "params",
    multiple=True,
    callback=read_params,
    metavar="NAME=VALUE",
    help="A parameter of the service's type; repeat a name for a list of lines.",
)
max_cost_option = click.option(
    "--max-cost", callback=read_max_cost, metavar="AMOUNT", help='Buy nowhere dearer: 0.90 or "0.90 USD".'
)
provider_option = click.option("--provider", type=provider_name, help="Of this provider alone.")


def wish_of(service: str, **said: object) -> dict[str, object]:
    """The body of an order or a quote: what was said, and nothing else."""
    return {"service": service, **{name: value for name, value in said.items() if value not in (None, {})}}


@click.group()
def orders() -> None:
    """Place, look at, follow and end orders (asks the running daemon)."""


@orders.command()
@click.argument("service", type=service_name)
@quantity_option
@link_option
@param_option
@click.option("--reference", help="Your own name for the order.")
@max_cost_option
@provider_option
@click.option("--idempotency-key", help="The same key gives the same order again; else a fresh one.")
@asks_daemon
def place(asked: Asked, /, service: str, idempotency_key: str | None, **said: Any) -> None:
    """Place an order for SERVICE, and print it once it is on disk."""

    async def work(client: Client, target: Target) -> tuple[Answer, Target]:
        return await client.post("/v1/orders", wish_of(service, **said), key=idempotency_key), target

    answer, target = with_daemon(asked, work)
    if asked.as_json:
        emit_answer(answer.body, answer.document)
        return
    page = Page()
    _show(page, answer.document)
    if answer.replayed:
        page.line("This Idempotency-Key was used before: it is that order, and nothing was ordered now.")
    page.line(f"follow it: {target.command('orders', 'watch', str(answer.document['number']))}", wrap=False)


@orders.command("list")
@click.option("--state", type=click.Choice([str(state) for state in OrderState]), help="In this state.")
@click.option("--service", type=service_name, help="Of this service.")
@provider_option
@click.option("--reference", help="With this reference of yours.")
@click.option("--since", metavar="TIME", help="Created since then, such as 2026-11-21T18:00:00Z.")
@limit_option
@cursor_option
@asks_daemon
def list_(asked: Asked, /, **query: Any) -> None:
    """List orders, newest first."""
    from aggregator.cli.order_view import list_orders

    answer = with_daemon(asked, lambda client, _: client.get("/v1/orders", **query))
    if asked.as_json:
        emit_answer(answer.body, answer.document)
        return
    page = Page()
    found = answer.document["orders"]
    if not found:
        page.line("no orders")
        return
    list_orders(page, found)
    page.more(answer.document.get("next_cursor"))


@orders.command()
@click.argument("order", type=order_reference)
@asks_daemon
def show(asked: Asked, /, order: str) -> None:
    """Show all that is known of ORDER: its attempts and why each was made, its events; how to end an unclear one."""
    from aggregator.cli.order_view import show_whole

    async def work(client: Client, target: Target) -> tuple[Mapping[str, Any], Target]:
        path = f"/v1/orders/{order}"
        one = (await client.get(path)).document
        attempts = (await client.get(f"{path}/attempts")).document["attempts"]
        events = (await client.get(f"{path}/events")).document["events"]
        return {"order": one, "attempts": attempts, "events": events}, target

    found, target = with_daemon(asked, work)
    if asked.as_json:
        emit_answer(json_line(found), found)
        return
    show_whole(Page(), target, found["order"], found["attempts"], found["events"])


@orders.command()
@click.argument("order", type=order_reference)
@asks_daemon
def watch(asked: Asked, /, order: str) -> None:
    """Tell what happens to ORDER until it is final; what happened before comes first. With --json an event a line."""
    from aggregator.cli.order_view import event_line
    from aggregator.cli.watch import Watch

    page = Page()

    async def work(client: Client, target: Target) -> Mapping[str, Any]:
        def tell(event: Mapping[str, Any]) -> None:
            if asked.as_json:
                click.echo(json_line(event))
                return
            event_line(page, event)
            if event.get("type") == "order.unclear":
                page.line(f"to decide: {target.command('orders', 'show', order)}", indent=4, wrap=False)

        return await Watch(client, order, tell, lambda text: click.echo(f"aggregator: {text}", err=True)).to_the_end()

    ended = with_daemon(asked, work)
    if not asked.as_json:
        page.heading(f"order {ended['number']}", ended["state"])


@orders.command()
@click.argument("order", type=order_reference)
@asks_daemon
def cancel(asked: Asked, /, order: str) -> None:
    """Cancel ORDER, as long as nothing was bought for it."""
    _act(asked, order, "cancel")


@orders.command()
@click.argument("order", type=order_reference)
@asks_daemon
def refill(asked: Asked, /, order: str) -> None:
    """Ask for a refill of ORDER, which was completed and dropped."""
    _act(asked, order, "refill")


@orders.command()
@click.argument("order", type=order_reference, required=False)
@click.option(
    "--placed", metavar="PROVIDER_ORDER", help="It was bought; its id at the provider (of numbers: ids with commas)."
)
@click.option("--at", "provider", type=provider_name, help="With --placed, after a restore: the provider that has it.")
@click.option("--not-placed", is_flag=True, help="It was not bought, and may be bought again.")
@click.option("--all-restored", is_flag=True, help="Every order that is held since a restore; with --not-placed.")
@asks_daemon
def resolve(
    asked: Asked, /, order: str | None, placed: str | None, provider: str | None, not_placed: bool, all_restored: bool
) -> None:
    """Say how the purchase of an unclear ORDER ended; `orders show` tells what is known of it."""
    if (order is None) is not all_restored:
        raise click.UsageError("name the order, or say --all-restored")
    if (placed is not None) is not_placed or (all_restored and not not_placed):
        raise click.UsageError("say how it ended: --placed with its id at the provider, or --not-placed")
    if not_placed and provider is not None:
        raise click.UsageError("--at goes with --placed")
    if order is None:
        released = with_daemon(asked, _release_all)
        emit({"released": released}, asked.as_json, f"{len(released)} orders may be bought again")
        return
    said: dict[str, object] = {"outcome": "not_placed"} if not_placed else {"outcome": "placed"}
    said |= {"provider_order": placed} if placed is not None else {}
    _act(asked, order, "resolve", said | ({"provider": provider} if provider is not None else {}))


async def _release_all(client: Client, _: Target) -> list[int]:
    """Release what is held since a restore and was not bought, one after the other; the orders' numbers."""
    held: list[int] = []
    for state in (OrderState.UNCLEAR, OrderState.ACCEPTED, OrderState.IN_PROGRESS):
        cursor, more = None, True
        while more:
            page = (await client.get("/v1/orders", state=str(state), limit=500, cursor=cursor)).document
            held += [one["number"] for one in page["orders"] if (one.get("error") or {}).get("type") == RESTORED]
            cursor, more = page["next_cursor"], page["next_cursor"] is not None
    for number in sorted(held):
        await client.post(f"/v1/orders/{number}/resolve", {"outcome": "not_placed"})
    return sorted(held)


def _act(asked: Asked, /, order: str, action: str, body: object = None) -> None:
    answer = with_daemon(asked, lambda client, _: client.post(f"/v1/orders/{order}/{action}", body))
    if asked.as_json:
        emit_answer(answer.body, answer.document)
    else:
        _show(Page(), answer.document)


def _show(page: Page, document: Mapping[str, Any]) -> None:
    from aggregator.cli.order_view import show_order

    show_order(page, document)
