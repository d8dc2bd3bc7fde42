"""Which offers of providers' catalogues mean the same, for a person to accept: with a score, why, and what differs.

`domain/wares` says what must be equal; here it is decided how alike the rest is (rapidfuzz), what counts as a misspelt
word, and which offers make a group. Nothing is written, asked or bought.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Final

from rapidfuzz import fuzz, process

from aggregator.domain.catalogue import PRICE_PER, CatalogueRow
from aggregator.domain.money import Money, MoneyError
from aggregator.domain.routing import expected_cost, per_order
from aggregator.domain.sync import MOST_FACTOR
from aggregator.domain.vocabulary import WORDS
from aggregator.domain.wares import Guarantee, Ware, Words, opposed, read

ALIKE: Final = 88
"""Two words this alike (0 to 100) that begin with the same letter are one, misspelt: "folowers"."""
SHORTEST: Final = 5
"""Letters of a word that may be a misspelling; shorter ones are too near to too much."""
LONGEST: Final = 30
MANY: Final = 3
"""Unknown words of one name alone; with more of them it is another thing, however they are spelt."""
GOOD: Final = 80
"""A score from which an offer is worth showing: one unknown word more or less passes, two do not."""

UNKNOWN_WORD: Final = 12
QUALITY: Final = 4
MOST_QUALITY: Final = 12
NO_GUARANTEE: Final = 10
OTHER_GUARANTEE: Final = 6
UNSURE_GUARANTEE: Final = 4
ALTERNATIVE: Final = 5
MOST_WORDING: Final = 4
"""What each difference takes off a score of 100; the wording alone takes little."""

OfferKey = tuple[str, str, str]
"""(provider, service or project, country)."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An offer of a catalogue, read. `price` is for `per` pieces in the config's currency; None: nobody can say."""

    provider: str
    row: CatalogueRow
    ware: Ware
    price: Money | None
    per: int

    @property
    def key(self) -> OfferKey:
        return self.provider, self.row.service, self.row.country.casefold()


@dataclass(frozen=True, slots=True)
class Difference:
    """`here` is what the offer has that is compared with. A grave one may make it another thing for who orders it."""

    what: str
    here: str
    there: str
    grave: bool = True

    def __str__(self) -> str:
        return f"{self.what}: {self.here} here, {self.there} there"


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike two offers are, 0 to 100: of their meaning alone, whatever they cost."""

    score: int
    why: tuple[str, ...]
    differs: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs that a person should think about."""
        return not any(difference.grave for difference in self.differs)


@dataclass(frozen=True, slots=True)
class Proposal:
    """An offer that means the same as `like`."""

    offer: Shown
    like: Shown
    likeness: Likeness


def show(
    provider: str,
    row: CatalogueRow,
    *,
    refills: bool,
    rate_per: Mapping[str, int],
    currency: str,
    exchange_rates: Mapping[str, Decimal],
) -> Shown | None:
    """A row as it can be compared; None where its name cannot be read. `refills`: whether its provider takes any."""
    ware = read(row, refills=refills, mend=mended)
    if ware is None:
        return None
    per = 1 if per_order(row, row.kind) else PRICE_PER[row.kind]
    return Shown(provider, row, ware, _price(row, per, rate_per, currency, exchange_rates), per)


def _price(
    row: CatalogueRow, per: int, rate_per: Mapping[str, int], currency: str, exchange_rates: Mapping[str, Decimal]
) -> Money | None:
    try:
        cost = expected_cost(row, row.kind, per, rate_per)
        if cost.currency == currency:
            return cost
        rate = exchange_rates.get(cost.currency)
        return cost.convert(rate, currency) if rate is not None else None
    except MoneyError:
        return None


# --- words ---------------------------------------------------------------------------------------------------------


def _by_first_letter() -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for word in sorted(WORDS):
        if len(word) >= SHORTEST and " " not in word:
            found[word[0]].append(word)
    return dict(found)


_CORRECT: Final = _by_first_letter()


@lru_cache(maxsize=65_536)
def mended(word: str) -> str:
    """The known word that this one is a misspelling of, or itself."""
    if not SHORTEST <= len(word) <= LONGEST:
        return word
    found = process.extractOne(word, _CORRECT.get(word[0], ()), scorer=fuzz.ratio, score_cutoff=ALIKE)
    return found[0] if found is not None else word


def _left(words: Words, others: Words) -> list[str]:
    """The words that have no counterpart among the others."""
    return [word for word in sorted(words - others) if not any(_alike(word, other) for other in others)]


