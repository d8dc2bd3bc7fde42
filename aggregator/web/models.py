"""What requests may say: strict models, and from pydantic's errors to the fields at fault.

Decides the shape of a request; whether an order can be taken is intake's to say. Nothing is coerced: text is not a
number, a number is not text, and an unknown field is an error that names the close one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from aggregator.config.problems import did_you_mean
from aggregator.domain.catalogue import LINE_LISTS
from aggregator.domain.money import SCALE, Money, MoneyError, parse_decimal
from aggregator.domain.sizes import MAX_ID
from aggregator.flow.intake import NewOrder
from aggregator.web.bodies import check_values, noun, parse_object
from aggregator.web.problems import FieldProblems, invalid

MAX_BATCH: Final = 1000
MAX_COUNT: Final = 2**53
"""What every JSON reader keeps exact."""
MAX_ERRORS: Final = 20
MAX_IDS: Final = 10 * (MAX_ID + 2)
"""The ids of ten rented numbers, with commas between them."""
_CURRENCY: Final = re.compile(r"[A-Z0-9]{3,8}")

M = TypeVar("M", bound="RequestModel")


def _one_line(value: str) -> str:
    if any(char in value for char in "\t\n\r"):
        raise PydanticCustomError("refused", "must be one line")
    if value != value.strip():
        raise PydanticCustomError("refused", "must not begin or end with a space")
    return value


Line = Annotated[str, StringConstraints(min_length=1, max_length=2048), AfterValidator(_one_line)]
ShortLine = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_one_line)]


class RequestModel(BaseModel):
    """What all request bodies share."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)
    what: ClassVar[str] = "this request"


class QuoteRequest(RequestModel):
    """What decides which offer would take an order."""

    what: ClassVar[str] = "a quote"

    service: ShortLine
    quantity: Annotated[int, Field(ge=1)] | None = None
    link: Line | None = None
    params: dict[str, Any] | None = None
    max_cost: Any = None
    provider: ShortLine | None = None


class OrderRequest(QuoteRequest):
    """`POST /v1/orders`, contract.md §3."""

    what: ClassVar[str] = "an order"

    reference: ShortLine | None = None
    metadata: dict[str, Any] | None = None
    callback_url: Annotated[str, StringConstraints(min_length=1)] | None = None


class BatchRequest(RequestModel):
    """`POST /v1/orders:batch`; each order is judged by itself."""

    what: ClassVar[str] = "a batch"

    orders: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH)]


class CountRequest(RequestModel):
    """What somebody counts at an order's link now."""

    what: ClassVar[str] = "a count"

    count: Annotated[int, Field(ge=0, le=MAX_COUNT)]


class ResolveRequest(RequestModel):
    """How an unclear purchase ended, as a person knows it."""

    what: ClassVar[str] = "a resolution"

    outcome: Literal["placed", "not_placed"]
    provider_order: (
        Annotated[str, StringConstraints(min_length=1, max_length=MAX_IDS), AfterValidator(_one_line)] | None
    ) = None


class ReleaseRequest(RequestModel):
    """What of a provider's catalogue is believed from now on: one service (of one country), or the shrunken whole."""

    what: ClassVar[str] = "a release"

    service: Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(_one_line)] | None = None
    country: Annotated[str, StringConstraints(min_length=1, max_length=32), AfterValidator(_one_line)] | None = None
    catalogue: Literal[True] | None = None


class EmptyRequest(RequestModel):
    """A request that is all said by its path."""


def read(model: type[M], body: bytes, *, deep: bool = True) -> M:
    """A request's body; Problem naming what is wrong with it. Without `deep` its values still want `check_values`."""
    return validate(model, parse_object(body), deep=deep)


def read_optional(model: type[M], body: bytes) -> M:
    """The same where no body means an empty object."""
    return validate(model, parse_object(body) if body else {})


def validate(model: type[M], value: object, *, deep: bool = True) -> M:
    """Parsed JSON as a model; Problem naming every field at fault."""
    if not isinstance(value, dict):
        raise invalid(f"must be an object, got {noun(value)}")
    if deep:
        check_values(value)
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
    # Raised here and not in the handler: pydantic's error holds the values.
    raise FieldProblems([(_path(error["loc"]), _sentence(model, error)) for error in errors[:MAX_ERRORS]])


