"""The shapes of attempts: the ranking, what was sent and came back, and the evidence of an unclear purchase."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from aggregator.web.schemas.common import AttemptId, Money, Open, Shape, Time, page


class RankedOffer(Shape):
    """An offer that was considered, and why it was or was not chosen."""

    provider: str = Field(description="The provider, by its name in the config.", examples=["smmplus"])
    service: str = Field(description="The provider's id of the service, or its SMS project.", examples=["1"])
    # Left out where there is none; the default is for the model alone.
    country: str | SkipJsonSchema[None] = Field(None, description="Of SMS offers.", examples=["us"])
    eligible: bool = Field(description="Whether it can take the order.", examples=[True])
    reason: str = Field(
        description="Why it was chosen, or not, for a person.", examples=["chosen: the cheapest that can take it"]
    )
    expected_cost: Money | None = Field(
        description="What it should charge, in its own currency; null where that cannot be told."
    )
    cost: Money | None = Field(
        description="The same in the config's `currency`, by which offers are compared; null without a rate."
    )
    stock: int | None = Field(description="Pieces in stock as last heard of; null where unknown.", examples=[None])


class Exchange(Shape):
    """One call to a provider, redacted: no key and no delivered account is in it."""

    request: dict[str, str] = Field(
        description="The form that was sent, without the key.",
        examples=[{"action": "add", "service": "1", "link": "https://instagram.com/username", "quantity": "1000"}],
    )
    outcome: str = Field(description="`reply`, or how no whole answer came.", examples=["reply"])
    status: int | None = Field(description="HTTP status of the answer; null without one.", examples=[200])
    body: str | None = Field(description="The beginning of the answer.", examples=['{"order": 23501}'])
    ms: int = Field(description="Milliseconds until the answer or its absence was certain.", ge=0, examples=[8])


class Evidence(Open):
    """Something that was seen of a purchase while nobody knew how it ended; further fields by `kind`."""

    kind: str = Field(
        description="`balance`: a reading of the provider's balance, with `balance`, `certain`, `difference`, `shown` "
        "and `sharp`; `difference`: the books took over one that nobody explained; `clock`: the clock jumped by "
        "`forward_s`; `active_order`: the provider refused another order on the same link; `repeated`: the purchase "
        "was sent again under its key, with `result` and `detail`; `recovered`: a stranger among the provider's ids, "
        "with `provider_order`; `asked`: the status was asked for; `verdict`: what it proves; `person`: what somebody "
        "said, with `by` and `outcome`.",
        examples=["balance"],
    )
    at: Time = Field(description="When it was seen.")


class Attempt(Shape):
    """One try to buy an order from one provider."""

    id: AttemptId = Field(description="Ours.")
    ordinal: int = Field(description="Its place among the order's attempts, from 1.", ge=1, examples=[1])
    round: int = Field(description="Which look at all offers it belongs to, from 0.", ge=0, examples=[0])
    state: Literal[
        "no_offer", "planned", "placing", "placed", "refused", "not_sent", "unclear", "not_placed", "dropped"
    ] = Field(
        description="`no_offer`: nobody could take the order, kept for the reasons; `planned`: chosen, nothing sent; "
        "`placing`: being sent; `placed`: bought; `refused`: the provider's own refusal; `not_sent`: proved that "
        "nothing left; `unclear`: nobody knows; `not_placed`: was unclear, proved or declared not bought; `dropped`: "
        "taken back before anything was sent.",
        examples=["placed"],
    )
    provider: str | None = Field(description="The chosen provider; null for `no_offer`.", examples=["smmplus"])
    service: str | None = Field(description="The provider's id of the service.", examples=["1"])
    country: str | None = Field(description="Of SMS offers.", examples=[None])
    expected_cost: Money | None = Field(description="What it should charge, in the provider's currency.")
    cost: Money | None = Field(description="The same in the config's `currency`.")
    candidates: list[RankedOffer] = Field(description="Every offer that was considered, the best first.")
    seen: int = Field(description="How often a `no_offer` was found with these same reasons.", ge=1, examples=[1])
    outcome: str | None = Field(
        description="How it ended, as a stable word: `placed`, `not_sent`, a refusal's meaning such as `stock`, or why "
        "nobody knows, such as `timeout`.",
        examples=["placed"],
    )
    detail: str | None = Field(description="The same for a person, with the provider's words.")
    consequence: Literal["next_offer", "later", "callers_fault", "provider_down", "unclear"] | None = Field(
        description="What a refusal led to.", examples=[None]
    )
    provider_order: str | None = Field(description="The provider's id of what it bought.", examples=["23501"])
    evidence: list[Evidence] = Field(
        description="What was seen of it while it was unclear, the oldest first.", examples=[[]]
    )
    exchange: Exchange | None = Field(description="The call that was made; null where none was.")
    created_at: Time = Field(description="When the offer was chosen.")
    sent_at: Time | None = Field(description="When it was committed to be sent; null before.")
    finished_at: Time | None = Field(description="When it was known how it ended; null before.")


AttemptList = page("AttemptList", "attempts", Attempt, "attempts, the oldest first")
