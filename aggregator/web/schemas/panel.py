"""The shapes of the panel door: what a call may say; an answer is whatever the two documents say of its action."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, RootModel

from aggregator.web.schemas.common import Open

Action = Literal[
    "services",
    "categories",
    "inventory",
    "balance",
    "add",
    "status",
    "refill",
    "refill_status",
    "cancel",
    "sms_projects",
    "sms_countries",
    "add_sms",
    "sms_code",
    "sms_status",
]
Id = str | int


class PanelCall(Open):
    """A call of the panel protocol; further parameters are those of the service's type (`comments`, `usernames`, …)."""

    key: str = Field(
        description="A key of `keys` in the config; its `panel` decides on shapes and words.", examples=["KEY"]
    )
    action: Action = Field(description="What is wanted.", examples=["status"])
    service: Id | None = Field(None, description="`add`, `inventory`: the `panel_id` of a service of ours.")
    link: str | None = Field(None, description="`add`: where the order goes; optional for products.")
    quantity: Id | None = Field(None, description="`add`, `add_sms`: pieces; of a drip-feed, those of one run.")
    runs: Id | None = Field(None, description="`add`: runs of a drip-feed.")
    interval: Id | None = Field(None, description="`add`: minutes between two runs.")
    order: Id | None = Field(None, description="One order, or (`sms_code`, `sms_status`) one rented number.")
    orders: str | None = Field(
        None,
        description="Up to 100 orders, with commas between them (or as a list: `orders[]=…`).",
        examples=["23501,23502"],
    )
    refill: Id | None = Field(None, description="`refill_status`: one refill.")
    refills: str | None = Field(None, description="`refill_status`: up to 100 refills, with commas between them.")
    project_id: Id | None = Field(None, description="`add_sms`: the project, as `sms_projects` has it.")
    country: str | None = Field(None, description="`add_sms`, `sms_projects`: a country of the project.")
    phone: str | None = Field(None, description="`add_sms`: a number to rent again.")
    page: Id | None = Field(None, description="`services`: which page; used with `limit`.")
    limit: Id | None = Field(None, description="`services`: rows of a page; 0 or left out: all.")
    category: str | None = Field(None, description="`services`: only those of this category.")
    subcategory: str | None = Field(None, description="`services`: only those of this subcategory.")


class PanelAnswer(RootModel[dict[str, Any] | list[Any]]):
    """What the document of the key's `panel` says of the action; whatever went wrong, `{"error": "…"}`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"order": 23501}]})
