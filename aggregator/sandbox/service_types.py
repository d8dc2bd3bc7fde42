"""The parameters of each panel_v2 service type. Decides whether an `add` is complete and how many units it buys.

The document names only link, quantity, runs and interval; the other types are what panels of this protocol take.
Unknown parameters are ignored, as panels do. Prices, stock and funds are never looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from .catalogue import Service
from .refusals import Reason, Refusal

DEFAULT_POSTS = 3
"""New posts that a subscription without `posts` meets; a real one would run for ever."""
MAX_PIECES = 1_000
"""Most runs of a drip-feed or posts of a subscription."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """A complete `add`. `bounds` (min and max per post) is set for subscriptions only; `interval_min` is minutes."""

    link: str
    quantity: int
    params: Mapping[str, str]
    runs: int = 1
    interval_min: int = 0
    posts: int = 0
    bounds: tuple[int, int] | None = None
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Rule:
    required: tuple[str, ...] = ()
    counted: str = "quantity"
    """`quantity`, `one` for packages, or the parameter whose lines are counted."""
    drip: bool = False


TYPES: Mapping[str, _Rule] = {
    "default": _Rule(drip=True),
    "package": _Rule(counted="one"),
    "seo": _Rule(("keywords",)),
    "custom comments": _Rule(("comments",), "comments"),
    "custom comments package": _Rule(("comments",), "one"),
    "mentions": _Rule(("usernames",)),
    "mentions with hashtags": _Rule(("usernames", "hashtags")),
    "mentions custom list": _Rule(("usernames",), "usernames"),
    "mentions hashtag": _Rule(("hashtag",)),
    "mentions user followers": _Rule(("username",)),
    "mentions media likers": _Rule(("media",)),
    "comment likes": _Rule(("username",)),
    "comment replies": _Rule(("username", "comments"), "comments"),
    "poll": _Rule(("answer_number",)),
    "invites from groups": _Rule(("groups",)),
    "web traffic": _Rule(("country", "device", "type_of_traffic"), drip=True),
}


def read(service: Service, params: Mapping[str, str]) -> Purchase:
    """Check an `add` against its service's type (in any case of letters) or refuse it with the parameter at fault."""
    kind = service.type.lower()
    if kind == "subscriptions":
        return _subscription(service, params)
    rule = TYPES[kind]
    link = checked_link(params.get("link", ""))
    for name in rule.required:
        if not params.get(name, "").strip():
            raise Refusal(Reason.PARAMETER, name)
    if kind == "poll":
        whole(params, "answer_number", 0)
    if kind == "web traffic":
        _traffic(params)
    quantity = _quantity(rule, params)
    check_bounds(service, quantity)
    runs = whole(params, "runs", 1, MAX_PIECES) if rule.drip and params.get("runs") else 1
    interval = whole(params, "interval", 1, 525_600) if runs > 1 else 0
    return Purchase(link, quantity, params, runs, interval)


def checked_link(link: str) -> str:
    """A link as panels take it: a URL, a bare domain or @name; words with blanks or without any dot are not links."""
    link = link.strip()
    looks = "://" in link or "." in link or link.startswith("@")
    if not looks or re.search(r"\s", link) or len(link) > 2_000:
        raise Refusal(Reason.LINK)
    return link


def check_bounds(service: Service, quantity: int) -> None:
    """Refuse a quantity outside the service's min and max."""
    if quantity < service.min:
        raise Refusal(Reason.MINIMUM, service.min)
    if quantity > service.max:
        raise Refusal(Reason.MAXIMUM, service.max)


def whole(params: Mapping[str, str], name: str, low: int, high: int = 10**9) -> int:
    """A parameter that must be a whole number in a range."""
    text = params.get(name, "").strip()
    if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
        raise Refusal(Reason.QUANTITY if name == "quantity" else Reason.PARAMETER, name)
    return int(text)


def _quantity(rule: _Rule, params: Mapping[str, str]) -> int:
    if rule.counted == "one":
        return 1
    if rule.counted == "quantity":
        return whole(params, "quantity", 0)
    return sum(1 for line in params[rule.counted].splitlines() if line.strip())


def _traffic(params: Mapping[str, str]) -> None:
    whole(params, "device", 1, 5)
    source = whole(params, "type_of_traffic", 1, 3)
    extra = {1: "google_keyword", 2: "referring_url"}.get(source)
    if extra and not params.get(extra, "").strip():
        raise Refusal(Reason.PARAMETER, extra)


def _subscription(service: Service, params: Mapping[str, str]) -> Purchase:
    username = params.get("username", "").strip()
    if not username:
        raise Refusal(Reason.PARAMETER, "username")
    low, high = whole(params, "min", 1), whole(params, "max", 1)
    check_bounds(service, low)
    check_bounds(service, high)
    if low > high:
        raise Refusal(Reason.PARAMETER, "min")
    posts = whole(params, "posts", 1, MAX_PIECES) if params.get("posts") else DEFAULT_POSTS
    if params.get("old_posts"):
        whole(params, "old_posts", 0, MAX_PIECES)
    delay = whole(params, "delay", 0, 600)
    return Purchase(
        f"@{username.lstrip('@')}",
        high,
        params,
        interval_min=delay,
        posts=posts,
        bounds=(low, high),
        expires=_expiry(params.get("expiry", "").strip()),
    )


def _expiry(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.strptime(text, "%d/%m/%Y").replace(hour=23, minute=59, tzinfo=UTC)
    except ValueError as exc:
        raise Refusal(Reason.PARAMETER, "expiry") from exc
