"""The shapes of what is told of the config."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aggregator.web.schemas.common import Shape


class Change(Shape):
    """What differs from the config before; never a value."""

    path: str = Field(description="Where in the file.", examples=["providers.smmplus.timeout_s"])
    how: Literal["added", "removed", "changed"] = Field(description="Of an entry, or `changed` of a setting.")


class ReloadedConfig(Shape):
    """The config file as it is now is in use."""

    changes: list[Change] = Field(description="Empty: the file says what was in use before.")
    warnings: list[str] = Field(description="What may not be meant, as sentences.")
