"""How the daemon speaks of itself: one line per event, and no secret in any of them.

Decides the shape of log lines and what is masked. Never decides what is worth a line, and never logs local variables
or the query string of a URL.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import html
import json as jsonlib
import logging
import re
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from math import isfinite
from pathlib import PurePath
from typing import Any, ClassVar, Final, TextIO, cast
from urllib.parse import quote
from uuid import UUID

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

MASK: Final = "[secret]"
MIN_SECRET_LENGTH: Final = 6
"""Shorter values are not searched for: they would mask innocent text everywhere."""
_MAX_DEPTH: Final = 20

_SECRET_NAMES: Final = frozenset(
    {"key", "api_key", "secret", "password", "authorization", "token", "accounts", "code", "sms_content"}
)
_SECRET_ENDINGS: Final = ("_api_key", "_secret", "_password", "_token")

# Libraries that speak of every request, statement or tick; their warnings are still heard.
_QUIET: Final = ("aiohttp.access", "aiosqlite", "alembic", "apscheduler", "asyncio", "sqlalchemy")

_URL: Final = re.compile(
    # Scheme (RFC 3986 §3.1), user info up to the last @, host and path, then the query or fragment.
    r"(\b[a-z][a-z0-9+.-]{0,30}://)(?:[^\s/?#\"'<>]*@)?([^\s?#\"'<>]*)(?:[?#][^\s\"'<>]*)?",
    re.IGNORECASE,
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def strip_query(url: str) -> str:
    """The URL without user info, query string and fragment: what may be logged of it. Works on broken URLs too."""
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    return re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*:)?//[^/]*@", r"\1//", bare)


class Redactor:
    """Finds secrets in texts and values, plain or encoded the ways that programs echo them, and masks them.

    Known encodings: percent and form encoding, JSON, HTML and Python string escapes, and base64 in either alphabet,
    also where the secret is only a part of what was encoded (`user:secret` of HTTP Basic).
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = set(secrets)
        self._found: tuple[tuple[str, ...], re.Pattern[str]] = _compile(self._secrets)

    def add(self, secret: str) -> None:
        """Mask this one from now on, too."""
        if secret not in self._secrets:
            self._secrets.add(secret)
            self._found = _compile(self._secrets)

    def text(self, text: str) -> str:
        """The text with every secret replaced by `[secret]`."""
        forms, pattern = self._found
        # Searching a text for hundreds of literals is far cheaper one by one than by one pattern.
        return pattern.sub(MASK, text) if any(form in text for form in forms) else text

    def value(self, value: object) -> Any:
        """A copy of plain data (mappings, sequences, scalars) without secrets; what stands under a secret's name
        (`api_key`, `authorization`, `accounts`…) is masked whatever it is. Other objects become text."""
        return self._value(value, 0)

    def _value(self, value: object, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, int):
            if value.bit_length() > 4096:  # beyond what Python converts to text
                return "(a very large number)"
            text = str(int(value))
            return int(value) if self.text(text) == text else self.text(text)  # a secret may be all digits
        if isinstance(value, float):
            return value if isfinite(value) else str(value)
        if depth >= _MAX_DEPTH:
            return "…"
        if isinstance(value, Mapping):
            return {self.text(str(name)): self._named(name, item, depth) for name, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value(item, depth + 1) for item in value]
        return self.text(_as_text(value))

    def _named(self, name: object, value: object, depth: int) -> Any:
        return MASK if _is_secret_name(str(name)) and value is not None else self._value(value, depth + 1)


class _ForLogs(Redactor):
    """Another redactor's secrets, and besides no query string or user info of any URL."""

    def __init__(self, base: Redactor) -> None:
        super().__init__()
        self._base = base

    def text(self, text: str) -> str:
        text = self._base.text(text)
        return _URL.sub(r"\1\2", text) if "://" in text else text


def _compile(secrets: Iterable[str]) -> tuple[tuple[str, ...], re.Pattern[str]]:
    forms = {form for secret in secrets if len(secret) >= MIN_SECRET_LENGTH for form in _forms(secret)}
    # The longest first: a secret may begin with another one.
    ordered = sorted(forms, key=lambda form: (-len(form), form))
    return tuple(ordered), re.compile("|".join(map(re.escape, ordered)))


