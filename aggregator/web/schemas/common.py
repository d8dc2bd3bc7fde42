"""What the shapes share: the strict base, money, times, and lists by pages."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, create_model

NAMED: Final = "x-shape"
"""In a JSON Schema made by hand: the name of the shape that stands there. The document refers to it."""


class Bare(BaseModel):
    """A part of shapes, neither open nor closed by itself. Nobody needs the classes before the document is made."""

    model_config = ConfigDict(strict=True, frozen=True, defer_build=True)


class Shape(Bare):
    """What nearly all shapes share: a field that is not declared here is not answered."""

    model_config = ConfigDict(extra="forbid")


class Open(Bare):
    """The same for what is told with further fields by its kind."""

    model_config = ConfigDict(extra="allow")


Time = Annotated[
    str,
    Field(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
        json_schema_extra={"format": "date-time"},
        examples=["2026-11-21T18:00:00.000Z"],
    ),
]
"""UTC, RFC 3339, milliseconds."""

Amount = Annotated[str, Field(pattern=r"^-?\d+\.\d{2,8}$", examples=["0.90"])]
"""Plain decimal, 2 to 8 digits after the point, no exponent."""

Count = Annotated[int, Field(ge=0)]
OrderId = Annotated[str, Field(pattern="^ord_[0-9a-f]{32}$", examples=["ord_0197a5f0c3b87cc09b1d4e5f60718293"])]
AttemptId = Annotated[str, Field(pattern="^att_[0-9a-f]{32}$", examples=["att_0197a5f0c3c97d119b1d4e5f60718293"])]
EventId = Annotated[str, Field(pattern="^evt_[0-9a-f]{32}$", examples=["evt_0197a5f0c3da7e229b1d4e5f60718293"])]


class Money(Shape):
    """An exact amount of money; never a binary fraction."""

    amount: Amount = Field(
        description="Plain decimal in units of the currency: 2 to 8 digits after the point, no exponent."
    )
    currency: str = Field(
        description="ISO 4217 code, or whatever a provider calls its money, in capitals.",
        min_length=1,
        max_length=8,
        examples=["USD"],
    )


def page(name: str, noun: str, item: type[BaseModel], summary: str) -> type[BaseModel]:
    """The shape of a list: the items by their noun, and where the next page begins."""
    items = Field(description=summary)
    cursor = Field(
        description="Give it as `cursor` for the next page, with the same filters; null on the last page.",
        examples=[None],
    )
    made: type[BaseModel] = create_model(
        name,
        __base__=Shape,
        __doc__=f"{summary[:1].upper()}{summary[1:]}",
        **{noun: (list[item], items), "next_cursor": (str | None, cursor)},  # type: ignore[call-overload,valid-type]
    )
    return made
