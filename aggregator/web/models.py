"""What requests may say: strict models, and from pydantic's errors to the fields at fault.

Decides the shape of a request; whether an order can be taken is intake's to say. Nothing is coerced: text is not a
number, a number is not text, and an unknown field is an error that names the close one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from aggregator.config.problems import did_you_mean
from aggregator.domain.catalogue import LINE_LISTS, PARAMS
from aggregator.domain.money import SCALE, Money, MoneyError, parse_decimal
from aggregator.domain.sizes import MAX_COUNTRY, MAX_ID
from aggregator.flow.intake import MAX_METADATA, NewOrder
from aggregator.web.bodies import check_values, noun, parse_object
from aggregator.web.problems import FieldProblems, invalid
from aggregator.web.schemas.common import NAMED

MAX_BATCH: Final = 1000
MAX_COUNT: Final = 2**53
"""What every JSON reader keeps exact."""
MAX_ERRORS: Final = 20
MAX_IDS: Final = 10 * (MAX_ID + 2)
"""The ids of ten rented numbers, with commas between them."""
_CURRENCY: Final = re.compile(r"[A-Z0-9]{3,8}")

M = TypeVar("M", bound="RequestModel")


def _one_line(value: str) -> str:
    if not value.isprintable() and any(char in value for char in "\t\n\r"):
        raise PydanticCustomError("refused", "must be one line")
    if value != value.strip():
        raise PydanticCustomError("refused", "must not begin or end with a space")
    return value


_ONE_LINE: Final = Field(
    json_schema_extra={
        # What `_one_line` and `check_values` refuse, for JSON Schema.
        "pattern": r"^[^\s\u0000-\u001f\u007f]([^\u0000-\u001f\u007f]*[^\s\u0000-\u001f\u007f])?$"
    }
)
Line = Annotated[str, StringConstraints(min_length=1, max_length=2048), AfterValidator(_one_line), _ONE_LINE]
ShortLine = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_one_line), _ONE_LINE]
Ids = Annotated[str, StringConstraints(min_length=1, max_length=MAX_IDS), AfterValidator(_one_line), _ONE_LINE]
RowId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID), AfterValidator(_one_line), _ONE_LINE]
Country = Annotated[str, StringConstraints(min_length=1, max_length=MAX_COUNTRY), AfterValidator(_one_line), _ONE_LINE]


# How these are read is below; JSON Schema says of them what pydantic leaves to it.
_PARAM: Final[dict[str, Any]] = {"type": ["string", "integer"]}
_PARAM_LINES: Final[dict[str, Any]] = {"type": ["string", "integer", "array"], "items": {"type": "string"}}
Params = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "properties": {name: _PARAM_LINES if name in LINE_LISTS else _PARAM for name in sorted(PARAMS)},
            "additionalProperties": False,
        }
    ),
]
_LIMIT_AMOUNT: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string", "pattern": r"^[0-9]{1,10}(\.[0-9]{1,8})?$", "examples": ["0.50"]},
        {"type": "number", "exclusiveMinimum": 0},
    ],
    "description": "More than 0, at most 8 digits after the point.",
}
MaxCost = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                *_LIMIT_AMOUNT["anyOf"],
                {
                    "type": "object",
                    "properties": {
                        "amount": _LIMIT_AMOUNT,
                        "currency": {
                            "type": "string",
                            "pattern": "^[A-Z0-9]{3,8}$",
                            "description": "`currency` of the config, or one that `exchange_rates` has.",
                            "examples": ["USD"],
                        },
                    },
                    "required": ["amount"],
                    "additionalProperties": False,
                },
                {"type": "null"},
            ]
        }
    ),
]


class RequestModel(BaseModel):
    """What all request bodies share."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)
    what: ClassVar[str] = "this request"


class QuoteRequest(RequestModel):
    """What decides which offer would take an order."""

    what: ClassVar[str] = "a quote"

    service: ShortLine = Field(description="The service of ours, by its name in the config.", examples=["ig-followers"])
    quantity: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Pieces; of a drip-feed, those of one run. Required except where the service's type derives it "
        "(packages, subscriptions, lists of comments or usernames).",
        examples=[1000],
    )
    link: Line | None = Field(
        None,
        description="Where it goes. Required except by subscriptions, products and numbers.",
        examples=["https://instagram.com/username"],
    )
    params: Params | None = Field(
        None,
        description="The panel's own parameters, checked against the service's type. Lists (`comments`, `usernames`, "
        "`hashtags`, `keywords`, `groups`) are an array of lines, or text with one line each. `runs` and `interval` "
        "(minutes) make a drip-feed.",
    )
    max_cost: MaxCost = Field(
        None,
        description="Buy only where it costs at most so much: an amount in the config's `currency`, or an object with "
        "a currency of its own.",
        examples=["1.50"],
    )
    provider: ShortLine | None = Field(None, description="Buy at this provider or nowhere.")


class OrderRequest(QuoteRequest):
    """One request for a service of ours."""

    what: ClassVar[str] = "an order"

    reference: ShortLine | None = Field(
        None, description="The caller's own name for it, to be found by.", examples=["shop-778"]
    )
    metadata: dict[str, Any] | None = Field(
        None,
        description=f"The caller's own data, at most {MAX_METADATA} bytes as JSON; given back as it came.",
        examples=[{"customer": 17}],
    )
    callback_url: Annotated[str, StringConstraints(min_length=1, max_length=2048)] | None = Field(
        None,
        description="Where this order's events are sent, too, signed with the key's `callback_secret`: http(s), "
        "ports 80, 443 and 8000 to 9999, no user info, no address that is not public.",
        examples=["https://shop.example/callback"],
    )


class BatchRequest(RequestModel):
    """Many orders, each judged by itself."""

    what: ClassVar[str] = "a batch"

    orders: Annotated[
        list[Annotated[Any, WithJsonSchema({NAMED: OrderRequest.__name__})]],
        Field(min_length=1, max_length=MAX_BATCH),
    ] = Field(description="Each as `POST /v1/orders` takes it; a bad one does not hurt its neighbours.")


class CountRequest(RequestModel):
    """What somebody counts at an order's link now."""

    what: ClassVar[str] = "a count"

    count: Annotated[int, Field(ge=0, le=MAX_COUNT)] = Field(
        description="Pieces at the link, those from before the order included.", examples=[4321]
    )


class ResolveRequest(RequestModel):
    """How an unclear purchase ended, as a person knows it."""

    what: ClassVar[str] = "a resolution"

    outcome: Literal["placed", "not_placed"] = Field(
        description="`placed`: the provider has it; `not_placed`: it has not, and it is bought again.",
        examples=["placed"],
    )
    provider_order: Ids | None = Field(
        None,
        description="With `placed`: the provider's id of it; several rented numbers: their ids with commas.",
        examples=["23501"],
    )
    provider: ShortLine | None = Field(
        None,
        description="With `placed`, of an order that is held since a restore: the provider that has it. Of others it "
        "is known.",
        examples=["smmplus"],
    )


class ReleaseRequest(RequestModel):
    """What of a provider's catalogue is believed from now on: one service (of one country), or the shrunken whole."""

    what: ClassVar[str] = "a release"

    service: RowId | None = Field(None, description="The provider's id of a quarantined service.", examples=["1"])
    country: Country | None = Field(None, description="Only of this country.")
    catalogue: Literal[True] | None = Field(
        None, description="Instead of `service`: the next catalogue, although it shrank."
    )


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
