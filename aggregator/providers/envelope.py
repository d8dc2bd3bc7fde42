"""What a reply says beside its data: that it failed, and in which words; and what that proves.

Decides whether an answer may be read at all, and what an error means for a purchase, for a wish (refill, cancel) and
for a question. It never finds success: that takes an id, which only the dialects look for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aggregator.domain.orders import OrderState
from aggregator.domain.sizes import MAX_ID
from aggregator.domain.wire import HttpReply
from aggregator.providers import meanings, words
from aggregator.providers.contract import (
    CONSEQUENCES,
    Account,
    Consequence,
    Failure,
    FailureKind,
    Meaning,
    Refused,
    Unclear,
)
from aggregator.providers.reading import Redactor, Unreadable, flag, layers, parse, too_long, without_goods
from aggregator.providers.sentences import may_have_happened

# {"error":"…"} · {"status":"error","message":"…"} · {"status":"fail","message":"…"} ·
# {"status":"error","msg":"…","error":"neworder.error.x"} · {"message":"…","errors":{"link":["…"]}}
_ERRORS: Final = ("error", "errors", "error_message", "error_msg", "errorMessage", "err")
_MESSAGES: Final = ("message", "msg", "detail", "details", "reason", "description", "error_description", "title")
_FLAGS: Final = ("success", "ok")
_NO_ERROR: Final = frozenset({"", "0", "false", "null", "none", "no"})
_MOST_TEXTS: Final = 8

_KINDS: Final[Mapping[Meaning, FailureKind]] = {
    Meaning.AUTH: FailureKind.AUTH,
    Meaning.RATE_LIMIT: FailureKind.RATE_LIMIT,
    Meaning.UNKNOWN_ORDER: FailureKind.NOT_FOUND,
    Meaning.SERVICE: FailureKind.NOT_FOUND,
    Meaning.PARAMETERS: FailureKind.UNSUPPORTED,
}


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer says of itself. `texts` are the words of its error; `hints` a bare message, which is an error only
    where there is no data; `succeeded` that it claims success in so many words."""

    failed: bool = False
    succeeded: bool = False
    texts: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


def said(objects: Sequence[Mapping[str, object]], *, own: Sequence[str] = ()) -> Said:
    """Read the error fields of an answer's objects. `own` names fields that are the data's, not the envelope's: an
    order's `status`, a number's `code`."""
    explicit: list[str] = []
    messages: list[str] = []
    failed = succeeded = False
    for one in objects:
        for name in _ERRORS:
            value = one.get(name)
            if _is_error(value):
                failed = True
                explicit.extend(_texts(value))
        flags = [flag(one[name]) for name in _FLAGS if name in one]
        flags += [_verdict(one.get(name)) for name in ("status", "code") if name not in own]
        failed = failed or False in flags
        succeeded = succeeded or True in flags
        for name in _MESSAGES:
            messages.extend(_texts(one.get(name)))
        if isinstance(one.get("data"), str):
            messages.extend(_texts(one["data"]))
    if failed:
        return Said(True, succeeded, tuple(dict.fromkeys([*explicit, *messages]))[:_MOST_TEXTS])
    return Said(False, succeeded, (), tuple(dict.fromkeys(messages))[:_MOST_TEXTS])


