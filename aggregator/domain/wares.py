"""What a catalogue row sells, read from its name, type and category; and what two rows differ in.

Two wares may be one only if their essentials are equal: kind, type, platform, action and its object, manner, country,
figures; of a product every word. The rest (quality, guarantee, words that nobody knows) makes them less alike. Speeds,
limits and praise say nothing. Pure text; how alike two wares are, and what a misspelt word means, is not decided here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import chain
from typing import Final

from aggregator.domain.catalogue import CatalogueRow, Kind, service_type
from aggregator.domain.guarantees import LIFETIME, NONE, guarantee_named
from aggregator.domain.vocabulary import CODES, LONGEST, OPPOSITES, WORDS, Part, fold, implied

MAX_NAME: Final = 1000
"""Longer names are not read: what stands at their end could differ unseen."""
ANYWHERE: Final = "anywhere"
Words = frozenset[str]
Mend = Callable[[str], str]
"""From a word that is in no table to the one that it is a misspelling of, or to itself."""

_COUNT: Final = r"\d{1,15}(?:[.,]\d{1,6}){0,4}\s?(?:k|m|b|mil|million)?\b"
_RANGE: Final = rf"{_COUNT}\+?(?:\s*(?:-|–|—|~|/|to)\s*{_COUNT})?\+?"
_SPAN: Final = r"(?:s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?|gün|saat)"
_PROMISE: Final = r"(?:re-?fill?s?|refil|guaranteed?|warranty)"
_TERM: Final = r"\d{1,4}\s*-?\s*(?:d(?:ays?)?|m(?:onths?)?|y(?:ears?)?)\b"


def _words(first: str, *ways: str) -> re.Pattern[str]:
    """What begins with a word or figure; `first` are the letters that it may begin with, so that others cost little."""
    return re.compile(rf"(?<![^\W_])(?=[{first}])(?:{'|'.join(ways)})")


_GUARANTEE: Final = _words(
    r"nwzarglf\d",
    rf"(?:no|non|not|without|zero)[\s\-_]*(?:auto[\s\-_]*)?{_PROMISE}\b|nr\b",
    r"a?r\s*-?\s*(?:\d{1,4}d?\b|∞)|\d{2,4}d?\s?a?r\b",
    rf"(?:auto[\s\-_]*)?{_PROMISE}\W{{0,3}}(?:for\W*)?{_TERM}|{_TERM}\W{{0,3}}(?:auto\W*)?{_PROMISE}",
    rf"life[\s\-_]*time\b(?:\W{{0,2}}{_PROMISE})?|forever\b|auto[\s\-_]*{_PROMISE}\b",
    rf"{_PROMISE}\s*[:=\-–]?\s*(?:no|none|off|not available|disabled|yes|button)\b|{_PROMISE}\b",
)
_BARE_DAYS: Final = re.compile(r"\b(\d{1,4})\s*-?\s*d(?:ays?)?\b")
_PACE: Final = _words(
    r"suiecbd\d",
    rf"(?:speed\W{{0,4}})?(?:up\s*to\s*)?{_RANGE}\W{{0,2}}(?:/|per|a|every)\s*(?:24\s*)?(?:{_SPAN}|daily)\b",
    r"(?:start(?:s|ing)?|instant|eta|delivery|complet\w+|begins?)\W{0,3}(?:time\W{0,3})?(?:in\s+|within\s+)?"
    rf"{_RANGE}\s*{_SPAN}\b",
    rf"\d+(?:[.,]\d+)?\s*(?:{_SPAN})?\s*(?:-|–|—|~|/|to)\s*\d+(?:[.,]\d+)?\s*{_SPAN}\b(?:\W{{0,2}}start\w*)?",
    rf"\d+\s*{_SPAN}\W{{0,2}}(?:start\w*|delivery|completion)\b",
    rf"(?:drops?|dropping)\W{{0,3}}(?:rate\W{{0,3}})?(?:up\s*to\s*)?{_RANGE}\s*%|{_RANGE}\s*%\s*\W{{0,2}}drops?\b",
    r"100\s*%|24\s*/\s*7\b",
)
_LIMITS: Final = _words(
    r"pdhsmulqvi#$€£₹\d",
    rf"(?:per\s*)?(?:day|daily|hourly|hour|speed)\W{{0,3}}(?:up\s*to\s*)?{_RANGE}",
    rf"(?:max(?:imum)?|min(?:imum)?|up\s*to|limits?|qty|quantity)\W{{0,3}}{_RANGE}|{_COUNT}\s*max\b",
    r"server\W{0,2}\d+|[sv]\d{1,2}\b|#\s*\d+|id\W{0,2}\d+",
    rf"[$€£₹]\s*{_COUNT}|{_COUNT}\s*(?:[$€£₹]|usd\b|eur\b)",
)
_NUMBERING: Final = re.compile(r"^\W*\d{1,6}\s*[-–—~|:.)\]]")
_BIG: Final = re.compile(r"\b\d+(?:[.,]\d+)?\s?[km]\b\+?")
_DIGIT: Final = re.compile(r"\d")
_HOURS: Final = re.compile(r"\b(\d+(?:\.\d+)?)\s?k(?=\s*\+?\s*(?:watch\s*)?(?:hours?|hrs?)\b)")
"""Thousands of hours, which are what is sold, and no limit."""
_THOUSANDS: Final = re.compile(r"\b(\d+(?:\.\d+)?)\s?k\b")
_GROUPED: Final = re.compile(r"\b\d{1,3}(?:,\d{3})+\b")
_DURATION: Final = re.compile(
    r"\b(\d+(?:[.,]\d+)?)\s*\+?[\s\-]*(s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)|h(?:(?:ou)?rs?)?|d(?:ays?)?|w(?:eeks?)?"
    r"|mo(?:nth)?s?|y(?:(?:ea)?rs?)?)\b"
)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
_CLOCK: Final = (3600, "h"), (60, "min")
_TOKEN: Final = re.compile(r"[^\W_]+")
_FLAG: Final = re.compile("[\U0001f1e6-\U0001f1ff]{2}")
_GLOBE: Final = re.compile("[🌍🌎🌏🌐]")
_CODE: Final = re.compile(r"(?<![^\W_])[A-Z]{2}(?![^\W_])")
_ALONE: Final = re.compile(r"(?:^|[\[({|/~:,•·—–-])\s*$"), re.compile(r"^\s*(?:$|[\])}|/~:,•·—–-])")
_CODES_THAT_ARE_WORDS: Final = "in it at be by id my am is do la ma pa co al si se de es et il ge ne ch"
_DOUBTFUL: Final = frozenset(_CODES_THAT_ARE_WORDS.split())
"""Codes that are words as well: they count between brackets or bars alone."""
_NO_CODES: Final = frozenset({"no", "ar"})
"""Far more often "no" and "auto refill" than Norway and Argentina."""
_SEPARATE: Final = re.compile(
    "|".join(sorted((re.escape(word) for word in WORDS if word[0] >= "\u3040"), key=len, reverse=True))
)
"""Words of scripts that are written without spaces."""
_NEGATIONS: Final = frozenset({"no", "non", "not", "without", "zero", "wo", "sin", "sem", "без", "بدون"})
_DECORATION: Final = frozenset("⚡♻⛔⭐🌟✨✅☑✔✖❌🚀💎👑🆕🔝💧📉📈⏰⏱⌛⏳♛★☆●◆➤➜→©®™🔰🏆💯💥🎯🛡🔗📌🔄➕")
"""Signs that show no reaction."""
_PRAISE: Final = """
account accounts acc accs acct buy get instant instantly delivery fast best cheap cheapest quality good great top
hot sale offer stock bulk price the a an of for and with in on to your our
"""
_TRIVIAL: Final = frozenset(_PRAISE.split())
"""Of a product nearly every word matters; these do not."""
_ALTERNATIVES: Final = re.compile(r"[/,|+&;()\[\]]")


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What is promised against drops: `days` by the name (None: it names none), `able` whether refills can be had."""

    days: int | None
    able: bool

    @property
    def given(self) -> bool:
        return self.able and self.days != 0

    def __str__(self) -> str:
        if self.days and not self.able:
            return f"{_days(self.days)} by its name, but its catalogue says none"
        if not self.given:
            return "none"
        return _days(self.days) if self.days else "yes, for how long is not said"


