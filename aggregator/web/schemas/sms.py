"""The shapes of what numbers can be rented for, over all providers."""

from __future__ import annotations

from pydantic import Field

from aggregator.web.schemas.common import Count, Money, Shape, Time, page


class Project(Shape):
    """What `project` and `country` of an offer may be, at one provider."""

    provider: str = Field(description="The provider's name in the config.", examples=["numbers"])
    project: str = Field(description="The provider's id of it: `project` of an offer.", examples=["65f0aa"])
    name: str = Field(description="What its codes are for.", examples=["OpenAI / ChatGPT"])
    country: str | None = Field(description="`country` of an offer; null where none is named.", examples=["us"])
    country_title: str | None = Field(description="The country's name.", examples=["United States"])
    rate: Money | None = Field(description="The price of one number; null where it could not be read.")
    stock: int | None = Field(description="Numbers in stock; null where unknown.", examples=[None])
    stock_known: bool = Field(description="Whether `stock` is a figure of the provider's.", examples=[False])
    quarantined: bool = Field(description="True: it is not believed, and not rented from.", examples=[False])
    reason: str | None = Field(description="Why it is not believed.", examples=[None])
    services: list[str] = Field(description="Services of ours that may rent it.", examples=[["code"]])
    seen_at: Time = Field(description="When the catalogue had it last.")


class CountryAt(Shape):
    """A country as one provider has it."""

    provider: str = Field(description="The provider's name in the config.", examples=["numbers"])
    country: str | None = Field(description="As this provider writes it.", examples=["us"])
    title: str | None = Field(description="Its name there.", examples=["United States"])
    projects: Count = Field(description="Projects that it has there.", examples=[12])


class Country(Shape):
    """A country in which some provider rents numbers."""

    country: str | None = Field(description="Its code, in small letters; null where none is named.", examples=["us"])
    title: str | None = Field(description="Its name.", examples=["United States"])
    providers: list[CountryAt] = Field(description="Who rents numbers there.")


ProjectList = page("ProjectList", "projects", Project, "projects that numbers can be rented for")
CountryList = page("CountryList", "countries", Country, "countries in which numbers can be rented")
