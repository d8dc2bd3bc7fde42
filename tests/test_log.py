"""What a log line looks like, and that no secret is in it, however it was encoded on its way."""

from __future__ import annotations

import asyncio
import base64
import html
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlencode
from uuid import UUID

import pytest
import structlog
from hypothesis import assume, example, given
from hypothesis import strategies as st

from aggregator import log as log_module
from aggregator.log import MASK, Redactor, configure, get_logger, say_often, strip_query

SECRET = "hunter2/abc+d="


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    quiet = {name: logging.getLogger(name).level for name in log_module._QUIET}
    root.handlers[:] = []
    yield
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, value in quiet.items():
        logging.getLogger(name).setLevel(value)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# --- the shape of a line ------------------------------------------------------------------------------------------


def test_a_line_is_json_with_time_level_event_and_context() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    with structlog.contextvars.bound_contextvars(order_id="ord_1", attempt_id="att_1", provider="smmplus"):
        get_logger("aggregator.flow").info("order_placed", quantity=1000)
    get_logger().info("idle")
    first, second = lines(stream)
    assert list(first)[:3] == ["timestamp", "level", "event"]
    at = datetime.fromisoformat(first.pop("timestamp"))
    assert at.utcoffset() is not None
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
    assert first == {
        "level": "info", "event": "order_placed", "quantity": 1000, "logger": "aggregator.flow",
        "order_id": "ord_1", "attempt_id": "att_1", "provider": "smmplus",
    }  # fmt: skip
    assert "order_id" not in second


def by_itself() -> None:
    """pytest listens to every test: without it, as in a daemon."""
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if isinstance(handler, log_module._Handler)]


SAME = (("method", "POST"), ("route", "/v1/orders"), ("caller", None), ("note", f"käse {SECRET}"))


def test_a_line_that_is_said_often_is_the_pipelines_line() -> None:
    stream = io.StringIO()
    configure(stream=stream, secrets=[SECRET])
    by_itself()
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        get_logger().info("request", **dict(SAME), ms=1.5)
    for _ in range(2):
        say_often("request", SAME, ms=1.5, request_id="r-1")
    slow, first, second = lines(stream)
    assert list(first)[:3] == ["timestamp", "level", "event"]
    for line in (slow, first, second):
        assert abs((datetime.now(UTC) - datetime.fromisoformat(line.pop("timestamp"))).total_seconds()) < 60
    assert slow == first == second
    assert "hunter2" not in stream.getvalue()


async def test_lines_said_often_are_written_by_the_end_of_the_moment_and_in_order() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    by_itself()
    say_often("one", ())
    say_often("two", ())
    get_logger().warning("three")
    say_often("four", ())
    assert [line["event"] for line in lines(stream)] == ["one", "two", "three"]
    await asyncio.sleep(0)
    assert [line["event"] for line in lines(stream)] == ["one", "two", "three", "four"]
    say_often("five", ())
    configure(stream=io.StringIO())
    assert lines(stream)[-1]["event"] == "five"


def test_lines_said_often_keep_to_the_level_the_terminal_and_those_who_listen() -> None:
    quiet, terminal = io.StringIO(), Terminal()
    configure(stream=quiet, level="WARNING")
    by_itself()
    say_often("request", SAME)
    assert quiet.getvalue() == ""
    configure(stream=terminal, secrets=[SECRET])
    say_often("request", SAME)
    assert "request" in terminal.getvalue()
    assert "hunter2" not in terminal.getvalue()
    configure(stream=io.StringIO())
    with structlog.testing.capture_logs() as heard:
        say_often("request", (("status", 201),), ms=2.5)
    assert heard == [{"event": "request", "status": 201, "ms": 2.5, "log_level": "info"}]