def _is_secret_name(name: str) -> bool:
    plain = name.lower().replace("-", "_")
    return plain in _SECRET_NAMES or plain.endswith(_SECRET_ENDINGS)


def _as_text(value: object) -> str:
    try:
        if isinstance(value, date):
            return value.isoformat()
        if isinstance(value, bytes | bytearray):
            return bytes(value).decode("utf-8", "backslashreplace")
        if isinstance(value, BaseException):
            return f"{type(value).__name__}: {value}"
        return str(value) if isinstance(value, Decimal | PurePath | UUID) else repr(value)
    except Exception:  # a broken __repr__ must not cost the line
        return f"<{type(value).__name__}>"


def _lower_hex(text: str) -> str:
    return re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), text)


def _escapes(text: str) -> set[str]:
    """The text as it looks within strings of other languages."""
    percent = {quote(text, safe, errors="surrogatepass") for safe in ("", "/")}
    percent |= {form.replace("%20", "+") for form in percent}
    json_forms = {jsonlib.dumps(text)[1:-1], jsonlib.dumps(text, ensure_ascii=False)[1:-1]}
    # PHP escapes slashes (json_encode's default), .NET everything that HTML might take amiss.
    json_forms |= {form.replace("/", "\\/") for form in json_forms}
    strict = "".join(c if c.isascii() and c.isalnum() else _u_escape(c) for c in text)
    json_forms |= {strict, re.sub(r"\\u[0-9a-f]{4}", lambda match: "\\u" + match[0][2:].upper(), strict)}
    python = {repr(text)[1:-1], text.encode("unicode_escape").decode()}
    return {text, *percent, *map(_lower_hex, percent), *json_forms, *python, html.escape(text)}


def _u_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _base64_cores(raw: bytes) -> set[str]:
    """What base64 makes of these bytes at each of the three offsets, less the characters that neighbours share."""
    cores = set()
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).decode().rstrip("=")
        first = -(-offset * 8 // 6)
        last = (offset + len(raw)) * 8 // 6
        core = encoded[first:last]
        cores |= {core, core.replace("+", "-").replace("/", "_")}
    return cores


def _forms(secret: str) -> set[str]:
    raw = secret.encode("utf-8", "surrogatepass")
    once = {secret} | _base64_cores(raw)
    # Twice: JSON travels in form fields, and URLs in JSON.
    for _ in range(2):
        once |= {form for text in once for form in _escapes(text)}
    return {form for form in once if len(form) >= MIN_SECRET_LENGTH}


def configure(
    *,
    secrets: Iterable[str] = (),
    json: bool | None = None,
    level: str = "INFO",
    stream: TextIO | None = None,
) -> Redactor:
    """Set up logging for the whole process; calling it again replaces the set-up.

    Lines go to `stream` (default: standard error), as JSON unless it is a terminal or `json` says otherwise. What
    libraries log goes the same way. Returns the redactor in use, so that secrets met later can be added.
    Raises ValueError for an unknown level.
    """
    numeric = logging.getLevelNamesMapping().get(level.upper())
    if numeric is None:
        raise ValueError(f"unknown log level {level!r}; known: DEBUG, INFO, WARNING, ERROR, CRITICAL")
    target = stream if stream is not None else sys.stderr
    terminal = target.isatty()
    redactor = Redactor(secrets)
    pretty = terminal if json is None else not json

    chain: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,  # plain tracebacks: they hold no local variables
        _redacting(redactor),  # before the record exists, so that other handlers get no secret either
    ]
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if pretty:
        renderer = structlog.dev.ConsoleRenderer(
            colors=terminal, exception_formatter=structlog.dev.plain_traceback, pad_event_to=30
        )
        last += [_printable, renderer]
    else:
        last.append(structlog.processors.JSONRenderer())

    handler = _Handler(target)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=chain, processors=last))
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(old)
        old.flush()
    root.addHandler(handler)
    root.setLevel(numeric)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(numeric, logging.WARNING))
    logging.captureWarnings(True)
    processors: list[Processor] = [*chain, _WRAP]
    _Quick.current = None if pretty else _Quick(redactor, handler, processors, heard=numeric <= logging.INFO)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # so that calling this again reaches loggers that modules hold
    )
    return redactor