@dataclass(frozen=True, slots=True)
class Ware:
    """A row by its meaning. `words` are all of a product's, `alternatives` those of a number's project, each of which
    is its name; `place` of a number is where it is rented.

    `mended` are words that were read as others, `around` what the category says where the name does not.
    """

    kind: Kind
    type: str
    platforms: Words = frozenset()
    actions: Words = frozenset()
    objects: Words = frozenset()
    manners: Words = frozenset()
    places: Words = frozenset()
    figures: Words = frozenset()
    words: Words = frozenset()
    alternatives: frozenset[Words] = frozenset()
    qualities: Words = frozenset()
    unknown: Words = frozenset()
    guarantee: Guarantee = Guarantee(None, False)
    text: str = ""
    mended: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    around: tuple[str, ...] = field(default=(), compare=False)

    @property
    def keys(self) -> tuple[object, ...]:
        """What must be equal: two wares may be one if they share a key. A row that says not what it sells has none."""
        if self.kind == "sms":
            return tuple(("sms", self.places, words) for words in sorted(self.alternatives, key=sorted))
        if self.kind == "product":
            return (("product", self.words),) if self.words else ()
        if not self.actions and not self.unknown and self.type == "Default":
            return ()
        said = (self.platforms, self.actions, self.objects, self.manners, self.places, self.figures)
        return (("smm", self.type, *said),)

    @property
    def plain(self) -> bool:
        """Whether its tables knew what is done and where: then a word that they do not know may be a supplier's."""
        return bool(self.platforms and self.actions)

    @property
    def project(self) -> str:
        """What numbers are for."""
        return " / ".join(sorted(" ".join(sorted(words)) for words in self.alternatives)) or "anything"

    def says(self) -> str:
        """The essentials for a person."""
        if self.kind == "sms":
            return f"numbers for {self.project}, {', '.join(sorted(self.places)) or 'any country'}"
        if self.kind == "product":
            return " ".join(sorted(self.words))
        told = " ".join(chain.from_iterable(sorted(part) for part in (self.platforms, self.objects, self.actions)))
        more = (*sorted(self.manners), *sorted(self.figures), *(f"for {place}" for place in sorted(self.places)))
        return ", ".join((told or " ".join(sorted(self.unknown)), self.type, *more))


