"""`aggregator webhooks …`: the endpoints of a running daemon, and what they were sent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click

from aggregator.cli.failures import CannotDo
from aggregator.cli.names import endpoint_name, event_pattern, service_name
from aggregator.cli.options import asks_daemon, cursor_option, limit_option, with_daemon
from aggregator.cli.output import Page, emit_answer
from aggregator.cli.target import Asked, Target
from aggregator.cli.words import clean, shown, when

if TYPE_CHECKING:
    from aggregator.cli.client import Answer, Client

Document = Mapping[str, Any]

TEST_S: Final = 20.0
"""How long `test` waits for the endpoint's answer."""
LOOK_EVERY_S: Final = 0.25

_name = click.argument("name", type=endpoint_name)


@click.group()
def webhooks() -> None:
    """Endpoints for webhooks: look, make, test, send again (asks the running daemon)."""


@webhooks.command("list")
@click.option(
    "--source", type=click.Choice(["config", "api", "callback"]), help="Only those; callback: callers' hosts."
)
@click.option("--state", type=click.Choice(["healthy", "failing", "disabled"]), help="Only those in this state.")
@limit_option
@cursor_option
@asks_daemon
def list_(asked: Asked, /, **query: Any) -> None:
    """List the endpoints: how they are doing, and what waits."""
    answer = with_daemon(asked, lambda client, _: client.get("/v1/webhooks", **query))
    if asked.as_json:
        emit_answer(answer.body, answer.document)
        return
    found, page = answer.document["webhooks"], Page()
    if not found:
        page.line("no endpoints")
        return
    columns = ("name", "source", "state", ">waiting", ">parked", "last success", "url")
    rows = [
        (
            shown(one.get("name")),
            shown(one.get("source")),
            shown(one.get("state")),
            shown(one.get("waiting")),
            shown(one.get("parked")),
            when(one.get("last_success_at")),
            shown(one.get("url")),
        )
        for one in found
    ]
    page.table(columns, rows)
    for one in found:
        if one.get("reason"):
            page.line(f"{shown(one.get('name'))}: {trouble(one)}", style="yellow")
    page.more(answer.document.get("next_cursor"))


@webhooks.command()
@_name
@asks_daemon
def show(asked: Asked, /, name: str) -> None:
    """Show all that is known of the endpoint NAME."""
    _tell(asked, with_daemon(asked, lambda client, _: client.get(path_of(name))))


@webhooks.command()
@_name
@click.option("--to", "address", required=True, metavar="URL", help="Where events are sent; trusted as it is.")
@click.option(
    "--event",
    "events",
    type=event_pattern,
    multiple=True,
    help='Which events: "*", "order.*", "sms.code"; may be repeated.',
)
@click.option(
    "--service", "services", type=service_name, multiple=True, help="Only orders for this service; may be repeated."
)
@click.option("--description", help="What it is for.")
@asks_daemon
def create(asked: Asked, /, name: str, address: str, **fields: Any) -> None:
    """Make the endpoint NAME; its secret is printed this once."""
    body = {name_: list(v) if isinstance(v, tuple) else v for name_, v in fields.items() if v}
    body |= {"name": name, "url": address}
    _tell_secret(asked, with_daemon(asked, lambda client, _: client.post("/v1/webhooks", body)))


@webhooks.command()
@_name
@asks_daemon
def delete(asked: Asked, /, name: str) -> None:
    """Remove the endpoint NAME and what it was to be sent; one of the config is removed there."""
    answer = with_daemon(asked, lambda client, _: client.delete(path_of(name)))
    if asked.as_json:
        emit_answer(answer.body, answer.document)
    else:
        Page().line(f"{name} is gone")


@webhooks.command()
@_name
@asks_daemon
def enable(asked: Asked, /, name: str) -> None:
    """Send to the endpoint NAME again; what waits is due at once."""
    _tell(asked, with_daemon(asked, lambda client, _: client.post(path_of(name) + "/enable")))


@webhooks.command()
@_name
@asks_daemon
def disable(asked: Asked, /, name: str) -> None:
    """Send nothing more to the endpoint NAME; its events are kept for it."""
    _tell(asked, with_daemon(asked, lambda client, _: client.post(path_of(name) + "/disable")))


@webhooks.command()
@_name
@click.option("--until", metavar="TIME", help="Until when the old secret signs as well (RFC 3339; a day from now).")
@asks_daemon
def rotate(asked: Asked, /, name: str, until: str | None) -> None:
    """Give the endpoint NAME a new secret, printed this once."""
    body = {"until": until} if until is not None else None
    _tell_secret(asked, with_daemon(asked, lambda client, _: client.post(path_of(name) + "/secret", body)))


@webhooks.command()
@_name
@asks_daemon
def test(asked: Asked, /, name: str) -> None:
    """Send a test event to the endpoint NAME, and wait for its answer."""

    async def ask(client: Client, _: Target) -> tuple[Answer, Document | None]:
        event = (await client.post(path_of(name) + "/test")).document["event"]
        until = monotonic() + TEST_S
        while True:
            answer = await client.get(path_of(name) + "/deliveries", event=event)
            found = answer.document["deliveries"]
            if (found and found[0].get("tries")) or monotonic() > until:
                return answer, found[0] if found else None
            await asyncio.sleep(LOOK_EVERY_S)

    answer, delivery = with_daemon(asked, ask)
    if asked.as_json:
        emit_answer(answer.body, answer.document)
    if delivery is None or not delivery.get("tries"):
        raise CannotDo(f"{name} was not sent to within {TEST_S:g} s; see `aggregator webhooks show {name}`")
    if delivery.get("state") != "delivered":
        raise CannotDo(
            f"{name} did not take it: {clean(delivery.get('error') or 'no answer')} ({answer_words(delivery)})"
        )
    if not asked.as_json:
        Page().line(f"{name} took it: {answer_words(delivery)}")