def get_logger(name: str = "aggregator") -> FilteringBoundLogger:
    """A logger; use it as `log.info("order_placed", order_id=…)`: a stable snake_case event, then keys."""
    return cast(FilteringBoundLogger, structlog.get_logger(name))


def say_often(event: str, same: tuple[tuple[str, object], ...], **own: str | float) -> None:
    """A line of `get_logger().info` that comes thousands of times a second. What is the `same` in many of them is
    looked through for secrets and rendered once; what is its `own` is plain ASCII that nobody outside had a say in.
    The lines of one round of the event loop are written together."""
    quick = _Quick.current
    # Unless somebody listens in.
    if quick is not None and _ROOT.handlers == [quick.handler] and quick.chain[-1] is _WRAP:
        quick.say(event, same, own)
    else:
        get_logger().info(event, **dict(same), **own)


_ROOT: Final = logging.getLogger()
_WRAP: Final = structlog.stdlib.ProcessorFormatter.wrap_for_formatter


class _Quick:
    """Lines as the pipeline would make them, by hand."""

    current: ClassVar[_Quick | None] = None

    def __init__(self, redactor: Redactor, handler: _Handler, chain: list[Processor], *, heard: bool) -> None:
        self.chain = chain
        self._view = _ForLogs(redactor)
        self.handler = handler
        self._heard = heard
        self._same: dict[tuple[str, tuple[tuple[str, object], ...]], str] = {}
        self._second = (0, "")
        """The second of the last line, and how it is written: hundreds of lines begin with it."""

    def say(self, event: str, same: tuple[tuple[str, object], ...], own: Mapping[str, str | float]) -> None:
        if not self._heard:
            return
        known = self._same.get((event, same))
        if known is None:
            if len(self._same) > 1000:
                self._same.clear()
            known = jsonlib.dumps(self._view.value({"level": "info", "event": event, **dict(same)}))[1:-1]
            self._same[event, same] = known
        told = ""
        for name, value in own.items():
            told += f', "{name}": "{value}"' if isinstance(value, str) else f', "{name}": {value}'
        second, fraction_us = divmod(time.time_ns() // 1000, 1_000_000)
        known_second, written = self._second
        if second != known_second:
            written = datetime.fromtimestamp(second, UTC).isoformat()[:-6]
            self._second = second, written
        when = f"{written}.{fraction_us:06d}Z"
        self.handler.hold(f'{{"timestamp": "{when}", {known}{told}, "logger": "aggregator"}}\n')


class _Handler(logging.StreamHandler[TextIO]):
    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._held: list[str] = []

    def hold(self, line: str) -> None:
        """Write it with what else this round of the event loop has to say; now, where no loop runs."""
        self._held.append(line)
        if len(self._held) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
            except RuntimeError:
                self.flush()

    def emit(self, record: logging.LogRecord) -> None:
        if self._held:
            self.flush()
        super().emit(record)

    def flush(self) -> None:
        held, self._held = self._held, []
        with contextlib.suppress(OSError, ValueError), self.lock or contextlib.nullcontext():
            if held:
                self.stream.write("".join(held))
            super().flush()

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: the standard library would print the record's arguments, unmasked, to standard error."""


def _redacting(redactor: Redactor) -> Processor:
    view = _ForLogs(redactor)

    def redact(logger: WrappedLogger, method_name: str, event_dict: EventDict) -> EventDict:
        first = {name: event_dict[name] for name in ("timestamp", "level", "event") if name in event_dict}
        return cast(EventDict, view.value({**first, **event_dict}))

    return redact


def _printable(logger: WrappedLogger, method_name: str, event_dict: EventDict) -> EventDict:
    """Escape control characters: a provider's text must not steer the terminal or fake a line."""
    for name, value in event_dict.items():
        if not isinstance(value, str):
            continue
        lines = value.split("\n") if name in {"exception", "stack"} else [value]
        event_dict[name] = "\n".join(_CONTROL.sub(lambda m: repr(m[0])[1:-1], line) for line in lines)
    return event_dict
