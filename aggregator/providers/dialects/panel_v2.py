"""The panel protocol as smm_plus.txt documents it: the common tongue of SMM panels, with batches, refills and cancels.

Decides what a batched answer says of each id that was asked for, and what became of a refill or a cancel. It never
carries one id's answer over to another, and never takes an order's status for proof of a refill.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from aggregator.domain.wire import HttpReply, HttpRequest
from aggregator.providers import refusals, words
from aggregator.providers.contract import (
    BatchForm,
    CancelAsked,
    CancelRefused,
    CancelResult,
    Capabilities,
    Consequence,
    Failure,
    FailureKind,
    Meaning,
    RefillAccepted,
    RefillRefusal,
    RefillRefused,
    RefillReport,
    RefillResult,
    StatusBatch,
    StatusReport,
    Unclear,
)
from aggregator.providers.envelope import Opened, Said, said
from aggregator.providers.panel import PanelDialect
from aggregator.providers.reading import as_object, flag, identifier, plain, whole

_REFUSED_BEFORE: Final[Mapping[Meaning, RefillRefusal]] = {
    Meaning.UNKNOWN_ORDER: RefillRefusal.UNKNOWN_ORDER,
    Meaning.PARAMETERS: RefillRefusal.NEVER,
    Meaning.SERVICE: RefillRefusal.NEVER,
}
"""Errors of a call that reach a refill: the call was turned away, so nothing was asked for."""

_NOT_ASKED: Final = frozenset({Meaning.AUTH, Meaning.RATE_LIMIT})
"""Errors that say nothing of the order: its refill is asked for again as soon as the provider listens."""

_NO_SUCH_BATCH: Final = frozenset({Meaning.PARAMETERS, Meaning.UNKNOWN_ORDER})
"""What a refill of many is turned away with, whole: by a server that takes one at a time, or for one id's sake."""

_WHOLE_CALL: Final = frozenset({Meaning.AUTH, Meaning.RATE_LIMIT, Meaning.PARAMETERS})
"""What is said of a call as such, hence of every id in it; anything else may concern one of them only."""

_OF_THE_MOMENT: Final = frozenset({Meaning.AUTH, Meaning.RATE_LIMIT, Meaning.UNKNOWN_ORDER})
"""Refusals of a cancel that say nothing of the wish: it is worth sending again."""

_OWN_REFUSALS: Final[Mapping[Consequence, RefillRefusal]] = {
    Consequence.NEXT_OFFER: RefillRefusal.NEVER,
    Consequence.CALLERS_FAULT: RefillRefusal.NEVER,
    Consequence.LATER: RefillRefusal.LATER,
    Consequence.PROVIDER_DOWN: RefillRefusal.LATER,
}