@webhooks.command()
@_name
@click.option("--event", help="One event by its id (evt_…).")
@click.option("--from", "first", type=click.IntRange(1), help="A range of the feed: its first position …")
@click.option("--to", "last", type=click.IntRange(1), help="… and its last one.")
@click.option("--parked", is_flag=True, help="All that is tried no more.")
@click.option("--since", metavar="TIME", help="All that happened since then (RFC 3339).")
@asks_daemon
def replay(asked: Asked, /, name: str, event: str | None, first: int | None, last: int | None, parked: bool,
           since: str | None) -> None:  # fmt: skip
    """Send events to the endpoint NAME again, under their ids and with their bytes."""
    given = {"event": event, "from": first, "to": last, "parked": parked or None, "since": since}
    body = {field: value for field, value in given.items() if value is not None}
    if not body:
        raise click.UsageError("say what to send again: --event, --from and --to, --parked, or --since")
    answer = with_daemon(asked, lambda client, _: client.post(path_of(name) + "/replay", body))
    if asked.as_json:
        emit_answer(answer.body, answer.document)
    else:
        Page().line(f"{shown(answer.document.get('deliveries'))} deliveries to {name} are due again")


@webhooks.command()
@_name
@click.option("--state", type=click.Choice(["pending", "delivered", "parked"]), help="Only those in this state.")
@click.option("--order", help="Only events of this order (id or number).")
@click.option("--event", help="Only this event.")
@click.option("--since", metavar="TIME", help="Only what happened since then (RFC 3339).")
@limit_option
@cursor_option
@asks_daemon
def deliveries(asked: Asked, /, name: str, **query: Any) -> None:
    """List what the endpoint NAME was sent, the newest event first, with the last try of each."""
    answer = with_daemon(asked, lambda client, _: client.get(path_of(name) + "/deliveries", **query))
    if asked.as_json:
        emit_answer(answer.body, answer.document)
        return
    found, page = answer.document["deliveries"], Page()
    if not found:
        page.line("nothing yet")
        return
    rows = [
        (
            when(one.get("tried_at") or one.get("created_at")),
            shown(one.get("type")),
            shown(one.get("order_number")),
            shown(one.get("state")),
            shown(one.get("tries")),
            shown(one.get("ms")),
            shown(one.get("status") or one.get("error")),
            when(one.get("next_try_at")),
            shown(one.get("event")),
        )
        for one in found
    ]
    page.table(("at", "type", ">order", "state", ">tries", ">ms", "answer", "next try", "event"), rows)
    page.more(answer.document.get("next_cursor"))


def path_of(name: str) -> str:
    return f"/v1/webhooks/{quote(name, safe='')}"


def _tell(asked: Asked, /, answer: Answer) -> None:
    if asked.as_json:
        emit_answer(answer.body, answer.document)
    else:
        show_endpoint(Page(), answer.document)


def _tell_secret(asked: Asked, /, answer: Answer) -> None:
    _tell(asked, answer)
    if not asked.as_json:
        click.echo(f"secret, shown this once: {clean(answer.document['secret'])}")


def show_endpoint(page: Page, one: Document) -> None:
    """One endpoint by itself."""
    page.heading(f"endpoint {shown(one.get('name'))}", shown(one.get("state")))
    failure: Document = one.get("last_failure") or {}
    ends = [secret["until"] for secret in one.get("secrets") or [] if secret.get("until")]
    page.facts(
        [
            ("source", shown(one.get("source"))),
            ("url", shown(one.get("url"))),
            ("events", ", ".join(map(clean, one.get("events") or [])) or "-"),
            ("services", "-" if one.get("services") is None else ", ".join(map(clean, one["services"])) or "all"),
            *([("description", shown(one["description"]))] if one.get("description") else []),
            ("waiting", f"{shown(one.get('waiting'))}, the oldest of {when(one.get('oldest_waiting_at'))}"),
            ("parked", shown(one.get("parked"))),
            ("last success", when(one.get("last_success_at"))),
            ("last failure", f"{when(failure.get('at'))}: {shown(failure.get('error'))}" if failure else "-"),
            *(("an old secret ends", when(end)) for end in ends),
            *([("trouble", trouble(one))] if one.get("reason") else []),
        ]
    )
    if one.get("state") == "disabled" and one.get("source") != "callback":
        page.line()
        page.line(_remedy(one), indent=2, wrap=False)


def _remedy(one: Document) -> str:
    """How something is sent again to an endpoint that is switched off."""
    if one.get("url") is None:
        name = shown(one["name"])
        return f"put it back into the config, or remove what it has left: aggregator webhooks delete {name}"
    if one.get("since") is None:
        return "send again: leave `enabled: false` out of the config, and start the daemon anew"
    return f"send again: aggregator webhooks enable {shown(one['name'])}"


def trouble(one: Document) -> str:
    """What the operator should look at, in a sentence."""
    since = f" since {when(one['since'])}" if one.get("since") else ""
    return f"{shown(one.get('state'))}{since}: {clean(one.get('reason'))}"


def answer_words(delivery: Document) -> str:
    status = f"HTTP {delivery['status']}" if delivery.get("status") else "no answer"
    said = f", it said: {clean(delivery['answer'])}" if delivery.get("answer") else ""
    return f"{status} after {shown(delivery.get('ms'))} ms{said}"