def _days(days: int) -> str:
    return "lifetime" if days >= LIFETIME.days else f"{days} day{'s' if days != 1 else ''}"


def as_written(word: str) -> str:
    return word


def read(row: CatalogueRow, *, refills: bool = True, mend: Mend = as_written) -> Ware | None:
    """The ware of a row; None for a name that is too long to be sure of. `refills`: whether the provider takes any."""
    if len(row.name) > MAX_NAME:
        return None
    if row.kind == "sms":
        return _number(row)
    named = guarantee_named(row.name)
    guarantee = Guarantee(_promised(named), row.refill and refills)
    return _product(row, guarantee, mend) if row.kind == "product" else _service(row, guarantee, mend)


def _promised(named: timedelta | None) -> int | None:
    return None if named is None else 0 if named == NONE else named.days


def opposed(one: Words, other: Words) -> bool:
    """Whether a quality among the one excludes one among the other: real followers are no bots."""
    return any(
        (left in one and right in other and right not in one) or (right in one and left in other and left not in one)
        for left, right in OPPOSITES
    )


# --- reading -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Said:
    """What one text says, by the part that each word is."""

    parts: dict[Part, set[str]] = field(default_factory=lambda: {part: set() for part in Part})
    unknown: set[str] = field(default_factory=set)
    figures: set[str] = field(default_factory=set)
    order: list[str] = field(default_factory=list)
    mended: list[tuple[str, str]] = field(default_factory=list)
    ignored: set[str] = field(default_factory=set)


