"""Bytes in, plain values out: liberal about how providers write JSON, numbers, flags and ids.

Decides what counts as readable, as an id, as a number or as money; what is not one is None, never a guess and never an
exception. It knows no action and no word: what a value means is said in words.py, envelope.py and the dialects.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final
from urllib.parse import quote, quote_plus

from aggregator.domain.money import Money, MoneyError
from aggregator.domain.sizes import MAX_CURRENCY, MAX_ID

MAX_WHOLE: Final = 2**63 - 1
"""What a signed 64-bit column holds."""
MAX_DEPTH: Final = 64
"""Of nested objects and arrays; documented answers nest three deep."""
MAX_TEXT: Final = 500
"""Of a provider's sentence; enough to understand it, short enough to keep with every attempt."""
_EXACT_DIGITS: Final = 40
"""Integers up to this length stay ints; Python refuses to parse far longer ones, and nothing here needs them."""

_NO_ID: Final = frozenset(
    {"null", "none", "nil", "undefined", "nan", "n/a", "na", "false", "true", "unknown", "error", "success", "ok", "-"}
)
_ABSENT: Final = frozenset({"", "null", "none", "nil", "undefined", "n/a", "na", "unknown", "-"})
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
_WORD: Final = re.compile(r"[A-Z]?[a-z]{1,20}(?:[A-Z][a-z]{2,20})*|[A-Z]{1,20}")
"""Letters in the shape of a word: `failed`, `PLACED`, `InProgress`; `aBcDkQ` is none."""
_NOT_A_NUMBERED_ID: Final = re.compile(r"\+?0+|-\d+|[-+]?\d*\.\d+|[-+]?\d+\.", re.ASCII)
_WHOLE: Final = re.compile(r"\+?(\d{1,19})(?:\.0{1,20})?", re.ASCII)
_CURRENCY: Final = re.compile(rf"[A-Za-z]{{2,{MAX_CURRENCY}}}")
_GROUPED: Final = re.compile(r"\+?[1-9]\d{0,2}(?:,\d{3})+", re.ASCII)
_UNIT: Final = rf"[A-Za-z]{{2,{MAX_CURRENCY}}}|[^\w\s.,+-]"
_PRICE: Final = re.compile(rf"(?:({_UNIT})\s?)?(\d[\d,]*(?:\.\d+)?)(?:\s?({_UNIT}))?", re.ASCII)
_SYMBOLS: Final[Mapping[str, frozenset[str]]] = {
    "$": frozenset({"USD", "AUD", "CAD", "NZD", "SGD", "HKD", "MXN", "ARS", "CLP", "COP", "TWD"}),
    "€": frozenset({"EUR"}),
    "£": frozenset({"GBP"}),
    "¥": frozenset({"JPY", "CNY"}),
    "₹": frozenset({"INR"}),
    "₽": frozenset({"RUB"}),
    "₺": frozenset({"TRY"}),
    "₴": frozenset({"UAH"}),
    "₦": frozenset({"NGN"}),
    "₩": frozenset({"KRW"}),
    "₫": frozenset({"VND"}),
}
"""What a symbol may stand for. It names no currency, but it may say that an amount is in the one that is expected."""
_GRANTED: Final = frozenset({"y", "enabled"})
_DAYS: Final = re.compile(r"r?[1-9]\d{0,3}(?:\s?d(?:ays?)?)?", re.ASCII)
_INVISIBLE: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The body is no JSON document; `reason` is a stable word."""

    reason: str


def parse(body: bytes) -> object | Unreadable:
    """The JSON document in `body`, whatever content type it came under (quirks.md: JSON as `text/html` is common).

    Numbers with a point become Decimal, never float. NaN and Infinity are no JSON (RFC 8259 §6). Of duplicate keys the
    last one counts, as in every parser the panels' own clients use.
    """
    try:
        text = body.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return Unreadable("not_utf8")
    if not text:
        return Unreadable("empty")
    if text.startswith("<"):
        return Unreadable("html")
    try:
        document: object = json.loads(text, parse_float=_decimal, parse_int=_integer, parse_constant=_refuse)
    except RecursionError:
        return Unreadable("too_deep")
    except ValueError:
        return Unreadable("not_json")
    return document if _shallow(document) else Unreadable("too_deep")


def _shallow(document: object) -> bool:
    """Whether the document can be walked, compared and written again without the interpreter's recursion limit."""
    level = [document]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for holder in level
            for child in (holder.values() if isinstance(holder, dict) else holder if isinstance(holder, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return True
    return False


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= _EXACT_DIGITS else _decimal(digits)


def _decimal(digits: str) -> Decimal:
    try:
        return Decimal(digits)
    except InvalidOperation:  # an exponent beyond what Decimal holds: a number, but none that means anything
        return Decimal("NaN")


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


# --- scalars -------------------------------------------------------------------------------------------------------


def identifier(value: object) -> str | None:
    """An order's, service's or refill's id: a positive integer or an opaque printable word; else None.

    Blanks and commas make it none: a sentence in the place of an id is an error text, and ids are sent joined by
    commas.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value).strip()
    if not 0 < len(text) <= MAX_ID or text.casefold() in _NO_ID or _NOT_A_NUMBERED_ID.fullmatch(text):
        return None
    if not text.isprintable() or any(character.isspace() or character == "," for character in text):
        return None
    return text


def receipt(value: object) -> str | None:
    """The id under which a provider took an order or a refill; else None.

    Words in its place (`failed`, `Pending`) say how the call went, so letters alone that read as words are none: what a
    catalogue calls its services by may be a word, what a server numbers is not.
    """
    found = identifier(value)
    if found is None or any(character.isdigit() for character in found):
        return found
    wordy = all(_WORD.fullmatch(run) for run in re.findall("[A-Za-z]+", found))
    return None if wordy or not found.isascii() else found


def too_long(value: object) -> int | None:
    """How long the text in an id's place is, where it is longer than any id that can be kept."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    length = len(str(value).strip())
    return length if length > MAX_ID else None


def whole(value: object) -> int | None:
    """A count from 0 to 2^63-1, as number or string (`"157"`, `157`, `157.0`); anything else is unknown."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    if isinstance(value, Decimal):
        if not value.is_finite() or value.adjusted() > 18 or value != value.to_integral_value():
            return None
        count = int(value)
    elif isinstance(value, str):
        match = _WHOLE.fullmatch(value.strip())
        if match is None:
            return None
        count = int(match.group(1))
    else:
        count = value
    return count if 0 <= count <= MAX_WHOLE else None


def count(value: object) -> int | None:
    """A count as `whole` reads it, also with its thousands parted by commas: `"1,000,000"`."""
    if isinstance(value, str):
        digits, point, fraction = value.strip().partition(".")
        if _GROUPED.fullmatch(digits):
            value = digits.replace(",", "") + point + fraction
    return whole(value)


def price(value: object, currency: str) -> Money | None:
    """An amount as `money` reads it, also with its currency (`"0.90 USD"`, `"$0.90"`) and its thousands parted.

    A currency other than the expected one makes it unreadable. A comma parts thousands only where a point follows:
    `"0,90"` and `"1,234"` may be either.
    """
    plainly = money(value, currency)
    match = _PRICE.fullmatch(value.strip()) if plainly is None and isinstance(value, str) else None
    if match is None:
        return plainly
    before, digits, after = match.groups()
    if any(unit and not _names(unit, currency.upper()) for unit in (before, after)):
        return None
    integer, point, fraction = digits.partition(".")
    if "," in integer:
        if not point or not _GROUPED.fullmatch(integer):
            return None
        integer = integer.replace(",", "")
    return money(integer + point + fraction, currency)


def _names(unit: str, currency: str) -> bool:
    return unit.upper() == currency or currency in _SYMBOLS.get(unit, ())


def money(value: object, currency: str) -> Money | None:
    """An exact amount, or None where the value is absent, no number, or larger than can be stored."""
    try:
        return Money.parse(value, currency)
    except MoneyError:
        return None


def currency(value: object, default: str) -> str | None:
    """The currency an answer names, the account's when it names none, None when it names what cannot be read.

    A symbol is not guessed at: `$` is a dozen currencies.
    """
    if value is None or (isinstance(value, str) and value.strip().casefold() in _ABSENT):
        return default.upper()
    if isinstance(value, str) and _CURRENCY.fullmatch(value.strip()):
        return value.strip().upper()
    return None


def flag(value: object) -> bool | None:
    """`true`, `1`, `"1"`, `"true"`… as seen in `refill` (quirks.md "Catalogue"); None where it says neither."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | str):
        word = str(value).strip().casefold()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
    return None


def granted(value: object) -> bool:
    """Whether a row says that something is possible, in the words that `flag` knows or others: `"Y"`, `"enabled"`."""
    return flag(value) is True or (isinstance(value, str) and value.strip().casefold() in _GRANTED)


def granted_days(value: object) -> bool:
    """The same where days may stand for it: `"30"`, `30`, `"30 days"`, `"R30"`."""
    if granted(value):
        return True
    if isinstance(value, bool) or not isinstance(value, int | str):
        return False
    return _DAYS.fullmatch(str(value).strip().casefold()) is not None


def absent(value: object) -> bool:
    """Whether a field says nothing: missing, null, `""`, `"Unknown"`, `"N/A"`."""
    return value is None or (isinstance(value, str) and value.strip().casefold() in _ABSENT)


def plain(value: object) -> str:
    """A field that is text for people, trimmed; numbers as written; `""` for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return ""
    return storable(str(value).strip())


def storable(text: str) -> str:
    """Without what no database takes: lone surrogates (`"\\ud800"` is valid JSON) and control characters."""
    return _INVISIBLE.sub("", text.encode("utf-8", "replace").decode("utf-8"))


# --- shapes --------------------------------------------------------------------------------------------------------


def as_object(value: object) -> Mapping[str, object] | None:
    """The object itself, or the only one in an array (quirks.md "Envelope": wrapped in an array)."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, dict) else None


def layers(document: object) -> tuple[Mapping[str, object], ...]:
    """The object of an answer and the one under its `data`, outermost first; none when it is no object."""
    outer = as_object(document)
    if outer is None:
        return ()
    inner = as_object(outer.get("data"))
    return (outer,) if inner is None else (outer, inner)


def rows(document: object, *names: str) -> Sequence[object] | None:
    """The list of an answer: bare, or under one of `names` or `data`; None when there is none.

    PHP writes an array with holes as an object of numbered keys, so an object of objects is a list as well.
    """
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        return None
    for name in (*names, "data"):
        found = document.get(name)
        if isinstance(found, list):
            return found
        if isinstance(found, dict):
            deeper = rows(found, *names)
            if deeper is not None:
                return deeper
    if document and all(key.isdecimal() and isinstance(value, dict) for key, value in document.items()):
        return list(document.values())
    return None


# --- secrets -------------------------------------------------------------------------------------------------------


_GOODS: Final = frozenset(
    {"account", "accounts", "code", "codes", "sms", "sms_content", "login", "password", "credentials", "cookie"}
)
"""Names under which answers carry what was bought."""
_NAMED_GOODS: Final = re.compile(
    r"""["']?\b(?:accounts?|sms_content|passwords?|credentials|logins?)\b["']?\s*[:=]""", re.I
)
_PAIR: Final = re.compile(r"[^\s\"',;|]+@[^\s\"',;|:]+[:|;][^\s\"',]+")
"""`user@host:password`, as accounts are written."""
_CODE: Final = re.compile(r"(\bcode\b\W{0,3}(?:is\b\W{0,3})?)\d{4,8}\b", re.I)
GOODS: Final = "[delivered]"


def without_goods(text: str) -> str:
    """An answer's text without the accounts and codes in it: it is kept where those must not be."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        named = _NAMED_GOODS.search(text)
        kept = text if named is None else f"{text[: named.end()]} {GOODS}"
    else:
        kept = json.dumps(_hidden(document), ensure_ascii=False) if isinstance(document, dict | list) else text
    return _CODE.sub(rf"\1{GOODS}", _PAIR.sub(GOODS, kept))


def _hidden(value: object, depth: int = 12) -> object:
    if isinstance(value, dict | list) and not depth:
        return "…"
    if isinstance(value, dict):
        return {name: GOODS if _is_goods(name, inner) else _hidden(inner, depth - 1) for name, inner in value.items()}
    return [_hidden(inner, depth - 1) for inner in value] if isinstance(value, list) else value


def _is_goods(name: str, value: object) -> bool:
    return name.casefold() in _GOODS and value not in (None, "", [], {})


class Redactor:
    """Takes the API key out of a provider's text: an error may echo it (quirks.md "Envelope")."""

    def __init__(self, api_key: str) -> None:
        quoted = json.dumps(api_key)[1:-1]
        written = {api_key, quoted, quoted.replace("/", "\\/"), html.escape(api_key)}
        written |= {quote(api_key, safe=""), quote_plus(api_key)}
        forms = sorted((form for form in written if form), key=len, reverse=True)
        # A key of a few letters is a test's; ignoring case there would eat ordinary words.
        flags = re.IGNORECASE if len(api_key) >= 8 else re.NOFLAG
        self._key = re.compile("|".join(map(re.escape, forms)), flags) if forms else None

    def without(self, text: str) -> str:
        """The text with blanks in the key's place: what words are looked up in."""
        return self._key.sub(" ", text) if self._key else text

    def __call__(self, text: str, limit: int = MAX_TEXT) -> str:
        """The text as it may be kept: redacted first, then cut, so that no half of a key survives the cut."""
        safe = self._key.sub("[redacted]", text) if self._key else text
        safe = storable(safe).strip()
        return safe if len(safe) <= limit else safe[: limit - 1] + "…"
