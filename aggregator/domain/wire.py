"""What travels between a dialect and the network, as plain values.

A dialect makes an HttpRequest and reads an HttpReply; it never sees a socket. A LostReply says that a request left,
or may have left, and that nothing usable came back; a NotSent proves that no byte of it did.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One form-encoded POST of the panel protocol. `form` keeps its order; the API key is among it."""

    url: str
    form: tuple[tuple[str, str], ...] = field(repr=False)
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def action(self) -> str:
        """The protocol's action, for logs and metrics."""
        return next((value for name, value in self.form if name == "action"), "?")


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A whole answer: framing complete, size within the limit. What it means is the dialect's business."""

    status: int
    body: bytes = field(repr=False)
    content_type: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class LostReply:
    """The first byte may have left and no whole answer came: timeout, reset, truncated, too large."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """Proof that nothing left: the name did not resolve, the connection was refused, TLS failed."""

    reason: str


Outcome = HttpReply | LostReply | NotSent
