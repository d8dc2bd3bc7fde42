"""Every dialect's fixtures, both ways: what is asked for must be exactly this, and this answer must read exactly so.

tests/fixtures/providers/<dialect>/<operation>.<case>.json holds {input, request, reply, result}, with `source` naming
where the sample comes from and `account` what differs from the account below.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Final

import pytest

from aggregator.domain.catalogue import service_type
from aggregator.domain.clock import rfc3339
from aggregator.domain.money import Money
from aggregator.domain.orders import OrderState
from aggregator.domain.wire import HttpReply, HttpRequest
from aggregator.providers.contract import (
    Account,
    AddRequest,
    AddSmsRequest,
    Capabilities,
    Consequence,
    Dialect,
    Failure,
    Unclear,
)
from aggregator.providers.dialects import DIALECTS

FIXTURES: Final = Path(__file__).parents[2] / "fixtures" / "providers"
URL: Final = "https://panel.example/api/v2"
API_KEY: Final = "c7b4d1f0a9e84e55"


@dataclass(frozen=True)
class Operation:
    """How a fixture's input becomes the arguments of build_* and read_*, and which capability documents it."""

    build: Callable[[Dialect, dict[str, Any]], HttpRequest]
    read: Callable[[Dialect, HttpReply, dict[str, Any]], object]
    documented: Callable[[Capabilities], bool] = lambda capabilities: True


def _add(given: dict[str, Any]) -> AddRequest:
    kind = given.get("kind", "smm")
    named = service_type(kind, given.get("type"))
    assert named is not None, f"unknown type {given.get('type')!r}"
    return AddRequest(
        service=given["service"],
        kind=kind,
        type=named,
        quantity=given.get("quantity", 1),
        link=given.get("link"),
        params=given.get("params", {}),
        idempotency_key=given.get("idempotency_key"),
    )


OPERATIONS: Final[Mapping[str, Operation]] = {
    "services": Operation(lambda d, i: d.build_services(**i), lambda d, r, i: d.read_services(r)),
    "add": Operation(
        lambda d, i: d.build_add(_add(i)),
        lambda d, r, i: d.read_add(r),
        lambda c: bool(c.kinds & {"smm", "product"}),
    ),
    "status": Operation(lambda d, i: d.build_status(i["order"]), lambda d, r, i: d.read_status(r, i["order"])),
    "statuses": Operation(
        lambda d, i: d.build_statuses(i["orders"]),
        lambda d, r, i: d.read_statuses(r, i["orders"]),
        lambda c: c.batched_status,
    ),
    "refills": Operation(
        lambda d, i: d.build_refills(i["orders"], i.get("idempotency_key")),
        lambda d, r, i: d.read_refills(r, i["orders"]),
        lambda c: c.refill,
    ),
    "refill_statuses": Operation(
        lambda d, i: d.build_refill_statuses(i["refills"]),
        lambda d, r, i: d.read_refill_statuses(r, i["refills"]),
        lambda c: c.refill,
    ),
    "cancels": Operation(
        lambda d, i: d.build_cancels(i["orders"], i.get("idempotency_key")),
        lambda d, r, i: d.read_cancels(r, i["orders"]),
        lambda c: c.cancel,
    ),
    "balance": Operation(lambda d, i: d.build_balance(), lambda d, r, i: d.read_balance(r)),
    "categories": Operation(
        lambda d, i: d.build_categories(), lambda d, r, i: d.read_categories(r), lambda c: c.categories
    ),
    "inventory": Operation(
        lambda d, i: d.build_inventory(i["service"]),
        lambda d, r, i: d.read_inventory(r, i["service"]),
        lambda c: c.inventory,
    ),
    "sms_projects": Operation(
        lambda d, i: d.build_sms_projects(i.get("country")), lambda d, r, i: d.read_sms_projects(r), lambda c: c.sms
    ),
    "sms_countries": Operation(
        lambda d, i: d.build_sms_countries(), lambda d, r, i: d.read_sms_countries(r), lambda c: c.sms
    ),
    "add_sms": Operation(
        lambda d, i: d.build_add_sms(AddSmsRequest(**i)), lambda d, r, i: d.read_add_sms(r), lambda c: c.sms
    ),
    "sms_code": Operation(
        lambda d, i: d.build_sms_code(i["order"]), lambda d, r, i: d.read_sms_code(r), lambda c: c.sms
    ),
    "sms_status": Operation(
        lambda d, i: d.build_sms_status(i["order"]), lambda d, r, i: d.read_sms_status(r), lambda c: c.sms
    ),
}


