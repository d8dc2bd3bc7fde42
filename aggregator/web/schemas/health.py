"""The shapes of what probes are answered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aggregator.web.schemas.common import Shape


class Alive(Shape):
    """Every loop comes round."""

    status: Literal["ok"] = Field(description="Always `ok`; else the answer is a problem.")
    version: str = Field(description="The daemon's version.", examples=["0.1.0"])


class Ready(Shape):
    """Orders can be taken."""

    status: Literal["ready"] = Field(description="Always `ready`; else the answer is a problem.")