def _service(row: CatalogueRow, guarantee: Guarantee, mend: Mend) -> Ware:
    kind_type = service_type("smm", row.type)
    whole = kind_type is not None and kind_type.per_order
    name = _read(row.name, mend, whole=whole, guarantee=guarantee.days)
    category = _category(row.category, row.subcategory, mend)
    parts, around = name.parts, []
    for part in (Part.PLATFORM, Part.ACTION, Part.MANNER, Part.PLACE):
        if not parts[part] and category.parts[part]:
            parts[part] |= category.parts[part]
            around += sorted(category.parts[part])
            if part is Part.ACTION:  # the object belongs to the action
                parts[Part.OBJECT] |= category.parts[Part.OBJECT]
    if not parts[Part.OBJECT] and "live" in category.parts[Part.OBJECT]:
        parts[Part.OBJECT].add("live")
    typed = kind_type.name if kind_type is not None else " ".join(row.type.split()).casefold()
    _settle(parts, typed)
    if guarantee.days and ("premium" in parts[Part.MANNER] or "boosts" in parts[Part.ACTION]):
        name.figures.add(f"{guarantee.days} days")  # how long they stay, which is what is paid for
    if "reactions" in parts[Part.ACTION]:
        name.figures |= _signs(fold(row.name))
    return Ware(
        "smm",
        typed,
        platforms=frozenset(parts[Part.PLATFORM]),
        actions=frozenset(parts[Part.ACTION]),
        objects=frozenset(parts[Part.OBJECT]),
        manners=frozenset(parts[Part.MANNER]),
        places=frozenset(parts[Part.PLACE] - {ANYWHERE}),
        figures=frozenset(name.figures),
        qualities=frozenset(parts[Part.QUALITY]),
        unknown=frozenset(name.unknown),
        guarantee=guarantee,
        text=fold(row.name),
        mended=tuple(name.mended),
        around=tuple(around),
    )


def _settle(parts: dict[Part, set[str]], typed: str) -> None:
    """Different words for one thing, and what goes without saying."""
    platforms, actions, objects, manners = (
        parts[part] for part in (Part.PLATFORM, Part.ACTION, Part.OBJECT, Part.MANNER)
    )
    if "comment likes" in objects:
        actions.add("likes")
    if "telegram" in platforms:
        _replace(actions, "subscribers", "members")
        _replace(actions, "followers", "members")
        if {"channel", "group"} <= objects and "members" in actions:
            objects -= {"channel", "group"}
    if "twitter" in platforms:
        _replace(actions, "reposts", "retweets")
    if "spotify" in platforms and "live" not in objects:
        _replace(actions, "streams", "plays")
    if len(platforms) == 1:
        spare = [implied(next(iter(platforms)), action) for action in actions]
        objects -= frozenset.intersection(*spare) if spare else frozenset()
    if typed in ("Custom Comments", "Custom Comments Package"):
        manners.discard("custom")
    if typed in ("Package", "Custom Comments Package"):
        manners.discard("package")
    if typed == "Subscriptions":
        manners -= {"auto", "future"}
    if typed == "Poll":
        objects.discard("poll")


def _replace(words: set[str], old: str, new: str) -> None:
    if old in words:
        words.remove(old)
        words.add(new)