def account_of(fixture: Mapping[str, Any]) -> Account:
    """The account a fixture is asked through; its operator's words, where it has some."""
    given = dict(fixture.get("account", {}))
    return Account(
        name="panel",
        url=URL,
        api_key=API_KEY,
        error_words={text: Consequence(word) for text, word in given.pop("error_words", {}).items()},
        status_words={text: OrderState(word) for text, word in given.pop("status_words", {}).items()},
        **given,
    )


def reply_of(given: Mapping[str, Any]) -> HttpReply:
    """`body` is JSON to be written, `text` the body as it is, `base64` bytes that are no text."""
    if "base64" in given:
        body = base64.b64decode(given["base64"])
    elif "text" in given:
        body = given["text"].encode()
    else:
        body = json.dumps(given["body"], ensure_ascii=False).encode()
    return HttpReply(
        given.get("status", 200), body, given.get("content_type", "application/json"), given.get("retry_after_s")
    )


def plainly(value: object) -> object:
    """A result as JSON: a dataclass is its type and the fields that differ from their defaults."""
    if isinstance(value, Money):
        return f"{value.amount} {value.currency}"
    if is_dataclass(value) and not isinstance(value, type):
        stated = {
            one.name: plainly(getattr(value, one.name))
            for one in fields(value)
            if one.name != "raw"
            and (one.default is MISSING or getattr(value, one.name) != one.default)
            and (one.default_factory is MISSING or getattr(value, one.name) != one.default_factory())
        }
        return {"type": type(value).__name__, **{f"{k}_" if k == "type" else k: v for k, v in stated.items()}}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plainly(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plainly(inner) for inner in value]
    return value


def request_plainly(request: HttpRequest) -> dict[str, Any]:
    assert len(dict(request.form)) == len(request.form), "a field is sent twice"
    return {"url": request.url, "form": [list(pair) for pair in request.form], "headers": dict(request.headers)}


PATHS: Final = sorted(FIXTURES.glob("*/*.json"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_fixture(path: Path) -> None:
    fixture = json.loads(path.read_text(encoding="utf-8"))
    operation = OPERATIONS[path.name.split(".")[0]]
    dialect = DIALECTS[path.parent.name](account_of(fixture))
    assert request_plainly(operation.build(dialect, fixture["input"])) == fixture["request"]
    assert plainly(operation.read(dialect, reply_of(fixture["reply"]), fixture["input"])) == fixture["result"]


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_every_documented_operation_has_a_success_and_a_malformed_fixture(name: str) -> None:
    dialect = DIALECTS[name](account_of({}))
    cases: dict[str, list[str]] = {operation: [] for operation in OPERATIONS}
    for path in PATHS:
        if path.parent.name == name:
            operation, case = path.stem.split(".", 1)
            cases[operation].append(case)
    missing = [
        f"{operation}.{wanted}"
        for operation, how in OPERATIONS.items()
        for wanted in ("success", "malformed")
        if how.documented(dialect.capabilities) and not any(case.startswith(wanted) for case in cases[operation])
    ]
    undocumented = [op for op, how in OPERATIONS.items() if cases[op] and not how.documented(dialect.capabilities)]
    assert not missing, "no such fixtures"
    assert not undocumented, "fixtures for what the dialect does not declare"


def test_every_folder_is_a_dialect() -> None:
    assert {path.name for path in FIXTURES.iterdir() if path.is_dir()} == set(DIALECTS)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_success_and_malformed_are_named_for_what_they_are(path: Path) -> None:
    """A malformed answer never reads as a success, nor as a refusal; a success is never a failure."""
    fixture = json.loads(path.read_text(encoding="utf-8"))
    case = path.stem.split(".", 1)[1]
    lost = {Failure.__name__, Unclear.__name__}
    result = fixture["result"]
    results = result.values() if isinstance(result, dict) and "type" not in result else [result]
    types = {one["type"] for one in results if isinstance(one, dict)}
    if case.startswith("success"):
        assert not types & lost
    if case.startswith("malformed"):
        assert types <= lost