def test_a_terminal_gets_text_and_everything_else_json() -> None:
    for stream, asked, is_json in (
        (Terminal(), None, False),
        (Terminal(), True, True),
        (io.StringIO(), None, True),
        (io.StringIO(), False, False),
    ):
        configure(stream=stream, json=asked)
        get_logger().info("order_placed", order_id="ord_1")
        assert stream.getvalue().startswith("{") is is_json
        assert "order_placed" in stream.getvalue()


def test_only_the_asked_level_and_above_is_written() -> None:
    stream = io.StringIO()
    configure(stream=stream, level="warning")
    log = get_logger()
    log.info("no")
    log.warning("yes")
    logging.getLogger("library").info("no")
    logging.getLogger("library").error("yes")
    assert [line["event"] for line in lines(stream)] == ["yes", "yes"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown log level 'LOUD'"):
        configure(level="LOUD")


def test_configuring_again_replaces_and_reaches_loggers_already_held() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure(stream=first)
    held = get_logger()
    held.info("one")
    configure(stream=second)
    held.info("two")
    assert [line["event"] for line in lines(first)] == ["one"]
    assert [line["event"] for line in lines(second)] == ["two"]


def test_libraries_speak_through_the_same_pipeline() -> None:
    stream = io.StringIO()
    configure(stream=stream, secrets=[SECRET])
    with structlog.contextvars.bound_contextvars(order_id="ord_1"):
        logging.getLogger("library").warning("key is %s", SECRET)
    [line] = lines(stream)
    assert (line["event"], line["logger"], line["order_id"]) == (f"key is {MASK}", "library", "ord_1")


def test_chatty_libraries_are_heard_from_warnings_up() -> None:
    stream = io.StringIO()
    configure(stream=stream, level="DEBUG")
    for name in ("aiohttp.access", "sqlalchemy.engine", "apscheduler.scheduler"):
        logging.getLogger(name).info("GET /api/v2?key=x")
    logging.getLogger("aiohttp.access").warning("heard")
    assert [line["event"] for line in lines(stream)] == ["heard"]


def test_warnings_of_python_are_logged() -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure(stream=stream, secrets=[SECRET])
        warnings.warn(f"old {SECRET}", stacklevel=1)
        logging.captureWarnings(False)
    [line] = lines(stream)
    assert "old [secret]" in line["event"]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_has_no_local_variables_and_no_secret(as_json: bool) -> None:
    stream = io.StringIO()
    configure(stream=stream, json=as_json, secrets=[SECRET])

    def fail(local: str) -> None:
        raise ValueError(f"refused: {SECRET}") from KeyError(quote(SECRET))

    for log in (get_logger(), logging.getLogger("library")):
        try:
            fail("a-local-value" + "-of-the-frame")
        except ValueError:
            log.exception("failed")
    text = stream.getvalue()
    assert text.count("ValueError: refused: [secret]") == 2
    assert text.count("test_log.py") >= 2
    assert "a-local-value-of-the-frame" not in text
    assert "hunter2" not in text


def test_a_providers_text_cannot_steer_the_terminal_or_fake_a_line() -> None:
    stream = Terminal()
    configure(stream=stream)
    get_logger().info("refused", error="bad\x1b[2J\nfake line\x9b1m\u2028x", nested={"a": "\x1b[2J"})
    [line] = stream.getvalue().splitlines()
    assert "\x1b[2J" not in line
    for escaped in ("x1b[2J", "nfake line", "x9b1m", "u2028x"):
        assert f"\\{escaped}" in line


def test_a_stream_that_broke_costs_the_line_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    configure(stream=Broken(), secrets=[SECRET])
    get_logger().info("order_placed", detail=SECRET)
    assert capsys.readouterr().err == ""


def test_other_handlers_get_no_secret_either() -> None:
    seen: list[str] = []

    class Other(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    configure(stream=io.StringIO(), secrets=[SECRET])
    other = Other()
    logging.getLogger().addHandler(other)
    get_logger().info("order_placed", detail=SECRET)
    assert len(seen) == 1
    assert "hunter2" not in seen[0]


def test_secrets_met_later_are_masked_from_then_on() -> None:
    stream = io.StringIO()
    redactor = configure(stream=stream)
    redactor.add(SECRET)
    redactor.add(SECRET)
    get_logger().info(SECRET, **{SECRET: SECRET})
    [line] = lines(stream)
    assert line["event"] == MASK
    assert line[MASK] == MASK


# --- redaction ----------------------------------------------------------------------------------------------------

ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "percent": lambda s: quote(s, safe=""),
    "percent, slashes kept": quote,
    "percent, lower case": lambda s: re.sub("%..", lambda m: m[0].lower(), quote(s, safe="")),
    "form": lambda s: urlencode({"k": s, "action": "add"}),
    "form value": quote_plus,
    "json": json.dumps,
    "json, unicode kept": lambda s: json.dumps(s, ensure_ascii=False),
    "json of php": lambda s: json.dumps(s).replace("/", "\\/"),
    "json in json": lambda s: json.dumps(json.dumps({"a": s})),
    "json in a form": lambda s: urlencode({"a": json.dumps({"a": s})}),
    "python": lambda s: repr([s]),
    "html": html.escape,
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64, url-safe": lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
    "base64, unpadded": lambda s: base64.b64encode(s.encode()).decode().rstrip("="),
    "basic": lambda s: base64.b64encode(f"user:{s}".encode()).decode(),
    "basic, both sides": lambda s: base64.b64encode(f"ab{s}:x".encode()).decode(),
}
LEAST = 8  # base64 shares its outer characters with the neighbours: what is left of 6 characters is too short


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS.keys())
@given(
    secret=st.text(st.characters(codec="ascii", exclude_categories=["Cc", "Zs"]), min_size=LEAST, max_size=60)
    | st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=LEAST, max_size=20),
    before=st.text(st.characters(codec="ascii"), max_size=5),
    after=st.text(st.characters(codec="ascii"), max_size=5),
)
@example(secret=SECRET, before="", after="")
@example(secret="päss“wörd”𝒙&<>", before="", after="")
@example(secret="'\"\\//\\\"'", before="", after="")
def test_no_secret_survives_in_any_encoding(encode: Callable[[str], str], secret: str, before: str, after: str) -> None:
    assume(secret not in MASK and MASK not in secret)
    encoded = encode(secret)
    redacted = Redactor([secret]).text(before + encoded + after)
    assert MASK in redacted
    whole = encoded.strip('"')
    assert whole not in redacted
    # What is left of a base64 text beside the mask is less than one character of the secret on each side.
    assert secret not in redacted