def _product(row: CatalogueRow, guarantee: Guarantee, mend: Mend) -> Ware:
    name = _read(row.name, mend, whole=True, guarantee=None, goods=True)
    words, around = _everything(name), []
    if not name.parts[Part.PLATFORM]:
        category = _category(row.category, row.subcategory, mend)
        more = category.parts[Part.PLATFORM] or (set() if name.unknown else _everything(category))
        around = sorted(more - words)
        words |= more
    return Ware(
        "product",
        "",
        places=frozenset(name.parts[Part.PLACE] - {ANYWHERE}),
        words=frozenset(words),
        guarantee=guarantee,
        text=fold(row.name),
        mended=tuple(name.mended),
        around=tuple(around),
    )


def _everything(said: _Said) -> set[str]:
    known = chain.from_iterable(said.parts[part] for part in Part if part is not Part.NOTHING)
    return {*known, *said.unknown, *said.figures, *said.ignored} - {ANYWHERE} - _TRIVIAL


def _number(row: CatalogueRow) -> Ware:
    alternatives = set()
    for text in _ALTERNATIVES.split(fold(row.name)):
        words = frozenset(_TOKEN.findall(text))
        if words:
            alternatives.add(words)
    return Ware(
        "sms",
        "",
        places=_country(row.country, row.category),
        alternatives=frozenset(alternatives),
        text=" ".join(fold(row.name).split()),
    )


def _country(code: str, title: str) -> Words:
    """Where a number is rented: by the country's name, else by its code, as it is where neither is known."""
    if not code.strip():
        return frozenset()
    for text in (title, code):
        words = " ".join(_TOKEN.findall(fold(text)))
        part, name = WORDS.get(words, (Part.NOTHING, ""))
        if part is Part.PLACE:
            return frozenset({name})
        if words in CODES:
            return frozenset({words})
    return frozenset({f"{fold(code).strip()} {fold(title).strip()}".strip()})


@lru_cache(maxsize=4096)
def _category(category: str, subcategory: str, mend: Mend) -> _Said:
    """What a category says; thousands of rows have the same. Whoever gets it changes nothing of it."""
    return _read(f"{category[:MAX_NAME]} | {subcategory[:MAX_NAME]}", mend, whole=True, guarantee=None)


def _read(text: str, mend: Mend, *, whole: bool, guarantee: int | None, goods: bool = False) -> _Said:
    """A text by its words. `whole`: its figures are pieces of a package or a product's, not limits; `goods`: it is a
    product's."""
    said = _Said()
    text = _places(text, said)
    folded = _SEPARATE.sub(lambda found: f" {found[0]} ", fold(text))
    folded = _GUARANTEE.sub(" ", _GROUPED.sub(lambda found: found[0].replace(",", ""), folded))
    if _DIGIT.search(folded):
        folded = _figures(folded, said, whole=whole, guarantee=guarantee, goods=goods)
    _sort(_TOKEN.findall(folded), said, mend)
    return said


def _figures(folded: str, said: _Said, *, whole: bool, guarantee: int | None, goods: bool) -> str:
    """The text without figures that tell of pace and limits, and without durations, which are said."""
    folded = _HOURS.sub(_thousand, folded)
    if guarantee and not goods:
        folded = _BARE_DAYS.sub(lambda found: " " if int(found[1]) == guarantee else found[0], folded)
    if not goods:
        folded = _PACE.sub(" ", folded)
    folded = _DURATION.sub(lambda found: _duration(found, said), folded)
    if not goods:
        folded = _LIMITS.sub(" ", _NUMBERING.sub(" ", folded))
    return _THOUSANDS.sub(_thousand, folded) if whole else _BIG.sub(" ", folded)


def _thousand(found: re.Match[str]) -> str:
    return str(int(Decimal(found[1]) * 1000))


