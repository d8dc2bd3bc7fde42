"""What is known of an unclear purchase, for the person who must decide: what was sent, what came back, what speaks for
what, and the two commands that end it.

Decides nothing itself: each piece of evidence is put into words that say how much it proves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from aggregator.cli.output import Page
from aggregator.cli.target import Target
from aggregator.cli.words import clean, compact, cut, money, shown, when
from aggregator.domain.orders import RESTORED

MOST_BODY: Final = 300

Attempt = Mapping[str, Any]


def unclear_attempt(attempts: Sequence[Attempt]) -> Attempt | None:
    """The purchase of which nobody knows how it ended."""
    return next((one for one in reversed(attempts) if one.get("state") == "unclear"), None)


def decide(page: Page, target: Target, order: Mapping[str, Any], attempt: Attempt) -> None:
    """Everything that helps to decide about an unclear order, and what to type then."""
    provider = shown(attempt.get("provider"))
    page.line()
    page.heading("To decide")
    if attempt.get("outcome") == RESTORED and attempt.get("exchange") is None:
        _decide_restored(page, target, order, provider)
        return
    page.line(
        f"A purchase was sent to {provider}, and nobody knows whether {provider} took it. It is not sent again "
        "until that is proved, or until you say how it ended.",
        indent=2,
    )
    page.facts(
        [
            ("sent", f"{when(attempt.get('sent_at'))} to {provider}, for its service {shown(attempt.get('service'))}"),
            ("what", sent_words(attempt)),
            ("came back", reply_words(attempt)),
            ("should cost", money(attempt.get("expected_cost"))),
        ]
    )
    page.line()
    page.line("evidence", indent=2, style="bold")
    for at, text in evidence_words(attempt):
        page.line(f"{at}  {text}", indent=4)
    page.line()
    page.line("what to do", indent=2, style="bold")
    where = f"about {when(attempt.get('sent_at'))}"
    about = f" for {clean(order['link'])}" if order.get("link") else ""
    page.line(
        f"Look into your account at {provider}: is there an order of {where}, of {shown(order.get('quantity'))} "
        f"pieces{about}, that no other order here has?",
        indent=4,
    )
    number = str(order.get("number"))
    warning = " (the balance says that it was bought: this would buy it twice)" if said_bought(attempt) else ""
    page.line("Yes, it has an id there; put it in place of ID:", indent=4)
    page.line(target.command("orders", "resolve", number, "--placed", "ID"), indent=6, style="bold", wrap=False)
    page.line(f"No, it was not bought, and shall be bought again{warning}:", indent=4)
    page.line(target.command("orders", "resolve", number, "--not-placed"), indent=6, style="bold", wrap=False)


def _decide_restored(page: Page, target: Target, order: Mapping[str, Any], provider: str) -> None:
    """Of an order that was not bought yet when its backup was made there is no purchase to look at."""
    about = f" for {clean(order['link'])}" if order.get("link") else ""
    page.line(
        "The database was restored from a backup. When that was made this order was not bought; it may have been "
        "since; what came of that is not in this database. Nothing is bought until you say how it ended.",
        indent=2,
    )
    page.line()
    page.line("what to do", indent=2, style="bold")
    page.line(
        f"Look into your accounts, {provider} first: is there an order of {shown(order.get('quantity'))} pieces{about} "
        f"made after {when(order.get('created_at'))}, that no other order here has?",
        indent=4,
    )
    number = str(order.get("number"))
    page.line("Yes, it has an id there; put it in place of ID, and name the provider that has it:", indent=4)
    placed = target.command("orders", "resolve", number, "--placed", "ID", "--at", provider)
    page.line(placed, indent=6, style="bold", wrap=False)
    page.line("No, it was not bought, and shall be bought:", indent=4)
    page.line(target.command("orders", "resolve", number, "--not-placed"), indent=6, style="bold", wrap=False)


def sent_words(attempt: Attempt) -> str:
    """The request, without its key, which is never stored."""
    request = (attempt.get("exchange") or {}).get("request")
    if not isinstance(request, Mapping):
        return "not recorded: the daemon was stopped while it was sent"
    return ", ".join(f"{clean(name)}={clean(value)}" for name, value in request.items())


def reply_words(attempt: Attempt) -> str:
    """What the provider answered, if it did."""
    exchange: Mapping[str, Any] = attempt.get("exchange") or {}
    took = f" after {exchange['ms']} ms" if exchange.get("ms") is not None else ""
    if exchange.get("status") is None:
        why = str(exchange.get("outcome") or attempt.get("detail") or "-").removeprefix("lost: ")
        return f"no answer: {clean(why)}{took}"
    body = cut(clean(exchange.get("body") or "(nothing)"), MOST_BODY)
    return f"HTTP {exchange['status']}{took}: {body}"


def said_bought(attempt: Attempt) -> bool:
    return any(one.get("verdict") == "bought" for one in attempt.get("evidence") or [])


def evidence_words(attempt: Attempt) -> Iterator[tuple[str, str]]:
    """Each piece of evidence as (when, sentence); readings that say the same stand together."""
    found = [(str(one.get("at")), _sentence(one, attempt)) for one in attempt.get("evidence") or []]
    if not found:
        yield NOT_YET
    for sentence, same in groupby(found, key=lambda entry: entry[1]):
        times = [when(at) for at, _ in same]
        yield times[0], sentence if len(times) == 1 else f"{sentence} (seen {len(times)} times, last at {times[-1]})"


NOT_YET: Final = ("-", "None yet. The provider's balance is read from time to time while it may still tell something.")


def _sentence(one: Mapping[str, Any], attempt: Attempt) -> str:
    provider = shown(attempt.get("provider"))
    match one.get("kind"):
        case "balance":
            return _balance(one, attempt)
        case "verdict" if one.get("verdict") == "bought":
            return f"Concluded: it was bought. Only its id at {provider} is unknown."
        case "verdict":
            return "Concluded: it was not bought."
        case "difference":
            return (
                f"The balance differed from the books by {shown(one.get('difference'))}, and nobody knows why: an "
                "unmoved balance proves nothing here any more."
            )
        case "active_order":
            return f"{provider} refused another order on the same link because one is active there: speaks for bought."
        case "asked":
            return f"All orders at {provider} were asked again, for a refund that could hide the debit."
        case "kept":
            return f"The balance stands still, but that may deceive: {_hider(one, provider)}"
        case "clock":
            if str(one.get("forward_s")).startswith("-"):
                return f"This machine's clock was put back by {str(one['forward_s'])[1:]} s, which takes no time away."
            return f"This machine's clock was put forward by {shown(one.get('forward_s'))} s, which is no time to wait."
        case "repeated":
            return f"Sent again under the same key: {shown(one.get('result'))}, {shown(one.get('detail'))}."
        case "recovered":
            return f"The order {shown(one.get('provider_order'))} at {provider} can only be this one."
        case "person":
            ended = "it was bought" if one.get("outcome") == "placed" else "it was not bought"
            return f"{shown(one.get('by'))} said: {ended}."
        case kind:
            rest = {name: value for name, value in one.items() if name not in ("kind", "at")}
            return f"{shown(kind)}: {compact(rest)}"


def _hider(one: Mapping[str, Any], provider: str) -> str:
    """What may have hidden the debit, so that an unmoved balance proves nothing yet."""
    more = f" and {one['more']} more" if one.get("more") else ""
    named = f"{', '.join(map(clean, one.get('orders') or []))}{more}"
    match one.get("by"):
        case "unclear":
            return (
                f"{named}, unclear too, may have been bought, canceled and paid back, which nobody is told. Resolve "
                "that first; this one is freed by itself after it while its balance is still read."
            )
        case "refunds":
            return f"a refund of {named or 'very many orders'} may have come just then."
        case _:
            return f"not everybody at {provider} has answered yet who may have been paid back. They are asked again."


def _balance(one: Mapping[str, Any], attempt: Attempt) -> str:
    currency = clean((attempt.get("expected_cost") or {}).get("currency", ""))
    read = f"The balance was {shown(one.get('balance'))} {currency}"
    without = f"{shown(one.get('certain'))} {currency} without this purchase"
    match one.get("shown") if one.get("sharp") else None:
        case "debited":
            gone = str(one.get("difference", "")).removeprefix("-")
            return f"{read}, and would be {without}. Only with this purchase do the {clean(gone)} add up: bought."
        case "unmoved":
            return (
                f"{read}, as it would be {without}: not debited by then. Speaks for not bought, but some providers "
                "debit late."
            )
        case "undecided":
            return f"{read}. Several purchases are open, and more than one set of them explains it: says nothing."
        case _:
            return f"{read}, and would be {without}. No purchase explains the difference: says nothing."