@pytest.mark.parametrize("secret", ["", "a", "12345", "     "], ids=["empty", "one", "five digits", "blank but short"])
def test_short_values_are_not_searched_for(secret: str) -> None:
    assert Redactor([secret]).text("a 12345 text     ") == "a 12345 text     "


def test_six_characters_are_enough() -> None:
    assert Redactor(["123456"]).text("x1234567") == "x[secret]7"


def test_a_secret_within_another_leaves_nothing_of_the_longer() -> None:
    redactor = Redactor(["secret-one", "secret-one-and-more"])
    assert redactor.text("a secret-one-and-more b secret-one c") == "a [secret] b [secret] c"


def test_text_without_secrets_is_unchanged() -> None:
    text = 'https://x.example/p?igsh=abc&key=1 {"order": 23501}'
    assert Redactor([SECRET]).text(text) is text
    assert Redactor().text(text) is text


def test_values_are_cleaned_deeply_and_stay_what_they_are() -> None:
    redactor = Redactor([SECRET, "12345678"])
    at = datetime(2027, 1, 1, tzinfo=UTC)
    assert redactor.value(
        {
            "plain": 1,
            "flag": True,
            "none": None,
            "ratio": 0.5,
            "nan": float("nan"),
            "list": [SECRET, (SECRET, 2), {"deep": quote(SECRET, safe="")}],
            "set": {SECRET},
            "digits": 12345678,
            "negative": -12345678,
            "huge": 10**5000,
            "bytes": f"k={SECRET}".encode(),
            "error": ValueError(SECRET),
            "amount": Decimal("1.50"),
            "at": at,
            "path": Path("/x"),
            "uuid": UUID(int=1),
            SECRET: "a name",
            5: "five",
        }
    ) == {
        "plain": 1,
        "flag": True,
        "none": None,
        "ratio": 0.5,
        "nan": "nan",
        "list": [MASK, [MASK, 2], {"deep": MASK}],
        "set": [MASK],
        "digits": MASK,
        "negative": f"-{MASK}",
        "huge": "(a very large number)",
        "bytes": f"k={MASK}",
        "error": f"ValueError: {MASK}",
        "amount": "1.50",
        "at": "2027-01-01T00:00:00+00:00",
        "path": "/x",
        "uuid": "00000000-0000-0000-0000-000000000001",
        MASK: "a name",
        "5": "five",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["key", "api_key", "secret", "password", "authorization", "token", "accounts", "code", "sms_content",
     "Authorization", "API-Key", "X-Api-Key", "callback_secret", "access_token"],
)  # fmt: skip
def test_what_stands_under_a_secrets_name_is_masked_whatever_it_is(name: str) -> None:
    for value in ("x", 5, ["user1:pass1"], {"a": 1}, b"x"):
        assert Redactor().value({name: value}) == {name: MASK}
        assert Redactor().value([{"deep": {name: value}}]) == [{"deep": {name: MASK}}]
    assert Redactor().value({name: None}) == {name: None}


