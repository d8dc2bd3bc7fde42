"""How a command fails, as values: what `main` prints and which exit code it gives.

No text made here holds a key or another secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

CANNOT: Final = 1
ASKED_WRONGLY: Final = 2


class BadConfig(Exception):
    """The text names the config file and lists everything that is wrong with it."""


class CannotDo(Exception):
    """What was asked for was not done; the text says why, and what the user can do."""


class Unreachable(CannotDo):
    """Nobody answers at the daemon's address, or the connection broke and stayed broken."""


class Refused(CannotDo):
    """The daemon answered with a problem document (RFC 9457). `body` is that answer as it came."""

    def __init__(self, words: str, *, status: int, document: Mapping[str, Any], body: bytes, wait_s: float) -> None:
        super().__init__(words)
        self.status = status
        self.document = document
        self.body = body
        self.wait_s = wait_s
        """Seconds until it makes sense to ask again, by the answer's Retry-After; 0 when it says nothing."""

    @property
    def kind(self) -> str:
        """The last part of the problem's `type`: `invalid-field`."""
        return str(self.document.get("type", "")).rpartition(":")[2]

    @property
    def passes(self) -> bool:
        """Whether the same request may well succeed a little later."""
        return self.status in (429, 503)