class PanelV2(PanelDialect):
    """smm_plus.txt."""

    name = "panel_v2"
    capabilities = Capabilities(
        kinds=frozenset({"smm"}),
        batched_status=True,
        refill=True,
        batched_refill=True,
        cancel=True,
        drip_feed=True,
    )

    # --- batched status ---

    def build_statuses(self, orders: Sequence[str], form: BatchForm = BatchForm.ORDERS) -> HttpRequest:
        return self.ask("status", ("order" if form is BatchForm.ORDER else "orders", self.joined(orders)))

    def read_statuses(self, reply: HttpReply, orders: Sequence[str]) -> StatusBatch | Failure:
        # {"1": {"charge":"0.27819","start_count":"3572","status":"Partial","remains":"157","currency":"USD"},
        #  "10": {"error": "Incorrect order ID"}}
        opened = self.envelope.open_answer(reply)
        if isinstance(opened, Failure):
            return opened
        answers = _by_id(opened.document, "order", orders)
        if not answers and self.envelope.complaint(opened) is None:
            answers = _by_id(_unwrapped(opened.document, orders), "order", orders)
        if not answers:
            return self._no_batch(opened)
        reports: dict[str, StatusReport] = {}
        errors: dict[str, tuple[Meaning, str]] = {}
        for order, answer in answers.items():
            report = self.report(answer, reply, by_id=True)
            if isinstance(report, StatusReport):
                reports[order] = report
            elif isinstance(report, Failure):
                spoken = _of_item(answer, "status")
                errors[order] = (self.envelope.meaning(spoken.texts or spoken.hints)[0], report.text)
        return StatusBatch(reports, errors)

    def _no_batch(self, opened: Opened) -> Failure:
        """An answer that names none of the ids. A flat status is never applied: it does not say whose it is."""
        for one in opened.objects:
            report = self.report(one, opened.reply)
            if isinstance(report, StatusReport):
                return Failure(FailureKind.UNSUPPORTED, "one status without an id in answer to a batch")
        if isinstance(opened.document, list) and not opened.objects:
            return Failure(FailureKind.UNSUPPORTED, "a list without ids in answer to a batch")
        failure = self.envelope.complaint(opened) or self.envelope.no_answer(opened, "orders by id")
        if failure.kind is FailureKind.UNREADABLE and opened.document is not None:
            # It is JSON, and not an error: this server answers something, but not batches.
            return Failure(FailureKind.UNSUPPORTED, failure.text, opened.reply.retry_after_s)
        return failure

    # --- refill ---

    def build_refills(self, orders: Sequence[str], idempotency_key: str | None = None) -> HttpRequest:
        field = ("order", orders[0]) if len(orders) == 1 else ("orders", self.joined(orders))
        return self.ask("refill", field, idempotency_key=idempotency_key)

    def read_refills(self, reply: HttpReply, orders: Sequence[str]) -> Mapping[str, RefillResult]:
        # {"refill": "1"} · [{"order": 1, "refill": 1}, {"order": 3, "refill": {"error": "Incorrect order ID"}}]
        opened = self.envelope.open_action(reply)
        if isinstance(opened, Unclear):
            return dict.fromkeys(orders, opened)
        answers = _wishes(opened, "refill", orders)
        return {
            order: self._refill(opened, answers[order]) if order in answers else self._whole_refill(opened, orders)
            for order in orders
        }

    def _refill(self, opened: Opened, answer: Mapping[str, object]) -> RefillResult:
        spoken = _of_item(answer, "refill")
        refill = self.receipts([answer.get("refill")])
        if spoken.failed:
            running = self._refused_refill(opened, spoken)
            if not refill:
                return running
            # {"error": "refill already in progress", "refill": 55} names the one to follow; else an id and an error
            # contradict each other.
            if isinstance(running, RefillRefused) and running.refusal is RefillRefusal.RUNNING:
                return RefillRefused(running.refusal, running.text, running.retry_after_s, refill[0])
            return self.envelope.unclear("contradiction", opened.reply)
        if refill and (self.envelope.contradicts(opened, spoken) or said(opened.objects).failed):
            return self.envelope.unclear("contradiction", opened.reply)
        if refill:
            return RefillAccepted(refill[0])
        return self._refused_refill(opened, spoken)

    def _whole_refill(self, opened: Opened, orders: Sequence[str]) -> RefillResult:
        """What an answer that does not name an order says of it: one for all, if the call itself was turned away."""
        spoken = said(opened.objects)
        texts = spoken.texts or spoken.hints
        meaning, text = self.envelope.meaning(texts)
        if len(orders) == 1 or opened.reply.status == 429 or meaning in _NOT_ASKED:
            return self._refused_refill(opened, spoken)
        named = _by_id(opened.document, "order", orders)
        own = self.envelope.own_consequence(texts)
        if meaning in _NO_SUCH_BATCH and spoken.failed and not (spoken.succeeded or named or own):
            # "Missing order parameter", "Incorrect order ID": nothing was asked for, which says nothing against the
            # orders one by one.
            return self._turned_away(opened, meaning, text)
        return self.envelope.unclear("error_text" if spoken.failed else "no_id", opened.reply)

    def _refused_refill(self, opened: Opened, spoken: Said) -> RefillRefused | Unclear:
        texts = spoken.texts or spoken.hints
        own = self.envelope.own_consequence(texts)
        if own is not None and own[0] in _OWN_REFUSALS:
            return self._refill_refusal(opened, _OWN_REFUSALS[own[0]], own[1])
        if own is None and opened.reply.status == 429:
            return self._turned_away(opened, Meaning.RATE_LIMIT, " · ".join(texts) or "HTTP 429")
        for text in texts if own is None and not spoken.succeeded else ():
            listed = refusals.refill_refusal(self.envelope.clean.without(text))
            meaning = self.envelope.meaning([text])[0]
            if listed is None and meaning in _NOT_ASKED:
                return self._turned_away(opened, meaning, text)
            if listed is None and (listed := _REFUSED_BEFORE.get(meaning)) is RefillRefusal.NEVER:
                listed = RefillRefusal.LATER if refusals.passing(text) else listed
            if listed is not None:
                return self._refill_refusal(opened, listed, text)
        # {"order": 23501} or a status is no proof of a refill, and no refusal either.
        verdict = self.envelope.not_placed(opened, spoken)
        return verdict if isinstance(verdict, Unclear) else self.envelope.unclear("error_text", opened.reply)

    def _refill_refusal(self, opened: Opened, refusal: RefillRefusal, text: str) -> RefillRefused:
        wait_s = opened.reply.retry_after_s
        if wait_s is None and refusal is RefillRefusal.LATER:
            wait_s = words.wait_named(text)
        named = words.id_named(self.envelope.clean.without(text)) if refusal is RefillRefusal.RUNNING else None
        return RefillRefused(refusal, self.envelope.clean(text), wait_s, named)

    def _turned_away(self, opened: Opened, meaning: Meaning, text: str) -> refusals.TurnedAway:
        told = self._refill_refusal(opened, RefillRefusal.LATER, text)
        return refusals.TurnedAway(told.refusal, told.text, told.retry_after_s, meaning=meaning)

    # --- refill status ---

    def build_refill_statuses(self, refills: Sequence[str]) -> HttpRequest:
        field = ("refill", refills[0]) if len(refills) == 1 else ("refills", self.joined(refills))
        return self.ask("refill_status", field)

    def read_refill_statuses(
        self, reply: HttpReply, refills: Sequence[str]
    ) -> Mapping[str, RefillReport | Failure] | Failure:
        # {"status": "Completed"} · [{"refill": 2, "status": "Rejected"}, {"refill": 3, "status": {"error": "Refill not
        # found"}}]
        opened = self.envelope.open_answer(reply)
        if isinstance(opened, Failure):
            return opened
        answers = _by_id(opened.document, "refill", refills)
        if answers is not None:
            found = {refill: self._refill_report(answer, reply) for refill, answer in answers.items()}
            return {refill: report for refill, report in found.items() if report is not None}
        if len(refills) > 1 or not opened.objects:
            flat = any("status" in one for one in opened.objects) and self.envelope.complaint(opened) is None
            if flat:
                return Failure(FailureKind.UNSUPPORTED, "one status without an id in answer to a batch")
            return self.envelope.complaint(opened) or self.envelope.no_answer(opened, "refills by id")
        for one in reversed(opened.objects):
            report = self._refill_report(one, reply)
            if isinstance(report, Failure) and report.kind is not FailureKind.NOT_FOUND:
                return report
            if report is not None and self.about(one, "refill", refills[0]):
                return {refills[0]: report}
        return self.envelope.no_answer(opened, "refill status")

    def _refill_report(self, answer: Mapping[str, object], reply: HttpReply) -> RefillReport | Failure | None:
        spoken = _of_item(answer, "status", own=["status"])
        if spoken.failed:
            return self.envelope.failure(spoken.texts, reply)
        raw = answer.get("status")
        spelled = words.word(plain(raw))
        if spelled in words.ENVELOPE_FAILED and spoken.hints:
            return self.envelope.failure(spoken.hints, reply)
        if not isinstance(raw, str) or spelled in words.ENVELOPE_SUCCEEDED:
            return None
        return RefillReport(self.envelope.clean(raw), words.REFILL_STATES.get(spelled))

    # --- cancel ---

    def build_cancels(self, orders: Sequence[str], idempotency_key: str | None = None) -> HttpRequest:
        return self.ask("cancel", ("orders", self.joined(orders)), idempotency_key=idempotency_key)

    def read_cancels(self, reply: HttpReply, orders: Sequence[str]) -> Mapping[str, CancelResult]:
        # [{"order": 9, "cancel": {"error": "Incorrect order ID"}}, {"order": 2, "cancel": 1}]
        opened = self.envelope.open_action(reply)
        if isinstance(opened, Unclear):
            return dict.fromkeys(orders, opened)
        answers = _wishes(opened, "cancel", orders)
        return {
            order: self._cancel(opened, answers[order]) if order in answers else self._whole_cancel(opened, orders)
            for order in orders
        }

    def _cancel(self, opened: Opened, answer: Mapping[str, object]) -> CancelResult:
        """`cancel: 1` means asked, not canceled."""
        spoken = _of_item(answer, "cancel")
        value = answer.get("cancel")
        asked = flag(value) is True or (whole(value) or 0) > 0
        if asked and (self.envelope.contradicts(opened, spoken) or said(opened.objects).failed):
            return self.envelope.unclear("contradiction", opened.reply)
        if asked:
            return CancelAsked()
        # An error in the place where the document puts refusals is one, unless it could be said of any failure.
        return self._refused_cancel(opened, spoken, documented=spoken.failed)

    def _whole_cancel(self, opened: Opened, orders: Sequence[str]) -> CancelResult:
        spoken = said(opened.objects)
        meaning = self.envelope.meaning(spoken.texts or spoken.hints)[0]
        if len(orders) > 1 and opened.reply.status != 429 and meaning not in _WHOLE_CALL:
            return self.envelope.unclear("error_text" if spoken.failed else "no_id", opened.reply)
        return self._refused_cancel(opened, spoken, documented=spoken.failed and opened.accepted)

    def _refused_cancel(self, opened: Opened, spoken: Said, *, documented: bool) -> CancelResult:
        texts = [self.envelope.clean.without(text) for text in spoken.texts or spoken.hints]
        text = self.envelope.clean(" · ".join(spoken.texts or spoken.hints))
        own = self.envelope.own_consequence(spoken.texts or spoken.hints)
        if own is not None:
            return Unclear("error_text", text) if own[0] is Consequence.UNCLEAR else CancelRefused(text)
        if opened.reply.status == 429:
            return CancelRefused(text or "HTTP 429", Meaning.RATE_LIMIT)
        if any(refusals.cancel_already_asked(one) for one in texts):
            return CancelAsked()
        meaning = self.envelope.meaning(texts)[0]
        listed = meaning is not Meaning.GENERIC
        if not spoken.succeeded and texts and (listed or (documented and not any(map(refusals.sounds_generic, texts)))):
            return CancelRefused(text, meaning if meaning in _OF_THE_MOMENT else None)
        verdict = self.envelope.not_placed(opened, spoken)
        return verdict if isinstance(verdict, Unclear) else self.envelope.unclear("error_text", opened.reply)