@pytest.mark.parametrize("name", ["status_code", "idempotency_key", "codes_seen", "keyword", "exit_code"])
def test_other_names_are_left_alone(name: str) -> None:
    assert Redactor().value({name: "x"}) == {name: "x"}


def test_odd_objects_never_break_a_line() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    loop: list[object] = []
    loop.append(loop)
    stream = io.StringIO()
    configure(stream=stream)
    get_logger().info("odd", broken=Broken(), loop=loop, surrogate="\ud800", type=int)
    [line] = lines(stream)
    assert line["broken"] == "<Broken>"
    assert line["type"] == "<class 'int'>"


@given(st.text(), st.text(st.characters(exclude_categories=["Cs"]), min_size=6))
def test_a_log_line_is_valid_json_whatever_is_in_it(text: str, secret: str) -> None:
    stream = io.StringIO()
    configure(stream=stream, secrets=[secret])
    get_logger().info("said", text=text + secret + text, **{"name": secret})
    [line] = stream.getvalue().splitlines()
    assert json.loads(line)["name"] == MASK


# --- URLs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("https://x.example/api?key=1&b=2", "https://x.example/api"),
        ("https://x.example/api#part", "https://x.example/api"),
        ("https://x.example?k", "https://x.example"),
        ("https://u:p@x.example:8/a?b", "https://x.example:8/a"),
        ("https://u:p@q@x.example/a", "https://x.example/a"),
        ("/api/v2?key=1", "/api/v2"),
        ("//u:p@h/x?y", "//h/x"),
        ("https://x.example/@name?k", "https://x.example/@name"),
        ("http://[broken?key=1", "http://[broken"),
        ("", ""),
    ],
)
def test_strip_query_leaves_what_may_be_logged(url: str, bare: str) -> None:
    assert strip_query(url) == bare


def test_no_query_string_of_a_url_is_logged() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    get_logger().info(
        "asked https://a.example/x?k=leak1#leak2 now",
        url="HTTPS://u:leak3@b.example/y?leak4",
        many=['see <http://c.example/z?leak5>, "http://d.example?leak6"'],
        database="postgresql://user:leak7@h/n?password=leak8",
    )
    text = stream.getvalue()
    assert "leak" not in text
    for kept in ("asked https://a.example/x now", "HTTPS://b.example/y", "http://c.example/z", "postgresql://h/n"):
        assert kept in text
