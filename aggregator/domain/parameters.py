"""The parameters of an order against a service type: what is missing, what does not belong, and the quantity.

Everything is text once it is here; lists of lines have one line each. Errors name the field and the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping

from aggregator.domain.catalogue import PARAMS, QuantityFrom, ServiceType, lines
from aggregator.domain.errors import Problem, ProblemKind

_WHOLE_NUMBERS = frozenset({"runs", "interval", "min", "max", "posts", "old_posts", "delay"})
MAX_QUANTITY = 10**15
_DRIP_LIMITS = {"runs": 1_000, "interval": 525_600}
"""Minutes of a year; nobody means more."""


def missing_params(kind: ServiceType, link: str | None, params: Mapping[str, str]) -> list[str]:
    """Names that the type needs and the order has not. Blanks are nothing: providers trim what they are sent."""
    lacking = [name for name in kind.required if not params.get(name, "").strip()]
    if kind.needs_link and not (link or "").strip():
        lacking.insert(0, "link")
    return lacking


def ignored_params(kind: ServiceType, params: Mapping[str, str]) -> list[str]:
    """Names that the order gives and the type has no use for: a provider would not be sent them."""
    taken = (*kind.required, *kind.optional)
    return [name for name, value in params.items() if name not in taken and value.strip()]


def check_params(params: Mapping[str, str]) -> None:
    """Refuse unknown names and numbers that are none; which type takes what is decided per offer."""
    for name, value in params.items():
        if name not in PARAMS:
            known = ", ".join(sorted(PARAMS))
            raise Problem(
                ProblemKind.INVALID_FIELD, f"no service type takes this parameter; known are {known}", f"params.{name}"
            )
        if name in _WHOLE_NUMBERS and not (value.isascii() and value.isdigit() and len(value) <= 15):
            raise Problem(
                ProblemKind.INVALID_FIELD, f"must be a whole number of at least 0, got {value!r}", f"params.{name}"
            )
    for name, other in (("runs", "interval"), ("interval", "runs")):
        if name in params and other not in params:
            raise Problem(ProblemKind.INVALID_FIELD, f"is required together with {name}", f"params.{other}")
    for name, most in _DRIP_LIMITS.items():
        if name in params and not 1 <= int(params[name]) <= most:
            raise Problem(ProblemKind.INVALID_FIELD, f"must be from 1 to {most}, got {params[name]}", f"params.{name}")


def quantity_of(kind: ServiceType, quantity: int | None, params: Mapping[str, str]) -> int:
    """The number of pieces that an order of this type buys; Problem when it cannot be told.

    A given quantity that contradicts a derived one is refused rather than ignored.
    """
    derived = _derived(kind, params)
    if derived is None:
        if quantity is None:
            raise Problem(ProblemKind.INVALID_FIELD, "is required for this service", "quantity")
        return quantity
    if quantity is not None and quantity != derived:
        raise Problem(
            ProblemKind.INVALID_FIELD,
            f"this service derives it ({derived} here); leave it out",
            "quantity",
        )
    return derived


def _derived(kind: ServiceType, params: Mapping[str, str]) -> int | None:
    if kind.quantity is QuantityFrom.CALLER:  # almost all are
        return None
    match kind.quantity:
        case QuantityFrom.ONE:
            return 1
        case QuantityFrom.COMMENTS:
            return _line_count(params, "comments")
        case QuantityFrom.USERNAMES:
            return _line_count(params, "usernames")
        case QuantityFrom.SUBSCRIPTION:
            most = _number(params, "max", 1)
            return max(1, most * max(1, _number(params, "posts", 1)))


def _line_count(params: Mapping[str, str], name: str) -> int:
    count = len(lines(params.get(name, "")))
    if count == 0:
        raise Problem(ProblemKind.INVALID_FIELD, "needs at least one line", f"params.{name}")
    return count


def _number(params: Mapping[str, str], name: str, default: int) -> int:
    value = params.get(name, "")
    return int(value) if value.isascii() and value.isdigit() else default
