"""Whatever is sent, the answer is a proper one: never 500, and only what was answered 201 is stored."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.web.support import ADMIN, SHOP, Doors, an_order

FUZZ = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(alphabet=st.characters(exclude_categories=())),
    st.sampled_from(["ig-followers", "gmail-usa", "app-code-us", "smmplus", "0.5", "https://example.com/x", 1000, ""]),
)
JSON = st.recursive(SCALARS, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)), max_leaves=8)
NAMES = ["service", "quantity", "link", "params", "reference", "metadata", "max_cost", "provider", "callback_url", "x"]
BODIES = st.one_of(
    st.binary(max_size=300),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(NAMES), JSON).map(lambda more: json.dumps(an_order(**more)).encode()),
    st.dictionaries(st.sampled_from(["comments", "runs", "interval", "username", "min", "country", "x"]), JSON).map(
        lambda params: json.dumps(an_order(params=params)).encode()
    ),
)


def proper(status: int) -> bool:
    return status in (200, 201, 202, 400, 404, 409, 415, 422)


@FUZZ
@given(body=BODIES)
async def test_any_body_gets_a_proper_answer(doors: Doors, body: bytes) -> None:
    before = await doors.stored()
    for path in ("/v1/orders", "/v1/orders:batch", "/v1/quote", "/v1/orders/1/resolve"):
        reply = await doors.post(path, data=body, key=ADMIN)
        assert proper(reply.status), (path, reply)
        before += path == "/v1/orders" and reply.status == 201
    assert await doors.stored() == before


@FUZZ
@given(items=st.lists(st.dictionaries(st.sampled_from(NAMES), JSON), min_size=1, max_size=5))
async def test_any_batch_has_one_result_for_each_item(doors: Doors, items: list[dict[str, Any]]) -> None:
    body = json.dumps({"orders": [an_order(**item) for item in items]}).encode()
    reply = await doors.post("/v1/orders:batch", data=body)
    assert reply.status in (200, 400), reply.text
    if reply.status == 200:
        assert len(reply.json["results"]) == len(items)
        assert {result["status"] for result in reply.json["results"]} <= {201, 400, 422}


@FUZZ
@given(
    name=st.sampled_from(["state", "service", "provider", "reference", "since", "limit", "cursor", "after", "wait"]),
    value=st.text(alphabet=st.characters(exclude_categories=()), max_size=30),
)
async def test_any_query_gets_a_proper_answer(doors: Doors, name: str, value: str) -> None:
    text = quote(value, errors="surrogatepass")
    for path in ("/v1/orders", "/v1/services", "/v1/providers/smmplus/services", "/v1/events"):
        if (path, name) != ("/v1/events", "wait"):
            assert proper((await doors.get(f"{path}?{name}={text}", key=ADMIN)).status)


@FUZZ
@given(reference=st.text(alphabet=st.characters(exclude_categories=()), min_size=1, max_size=40))
async def test_any_path_gets_a_proper_answer(doors: Doors, reference: str) -> None:
    text = quote(reference, safe="", errors="surrogatepass")
    for path in ("/v1/orders/{}", "/v1/orders/{}/events", "/v1/providers/{}/ledger"):
        assert proper((await doors.get(path.format(text), key=ADMIN)).status)


@FUZZ
@given(
    key=st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=300)
)
async def test_any_idempotency_key_gets_a_proper_answer(sqlite_doors: Doors, key: str) -> None:
    reply = await sqlite_doors.post("/v1/orders", an_order(), key=SHOP, headers={"Idempotency-Key": key})
    assert proper(reply.status)