def new_order(value: object, owner: str, currency: str) -> NewOrder:
    """The wish that one order's JSON stands for; `currency` is what a bare `max_cost` is in."""
    request = validate(OrderRequest, value)
    metadata = {name: _plain(item, f"metadata.{name}") for name, item in (request.metadata or {}).items()}
    return NewOrder(
        owner=owner,
        service=request.service,
        quantity=request.quantity,
        link=request.link,
        params=_params(request.params or {}),
        reference=request.reference,
        metadata=metadata,
        max_cost=_max_cost(request.max_cost, currency),
        provider=request.provider,
        callback_url=request.callback_url,
    )


def quoted_order(request: QuoteRequest, owner: str, currency: str) -> NewOrder:
    """The order that a quote asks about."""
    return NewOrder(
        owner=owner,
        service=request.service,
        quantity=request.quantity,
        link=request.link,
        params=_params(request.params or {}),
        max_cost=_max_cost(request.max_cost, currency),
        provider=request.provider,
    )


def _params(given: Mapping[str, Any]) -> dict[str, str]:
    """The panel's parameters as text; lists of lines have one line each."""
    params: dict[str, str] = {}
    for name, value in given.items():
        path = f"params.{name[:64]}"
        if isinstance(value, list):
            params[name] = _lines(name, value, path)
        elif isinstance(value, str):
            params[name] = value
        elif isinstance(value, int) and not isinstance(value, bool):
            params[name] = str(value)
        else:
            raise invalid(f"must be text, a whole number or an array of lines, got {noun(value)}", path)
    return params


def _lines(name: str, value: list[Any], path: str) -> str:
    if name not in LINE_LISTS:
        raise invalid("takes one value, not an array", path)
    for place, line in enumerate(value):
        if not isinstance(line, str):
            raise invalid(f"must be text, got {noun(line)}", f"{path}.{place}")
        if "\n" in line or "\r" in line:
            raise invalid("must be one line", f"{path}.{place}")
    return "\n".join(value)


def _max_cost(value: object, currency: str) -> Money | None:
    """`"0.50"`, `0.5`, or an object with its currency; exact, or refused."""
    if value is None:
        return None
    amount: object = value
    path = "max_cost"
    if isinstance(value, dict):
        for name in value:
            if name not in ("amount", "currency"):
                raise invalid("is no field of an amount of money; it has amount and currency", f"max_cost.{name[:64]}")
        if "amount" not in value:
            raise invalid("is required", "max_cost.amount")
        amount, path = value["amount"], "max_cost.amount"
        named: object = value.get("currency", currency)
        if not isinstance(named, str) or not _CURRENCY.fullmatch(named):
            raise invalid("must be a currency code such as USD", "max_cost.currency")
        currency = named
    try:
        exact = parse_decimal(amount)
        money = Money.parse(exact, currency)
    except MoneyError:
        raise invalid('must be an amount of money such as "0.50"', path) from None
    if money.decimal != exact:
        raise invalid(f"may have at most {SCALE} digits after the point", path)
    return money


def _plain(value: object, path: str) -> object:
    """Metadata as it will be stored: opaque to us, so its fractions are what JSON's readers take them for."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: _plain(item, f"{path}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, f"{path}.{place}") for place, item in enumerate(value)]
    return value


def _path(loc: tuple[str | int, ...]) -> str:
    return ".".join(str(part)[:64] for part in loc)


_SENTENCES: Final = {
    "missing": "is required",
    "string_type": "must be text, got {noun}",
    "string_too_short": "must not be empty; leave it out instead",
    "string_too_long": "must have at most {max_length} characters",
    "int_type": "must be a whole number, got {noun}",
    "greater_than_equal": "must be at least {ge}",
    "dict_type": "must be an object, got {noun}",
    "list_type": "must be an array, got {noun}",
    "too_short": "must have at least {min_length} entry",
    "too_long": "may have at most {max_length} entries, got {actual_length}",
    "literal_error": "must be {expected}",
}


def _sentence(model: type[RequestModel], error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return f"is no field of {model.what}{did_you_mean(str(error['loc'][-1])[:64], model.model_fields)}"
    template = _SENTENCES.get(error["type"])
    if template is None:
        return error["msg"]
    value = error.get("input")
    said = "a number with a point" if isinstance(value, Decimal) else noun(value)
    return template.format(noun=said, **error.get("ctx", {}))