def _is_error(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().casefold() not in _NO_ERROR
    return bool(value)


def _verdict(value: object) -> bool | None:
    """Whether a `status` (or numeric `code`) of an envelope says that the call went well, badly, or neither."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return False if 400 <= value <= 599 else None
    if isinstance(value, str):
        spelled = words.word(value)
        if spelled in words.ENVELOPE_FAILED:
            return False
        if spelled in words.ENVELOPE_SUCCEEDED:
            return True
    return None


def _texts(value: object, depth: int = 4) -> Iterator[str]:
    """The sentences in an error value: a string, or the strings of an object or list (Laravel's `errors`)."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif depth and isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner, depth - 1)
    elif depth and isinstance(value, list):
        for inner in value[:_MOST_TEXTS]:
            yield from _texts(inner, depth - 1)


@dataclass(frozen=True, slots=True)
class Opened:
    """A reply that could be read; `objects` are its object and the one under `data`."""

    reply: HttpReply
    document: object
    objects: tuple[Mapping[str, object], ...]

    @property
    def accepted(self) -> bool:
        """A 2xx; the only status under which anything can have gone well."""
        return 200 <= self.reply.status < 300


_TRACES: Final = ("order", "orders", "order_id", "orderid", "order_ids", "id", "ids", "charge", "phone", "phones")
"""Where an answer would carry the id, the price or the number of something that was bought."""
_NO_TRACE: Final = frozenset({"", "null", "none", "false", "0", "-1"})


def leaves_a_trace(document: object, depth: int = 4) -> bool:
    """Whether an answer carries anything of an order, in whatever shape: then no text in it proves that none exists."""
    if not depth:
        return False
    if isinstance(document, list):
        return any(leaves_a_trace(one, depth - 1) for one in document)
    if not isinstance(document, dict):
        return False
    for name, value in document.items():
        if name in _ERRORS:  # `errors: {"order": ["is required"]}` names a field
            continue
        if name.casefold() in _TRACES and _is_trace(value):
            return True
        if isinstance(value, dict | list) and leaves_a_trace(value, depth - 1):
            return True
    return False


def _is_trace(value: object) -> bool:
    if isinstance(value, list):
        return any(_is_trace(one) for one in value)
    if isinstance(value, bool | dict) or value is None:
        return value is True
    spelled = str(value).strip().casefold()
    return spelled not in _NO_TRACE and spelled.strip("0.") != ""


class Envelope:
    """Reads replies of one account: its own words first, its API key never kept."""

    def __init__(self, account: Account) -> None:
        self.clean: Final = Redactor(account.api_key)
        self._error_words = {words.sentence(text): consequence for text, consequence in account.error_words.items()}
        self._exact_errors = {text.strip(): consequence for text, consequence in account.error_words.items()}
        self._status_words = {words.word(text): state for text, state in account.status_words.items()}
        self._exact_status = {text.strip(): state for text, state in account.status_words.items()}

    # --- words ---

    def order_state(self, raw: str) -> OrderState | None:
        """The state a status word reads as: the operator's reading, then the table's; None is unknown."""
        spelled = words.word(raw)
        own = self._exact_status.get(raw.strip()) or self._status_words.get(spelled)
        return own or words.ORDER_STATES.get(spelled)

    def own_order_state(self, raw: str) -> OrderState | None:
        return self._exact_status.get(raw.strip()) or self._status_words.get(words.word(raw))

    def own_consequence(self, texts: Sequence[str]) -> tuple[Consequence, str] | None:
        """The operator's own reading of an error text."""
        for text in texts:
            found = self._exact_errors.get(text.strip()) or self._error_words.get(words.sentence(text))
            if found is not None:
                return found, text
        return None

    def meaning(self, texts: Sequence[str]) -> tuple[Meaning, str]:
        """The first listed meaning among an error's texts: panels send the same error in words and as a key."""
        for text in texts:
            found = meanings.meaning_of(self.clean.without(text))
            if found is not Meaning.GENERIC:
                return found, text
        return Meaning.GENERIC, " · ".join(texts)

    # --- purchases and wishes: what may have had an effect ---

    def open_action(self, reply: HttpReply) -> Opened | Unclear:
        """An answer to something that may have had an effect, or why nobody knows whether it had."""
        if 300 <= reply.status < 400:
            return self.unclear("redirect", reply)
        # 5xx even with a listed refusal in its body: it may be a gateway's page, or an error thrown after the order was
        # written; design.md, "What did it leave decides".
        if not (200 <= reply.status < 300 or 400 <= reply.status < 500):
            return self.unclear(f"http_{reply.status}", reply)
        document = parse(reply.body)
        if isinstance(document, Unreadable):
            if reply.status == 429:
                return Opened(reply, None, ())
            return self.unclear(document.reason if reply.status < 300 else f"http_{reply.status}", reply)
        return Opened(reply, document, layers(document))

    def unclear(self, reason: str, reply: HttpReply) -> Unclear:
        """Nobody knows; with the beginning of the body, for the person who will have to look."""
        return Unclear(reason, self.quoted(" ".join(reply.body[:20_000].decode("utf-8", "replace").split())))

    def quoted(self, text: str) -> str:
        """What a provider said, as it may stand in a log, an order's error and an event."""
        return self.clean(without_goods(text))

    def contradicts(self, opened: Opened, spoken: Said) -> bool:
        """Whether an answer that carries an id also says that it failed."""
        listed = self.own_consequence(spoken.hints) or self.meaning(spoken.hints)[0] is not Meaning.GENERIC
        return not opened.accepted or spoken.failed or bool(listed)

    def not_placed(self, opened: Opened, spoken: Said) -> Refused | Unclear:
        """What an answer without an id proves of a purchase: a listed refusal, or nothing."""
        texts = spoken.texts or spoken.hints
        own = self.own_consequence(texts)
        if own is not None and own[0] is Consequence.UNCLEAR:
            return Unclear("error_text", self.quoted(own[1]))
        meaning, text = self.meaning(texts)
        refused = own is not None or meaning is not Meaning.GENERIC or opened.reply.status == 429
        if refused and (
            spoken.succeeded or leaves_a_trace(opened.document) or (own is None and self._doubts(spoken, texts))
        ):
            return self.unclear("contradiction", opened.reply)
        if opened.reply.status == 429:
            return self._rate_limited(opened, " · ".join(texts))
        if own is not None:
            return Refused(Meaning.OPERATOR, own[0], self.quoted(own[1]), opened.reply.retry_after_s)
        consequence = CONSEQUENCES[meaning]
        if meaning is Meaning.RATE_LIMIT:
            return self._rate_limited(opened, text)
        if consequence is not Consequence.UNCLEAR:
            return Refused(meaning, consequence, self.quoted(text), opened.reply.retry_after_s)
        return self._proves_nothing(opened, spoken, text)

    def _doubts(self, spoken: Said, texts: Sequence[str]) -> bool:
        """Whether a refusal stands beside words that say that something happened, or that nobody knows."""
        cleaned = [self.clean.without(text) for text in (*texts, *spoken.hints)]
        return any(meanings.meaning_of(text) is Meaning.GENERIC and may_have_happened(text) for text in cleaned)

    def _rate_limited(self, opened: Opened, text: str) -> Refused:
        wait_s = opened.reply.retry_after_s
        if wait_s is None:
            wait_s = words.wait_named(text)
        return Refused(
            Meaning.RATE_LIMIT, Consequence.LATER, self.quoted(text) or f"HTTP {opened.reply.status}", wait_s
        )

    def _proves_nothing(self, opened: Opened, spoken: Said, text: str) -> Unclear:
        if spoken.texts or (spoken.hints and not spoken.succeeded):
            return Unclear("error_text", self.quoted(text))
        if not opened.accepted:
            return self.unclear(f"http_{opened.reply.status}", opened.reply)
        if opened.document is None:
            return self.unclear("null", opened.reply)
        long = next((found for one in opened.objects if (found := too_long(one.get("order"))) is not None), None)
        if long is not None:
            # Bought, most likely; under an id that cannot be followed.
            words = f"the answer names an order id of {long} characters, more than the {MAX_ID} of any known provider"
            return Unclear("id_too_long", f"{words}: {self.unclear('', opened.reply).text}")
        # An id is missing where an object has none; another kind of document is one that nobody documented.
        return self.unclear("no_id" if opened.objects or opened.document == [] else "unknown_json", opened.reply)

    # --- questions ---

    def open_answer(self, reply: HttpReply) -> Opened | Failure:
        """An answer to a question, or why there is none. HTTP statuses first, then whether it is JSON at all."""
        if reply.status == 429:
            spoken = said(layers(parse(reply.body)))
            wait_s = reply.retry_after_s or words.wait_named(" · ".join(spoken.texts or spoken.hints))
            return Failure(FailureKind.RATE_LIMIT, "HTTP 429", wait_s)
        document: object | Unreadable = Unreadable(f"http_{reply.status}")
        if 200 <= reply.status < 300 or 400 <= reply.status < 500:
            document = parse(reply.body)
        if isinstance(document, Unreadable):
            kind = FailureKind.AUTH if reply.status == 401 else FailureKind.UNREADABLE
            return Failure(kind, f"HTTP {reply.status}, {document.reason}", reply.retry_after_s)
        opened = Opened(reply, document, layers(document))
        if opened.accepted:
            return opened
        spoken = said(opened.objects)
        failure = self.failure(spoken.texts or spoken.hints, reply)
        if failure.kind is FailureKind.ERROR and reply.status == 401:
            return Failure(FailureKind.AUTH, failure.text, reply.retry_after_s)
        return failure

    def complaint(self, opened: Opened, *, own: Sequence[str] = ()) -> Failure | None:
        """The failure that an answer speaks of, if it speaks of one."""
        spoken = said(opened.objects, own=own)
        return self.failure(spoken.texts, opened.reply) if spoken.failed else None

    def no_answer(self, opened: Opened, expected: str) -> Failure:
        """An answer without what was asked for: its bare message if it means something, else an unknown shape."""
        hints = said(opened.objects).hints
        failure = self.failure(hints, opened.reply) if hints else None
        if failure is not None and failure.kind is not FailureKind.ERROR:
            return failure
        return Failure(FailureKind.UNREADABLE, self.clean(f"no {expected} in the answer"))

    def failure(self, texts: Sequence[str], reply: HttpReply) -> Failure:
        """An error text as the answer to a question."""
        own = self.own_consequence(texts)
        meaning, text = self.meaning(texts)
        kind = _KINDS.get(meaning, FailureKind.ERROR)
        if own is not None and own[0] is Consequence.PROVIDER_DOWN:
            kind, text = FailureKind.AUTH, own[1]
        elif kind is FailureKind.ERROR and any(meanings.names_no_form(self.clean.without(one)) for one in texts):
            kind = FailureKind.UNSUPPORTED
        elif kind is FailureKind.ERROR and any(
            meanings.wants_fewer_questions(self.clean.without(one)) for one in texts
        ):
            kind = FailureKind.RATE_LIMIT
        wait_s = reply.retry_after_s
        if wait_s is None and kind is FailureKind.RATE_LIMIT:
            wait_s = words.wait_named(text)
        return Failure(kind, self.quoted(text) or f"HTTP {reply.status}, an error without a text", wait_s)