def _alike(one: str, other: str) -> bool:
    if one[0] != other[0] or min(len(one), len(other)) < SHORTEST:
        return False
    # Figures in a word are no misspelling: "ps4" and "ps5".
    plain = one.replace(" ", "").isalpha() and other.replace(" ", "").isalpha()
    return plain and fuzz.ratio(one, other) >= ALIKE


# --- two offers ----------------------------------------------------------------------------------------------------


def compare(ours: Shown, theirs: Shown, least: int = 0) -> Likeness | None:
    """How alike two offers are; None where they are two things, or less alike than `least`."""
    here, there = ours.ware, theirs.ware
    if not here.keys or (here.keys != there.keys and not set(here.keys) & set(there.keys)):
        return None
    if max(len(here.unknown - there.unknown), len(there.unknown - here.unknown)) > MANY:
        return None
    if opposed(here.qualities, there.qualities) or opposed(there.qualities, here.qualities):
        return None
    lost, gained = _left(here.unknown, there.unknown), _left(there.unknown, here.unknown)
    if lost and gained and "".join(lost) != "".join(gained):
        return None  # other words in the place of words
    if (lost or gained) and not (here.plain and there.plain):
        return None
    score = 100 - UNKNOWN_WORD * max(len(lost), len(gained))
    differs = [Difference("words", _listed(lost), _listed(gained))] if lost or gained else []
    for part, difference in (_quality(here, there), _alternatives(here, there), _guarantee(here, there)):
        score -= part
        differs += [difference] if difference is not None else []
    if score >= least and here.text != there.text:
        score -= round((100 - fuzz.token_sort_ratio(here.text, there.text)) * MOST_WORDING / 100)
    if max(score, 0) < least:
        return None
    return Likeness(max(score, 0), _why(here, there), (*differs, *_beside(ours, theirs)))


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words)) or "none"


def _quality(here: Ware, there: Ware) -> tuple[int, Difference | None]:
    only_here, only_there = here.qualities - there.qualities, there.qualities - here.qualities
    if not only_here and not only_there:
        return 0, None
    part = min(QUALITY * len(only_here | only_there), MOST_QUALITY)
    return part, Difference("quality", _listed(here.qualities), _listed(there.qualities))


def _alternatives(here: Ware, there: Ware) -> tuple[int, Difference | None]:
    if here.alternatives == there.alternatives:
        return 0, None
    part = min(ALTERNATIVE * len(here.alternatives ^ there.alternatives), 3 * ALTERNATIVE)
    return part, Difference("project", here.project, there.project)


def _guarantee(here: Ware, there: Ware) -> tuple[int, Difference | None]:
    one, other = here.guarantee, there.guarantee
    if _terms(one) == _terms(other):
        return 0, None
    if one.given != other.given:
        part = NO_GUARANTEE
    else:
        part = OTHER_GUARANTEE if one.days and other.days else UNSURE_GUARANTEE
    return part, Difference("refill", str(one), str(other))


def _terms(guarantee: Guarantee) -> tuple[bool, int | None]:
    return guarantee.given, guarantee.days or None


def _beside(ours: Shown, theirs: Shown) -> Iterator[Difference]:
    """What differs beside the meaning."""
    if theirs.price is None:
        rate = theirs.row.rate
        told = f"{rate.amount} {rate.currency}, without a rate in `exchange_rates`" if rate is not None else "unknown"
        yield Difference("price", f"{ours.price.amount} {ours.price.currency}" if ours.price else "unknown", told)
    elif ours.price is not None and _far(ours.price, theirs.price):
        told = f"{theirs.price.amount} {theirs.price.currency}, so far from it that it may be another thing"
        yield Difference("price", f"{ours.price.amount} {ours.price.currency}", told)
    if ours.row.auto_delivery != theirs.row.auto_delivery:
        yield Difference("delivery", _delivery(ours), _delivery(theirs))
    if ours.row.cancel != theirs.row.cancel:
        yield Difference("cancel", _yes(ours.row.cancel), _yes(theirs.row.cancel), grave=False)


def _delivery(offer: Shown) -> str:
    return "at once" if offer.row.auto_delivery else "by a person"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _far(one: Money, other: Money) -> bool:
    low, high = sorted((one.units, other.units))
    return high > low * MOST_FACTOR


def _why(here: Ware, there: Ware) -> tuple[str, ...]:
    why = [f"both say: {here.says()}"]
    if here.unknown & there.unknown:
        why.append(f"the same other words: {_listed(here.unknown & there.unknown)}")
    why += [f"its {old} was read as {new}" for old, new in there.mended]
    if there.around:
        why.append(f"its category says: {', '.join(there.around)}")
    return tuple(why)