# --- whose answer is it? -------------------------------------------------------------------------------------------


def _of_item(answer: object, name: str, *, own: Sequence[str] = ()) -> Said:
    """What an item says of itself, or in the place of its value: {"order": 3, "refill": {"error": "…"}}."""
    if not isinstance(answer, dict):
        return Said()
    inner = answer.get(name)
    return said((answer, inner) if isinstance(inner, dict) else (answer,), own=own)


_NOT_IDS: Final = frozenset({"data", "status", "error", "errors"})


def _items(document: object, name: str, asked: Sequence[str]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(id, item) of every item of a batched answer: keyed by id, or a list whose items name theirs under `name`."""
    for holder in (document, document.get("data") if isinstance(document, dict) else None):
        if isinstance(holder, dict):
            named = {key.strip(): as_object(value) for key, value in holder.items() if key not in _NOT_IDS}
            batch = None not in named.values()
            for owner, one in named.items():
                if one is not None and (batch or owner in asked) and identifier(one.get(name)) in (None, owner):
                    yield owner, one
        for one in holder if isinstance(holder, list) else ():
            owner = identifier(one.get(name)) if isinstance(one, dict) else None
            if owner is not None:
                yield owner, one


def _by_id(document: object, name: str, asked: Sequence[str]) -> dict[str, Mapping[str, object]] | None:
    """The answers to the ids that were asked for; None when the document is no batch at all.

    An id answered twice and differently is not answered. Ids nobody asked for are ignored.
    """
    found: dict[str, Mapping[str, object]] = {}
    doubtful: set[str] = set()
    batch = document in ({}, []) or (isinstance(document, dict) and document.get("data") in ({}, []))
    for owner, one in _items(document, name, asked):
        batch = True
        if owner in asked and found.setdefault(owner, one) != one:
            doubtful.add(owner)
    return {owner: one for owner, one in found.items() if owner not in doubtful} if batch else None


def _unwrapped(document: object, asked: Sequence[str]) -> object:
    """The batch under the one key that holds it, whatever it is called: {"orders": {"101": {…}}}. None where no key
    does, or more than one."""
    holders = [document, document.get("data")] if isinstance(document, dict) else []
    found = [
        value
        for holder in holders
        if isinstance(holder, dict)
        for key, value in holder.items()
        if key not in asked and key not in ("error", "errors", "data") and _by_id(value, "order", asked)
    ]
    return found[0] if len(found) == 1 else None


def _wishes(opened: Opened, name: str, orders: Sequence[str]) -> dict[str, Mapping[str, object]]:
    """The answers to refills or cancels, by order; an answer to the only order asked for need not name it."""
    found = _by_id(opened.document, "order", orders) or {}
    if len(orders) == 1 and not found:
        for one in opened.objects:
            if name in one and identifier(one.get("order")) in (None, orders[0]):
                return {orders[0]: one}
    return found