def _places(text: str, said: _Said) -> str:
    """The text without flags and countries' codes, which are capital letters and must be read before folding."""
    text = unicodedata.normalize("NFKC", text)
    small = any(char.islower() for char in text)

    def flag(found: re.Match[str]) -> str:
        said.parts[Part.PLACE].add("".join(chr(ord(char) - 0x1F1E6 + ord("a")) for char in found[0]))
        return " "

    def code(found: re.Match[str]) -> str:
        word = {"UK": "gb"}.get(found[0], found[0].lower())
        if word not in CODES or word in _NO_CODES:
            return found[0]
        alone = _ALONE[0].search(text[: found.start()][-12:]) and _ALONE[1].search(text[found.end() :][:12])
        if not alone and (not small or word in _DOUBTFUL):
            return found[0]
        said.parts[Part.PLACE].add(word)
        return " "

    text = _FLAG.sub(flag, text)
    if _GLOBE.search(text):
        said.parts[Part.PLACE].add(ANYWHERE)
    return _CODE.sub(code, text)


def _duration(found: re.Match[str], said: _Said) -> str:
    number, unit = Decimal(found[1].replace(",", ".")), found[2]
    if unit.startswith("mo"):
        said.figures.add(f"{number.normalize():f} months")
    elif unit[0] in _SECONDS:
        seconds = number * _SECONDS[unit[0]]
        size, word = next(((size, word) for size, word in _CLOCK if not seconds % size), (1, "s"))
        said.figures.add(f"{(seconds / size).normalize():f} {word}")
    else:
        word = {"d": "days", "w": "weeks", "y": "years"}[unit[0]]
        said.figures.add(f"{number.normalize():f} {word}")
    return " "


def _signs(folded: str) -> set[str]:
    """The reactions that are sold; two rows with different ones are two things."""
    return {char for char in folded if unicodedata.category(char) == "So" and char not in _DECORATION}


def _sort(tokens: list[str], said: _Said, mend: Mend) -> None:
    """Every word to its part, the longest entry first; a negated word is another word."""
    place, negated, bare_x = 0, False, False
    while place < len(tokens):
        known, size = _look(tokens, place)
        token = tokens[place]
        place += size
        if known is None and token in _NEGATIONS and place < len(tokens):
            negated = True
            continue
        if known is None and token.isdigit():
            said.figures.add(str(int(token)) if len(token) < 20 else token)
        elif known is None:
            _unknown(token, said, mend, negated)
        elif known[0] is Part.NOTHING and token in _NEGATIONS and size == 1 and place < len(tokens):
            negated = True
            continue
        elif known == (Part.PLATFORM, "twitter") and size == 1 and token == "x":
            bare_x = True
        else:
            _add(known, said, negated)
            if known[0] is Part.NOTHING:
                said.ignored.update(tokens[place - size : place])
        negated = False
    if bare_x and not said.parts[Part.PLATFORM]:
        said.parts[Part.PLATFORM].add("twitter")


def _look(tokens: list[str], place: int) -> tuple[tuple[Part, str] | None, int]:
    for size in range(min(LONGEST, len(tokens) - place), 0, -1):
        known = _lookup(" ".join(tokens[place : place + size]))
        if known is not None:
            return known, size
    return None, 1


def _lookup(words: str) -> tuple[Part, str] | None:
    known = WORDS.get(words)
    if known is None and len(words) > 4 and words.endswith("s"):
        known = WORDS.get(words[:-1])
    return known


def _unknown(token: str, said: _Said, mend: Mend, negated: bool) -> None:
    better = mend(token)
    known = _lookup(better) if better != token else None
    if known is not None:
        said.mended.append((token, better))
        _add(known, said, negated)
    elif token not in ("s", "t"):  # what an apostrophe leaves
        said.unknown.add(f"no {token}" if negated else token)


def _add(known: tuple[Part, str], said: _Said, negated: bool) -> None:
    part, name = known
    if not negated:
        said.parts[part].add(name)
    elif part is Part.QUALITY:
        said.parts[part].add(f"no {name}")
    elif part is not Part.NOTHING:
        said.parts[Part.MANNER].add(f"no {name}")