# --- many offers ---------------------------------------------------------------------------------------------------


class Shelf:
    """All offers of the catalogues, found by what must be equal; in whatever order they came."""

    def __init__(self, offers: Iterable[Shown]) -> None:
        self._offers = sorted(offers, key=lambda offer: offer.key)
        self._by_key: dict[object, list[Shown]] = defaultdict(list)
        self._texts: dict[object, list[str]] = {}
        for offer in self._offers:
            for key in offer.ware.keys:
                self._by_key[key].append(offer)

    def near(self, ours: Shown) -> Iterator[Shown]:
        """Offers that may mean the same."""
        for key in ours.ware.keys:
            block = self._by_key[key]
            if ours.ware.kind != "smm" or ours.ware.plain:
                yield from block
                continue
            # What is told by unknown words alone may have thousands beside it; few of them have the same words.
            if key not in self._texts:
                self._texts[key] = [_listed(offer.ware.unknown) for offer in block]
            wanted = _listed(ours.ware.unknown)
            found = process.extract(wanted, self._texts[key], scorer=fuzz.ratio, score_cutoff=ALIKE - 10, limit=None)
            yield from (block[place] for _, _, place in sorted(found, key=lambda one: one[2]))

    def like(self, ours: Sequence[Shown], *, taken: AbstractSet[OfferKey], least: int) -> list[Proposal]:
        """Offers that mean the same as one of ours and are not taken, the most alike first, then the cheapest."""
        best: dict[OfferKey, Proposal] = {}
        for mine in ours:
            for offer in self.near(mine):
                if offer.key in taken:
                    continue
                likeness = compare(mine, offer, least)
                known = best.get(offer.key)
                if likeness is not None and (known is None or likeness.score > known.likeness.score):
                    best[offer.key] = Proposal(offer, mine, likeness)
        return sorted(best.values(), key=lambda one: (-one.likeness.score, *cheapest_first(one.offer)))

    def groups(self, *, taken: AbstractSet[OfferKey], least: int) -> list[list[Proposal]]:
        """Offers of at least two providers that mean the same and are not taken, each compared with the plainest of
        them and the cheapest first; groups with more providers come first."""
        blocks: dict[object, list[Shown]] = defaultdict(list)
        for offer in self._offers:
            if offer.key not in taken and offer.ware.keys:
                blocks[_block(offer.ware)].append(offer)
        found = [group for block in blocks.values() if len(_providers(block)) > 1 for group in _part(block, least)]
        found.sort(key=lambda group: (-len({one.offer.provider for one in group}), -len(group), group[0].offer.key))
        return found


def _block(ware: Ware) -> object:
    """Of what a group of its own is made: another guarantee, or a word that nobody knows, is worth another service."""
    return ware.keys if ware.kind != "smm" else (ware.keys, _terms(ware.guarantee), ware.unknown)


def _part(block: Iterable[Shown], least: int) -> Iterator[list[Proposal]]:
    """Groups within a block. Every member is like its leader, so that no chain leads from one thing to another; and
    real ones and bots are in none together, although both may be like one that says neither."""
    groups: list[tuple[Shown, list[Proposal], set[str]]] = []
    for offer in sorted(block, key=_plainness):
        qualities = offer.ware.qualities
        for leader, members, all_qualities in groups:
            clash = opposed(frozenset(all_qualities), qualities) or opposed(qualities, frozenset(all_qualities))
            likeness = None if clash else compare(leader, offer, least)
            if likeness is not None:
                members.append(Proposal(offer, leader, likeness))
                all_qualities |= qualities
                break
        else:
            alone = compare(offer, offer)
            if alone is not None:
                groups.append((offer, [Proposal(offer, offer, alone)], set(qualities)))
    for _, members, _ in groups:
        if len(_providers(one.offer for one in members)) > 1:
            yield sorted(members, key=lambda one: cheapest_first(one.offer))


def _providers(offers: Iterable[Shown]) -> set[str]:
    return {offer.provider for offer in offers}


def _plainness(offer: Shown) -> tuple[int, int, OfferKey]:
    return len(offer.ware.qualities), len(offer.ware.text), offer.key


def cheapest_first(offer: Shown) -> tuple[bool, int, OfferKey]:
    """For sorting; a price that nobody can say comes last."""
    return offer.price is None, offer.price.units if offer.price is not None else 0, offer.key
