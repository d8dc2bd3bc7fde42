"""The API's own description: valid, whole, and the same as what the application does."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from aggregator.domain.clock import ManualClock
from aggregator.domain.errors import ProblemKind
from aggregator.domain.events import EVENT_TYPES
from aggregator.outbound import Outbound
from aggregator.storage import tables
from aggregator.storage.database import Database
from aggregator.web import openapi
from aggregator.web.operations import status_of
from aggregator.web.problems import TABLE, TYPE_PREFIX
from aggregator.web.reader import Reader
from aggregator.web.routes import ROUTES
from aggregator.web.schemas import attempts, orders, providers
from aggregator.web.schemas.problems import WHEN
from aggregator.web.server import create_app
from tests.support import rows
from tests.support.described import described, resolved, template_of, undescribed, undescribed_event, validator
from tests.support.house import make_house
from tests.web.support import ADMIN, CONFIG, READER, SHOP, Doors, an_order

STREAM = "/v1/events/stream"
"""Its answer does not end by itself; test_stream asks for it."""
OPERATIONS = [(path, method) for path, operations in described()["paths"].items() for method in operations]
QUERIES = [
    (path, parameter)
    for path, method in OPERATIONS
    for parameter in map(resolved, described()["paths"][path][method]["parameters"])
    if parameter["in"] == "query" and path != STREAM
]


def operation_of(path: str, method: str) -> dict[str, Any]:
    found: dict[str, Any] = described()["paths"][path][method]
    return found


def parts(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every object of the document, with its place."""
    if isinstance(node, dict):
        yield place, node
        for name, value in node.items():
            yield from parts(value, f"{place}/{name}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from parts(value, f"{place}/{index}")


def filled(path: str) -> str:
    """A path whose braces are filled with what the house of these tests knows."""
    named = path.replace("{order}", "1").replace("{provider}", "smmplus").replace("{service}", "1")
    return named.replace("{webhook}", "shop")


# --- the document by itself


def test_the_document_is_valid_openapi_3_1() -> None:
    assert [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(described())] == []


def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    for place, part in parts(described()):
        if isinstance(part.get("$ref"), str):
            assert resolved(part), place
    for name in described()["components"]["schemas"]:
        assert "__" not in name, "two shapes have one name"
        validator({"$ref": f"#/components/schemas/{name}"})


def test_every_field_and_parameter_is_described() -> None:
    bare = [
        f"{name}.{field}"
        for name, schema in described()["components"]["schemas"].items()
        for field, value in schema.get("properties", {}).items()
        if not value.get("description")
    ]
    assert bare == []
    for path, method in OPERATIONS:
        for parameter in map(resolved, operation_of(path, method)["parameters"]):
            assert parameter["description"], (path, parameter)


def test_every_example_is_what_its_schema_says() -> None:
    seen = 0
    for place, part in parts(described()):
        for shown in ("application/json", "application/problem+json"):
            content = part.get("content", {}).get(shown, {})
            examples = [*([content["example"]] if "example" in content else [])]
            examples += [one["value"] for one in content.get("examples", {}).values()]
            for example in examples:
                errors = [error.message for error in validator(content["schema"]).iter_errors(example)]
                assert errors == [], place
                seen += 1
    assert seen > len(OPERATIONS) + len(EVENT_TYPES)


def test_operation_ids_are_stable_names() -> None:
    ids = [operation_of(path, method)["operationId"] for path, method in OPERATIONS]
    ids += [hook["post"]["operationId"] for hook in described()["webhooks"].values()]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch("[a-z][A-Za-z]+", name) for name in ids)


def test_every_link_names_an_operation_and_its_path_parameters() -> None:
    known = {operation_of(path, method)["operationId"]: path for path, method in OPERATIONS}
    linked = [link for _, part in parts(described()) for link in part.get("links", {}).values()]
    assert {"getOrder", "listAttempts", "listOrderEvents", "cancelOrder"} <= {link["operationId"] for link in linked}
    for link in linked:
        assert set(link["parameters"]) == set(re.findall(r"{(\w+)}", known[link["operationId"]]))


def test_every_kind_of_problem_has_its_line_in_the_table() -> None:
    listed = {row["type"]: row["status"] for row in described()["x-problem-types"]}
    for kind in ProblemKind:
        assert listed[TYPE_PREFIX + kind] == TABLE[kind][0]
    assert set(listed) == set(described()["components"]["schemas"]["Problem"]["properties"]["type"]["enum"])
    assert len(listed) == len(WHEN)
    answered = {status_of(name) for route in ROUTES for name in route.possible_problems}
    assert answered <= set(listed.values())


def test_every_event_type_has_its_webhook() -> None:
    assert set(described()["webhooks"]) == set(EVENT_TYPES)
    for name, hook in described()["webhooks"].items():
        operation = hook["post"]
        headers = [resolved(parameter) for parameter in operation["parameters"]]
        assert [header["name"] for header in headers] == ["webhook-id", "webhook-timestamp", "webhook-signature"]
        assert operation["requestBody"]["content"]["application/json"]["example"]["type"] == name
        assert operation["summary"]


@pytest.mark.parametrize(
    ("shape", "field", "words"),
    [
        (attempts.Attempt, "state", tables.ATTEMPT_STATES),
        (orders.Refill, "state", tables.REFILL_STATES),
        (providers.LedgerEntry, "kind", tables.LEDGER_KINDS),
    ],
)
def test_the_words_of_a_shape_are_those_that_the_database_takes(
    shape: type[Any], field: str, words: tuple[str, ...]
) -> None:
    assert set(described()["components"]["schemas"][shape.__name__]["properties"][field]["enum"]) == set(words)


# --- the document against the application


async def test_routes_and_document_are_the_same(sqlite_doors: Doors) -> None:
    app = create_app(sqlite_doors.services)
    served: dict[str, set[str]] = {}
    for route in app.router.routes():
        resource = route.resource
        assert resource is not None
        served.setdefault(resource.canonical, set()).add(route.method)
    documented = {path: {method.upper() for method in methods} for path, methods in described()["paths"].items()}
    for alias in (alias for route in ROUTES for alias in route.aliases):
        served.pop(alias, None)
    # HEAD goes wherever GET does, and is said of all at once; by GET at the panel door, though, some may buy.
    assert {path for path, methods in served.items() if ("HEAD" in methods) is not ("GET" in methods)} == {"/api/v2"}
    assert {path: methods - {"HEAD"} for path, methods in served.items()} == documented


@pytest.mark.parametrize(("path", "method"), [one for one in OPERATIONS if one[0] != STREAM])
async def test_the_scopes_that_are_documented_are_those_that_are_asked_for(
    sqlite_doors: Doors, path: str, method: str
) -> None:
    wanted = {scope for one in operation_of(path, method)["security"] for scope in one.get("key", ())}
    closed = bool(wanted) and {} not in operation_of(path, method)["security"]
    for key, scope in ((SHOP, "orders"), (READER, "read"), (ADMIN, "admin"), (None, None)):
        reply = await sqlite_doors.call(method.upper(), filled(path), key=key, headers={"X-Real-IP": "192.0.2.1"})
        if path == "/metrics":
            assert (reply.status == 200) is (scope in wanted)
        elif closed:
            assert reply.status == 401 if scope is None else (reply.status == 403) is (scope not in wanted)
        else:
            assert reply.status == 200


@pytest.mark.parametrize(("path", "method"), [one for one in OPERATIONS if one[0].startswith("/v1/")])
async def test_no_operation_takes_a_parameter_that_is_not_documented(
    sqlite_doors: Doors, path: str, method: str
) -> None:
    reply = await sqlite_doors.call(method.upper(), f"{filled(path)}?surely_unknown=1", key=ADMIN)
    assert (reply.status, reply.field) == (422, "surely_unknown")


@pytest.mark.parametrize(("path", "parameter"), QUERIES, ids=[f"{path}?{one['name']}" for path, one in QUERIES])
async def test_every_documented_parameter_is_taken_as_documented(
    sqlite_doors: Doors, path: str, parameter: dict[str, Any]
) -> None:
    await sqlite_doors.order()
    schema, name = parameter["schema"], parameter["name"]
    good: list[str] = [str(parameter["example"])] if "example" in parameter else []
    good += [str(word) for word in schema.get("enum", ())]
    bad = ["x\x01"]
    if schema["type"] == "integer":
        good += [str(schema["minimum"]), str(schema["default"])]
        bad += [str(schema["minimum"] - 1), str(schema["maximum"] + 1), "1.5"]
    elif schema["type"] == "boolean":
        good, bad = ["true", "false"], [*bad, "1", "yes"]
    elif "enum" in schema or "format" in schema:
        bad.append("nothing-of-the-kind")
    elif "maxLength" in schema:
        good.append("x" * schema["maxLength"])
        bad.append("x" * (schema["maxLength"] + 1))
    for value in good:
        reply = await sqlite_doors.get(f"{filled(path)}?{name}={quote(value)}", key=ADMIN)
        assert reply.status in (200, 404), (name, value, reply.text)
    for value in bad:
        reply = await sqlite_doors.get(f"{filled(path)}?{name}={quote(value)}", key=ADMIN)
        assert (reply.status, reply.field) == (422, name), value


def test_an_answer_that_is_not_described_is_found() -> None:
    """The check that all web tests pass through does find what it looks for."""
    headers = {"Content-Type": "application/json", "X-Request-Id": "a"}
    assert undescribed("GET", "/livez", 200, headers, '{"status":"ok","version":"1"}') is None
    assert undescribed("GET", "/livez", 200, headers, '{"status":"ok","version":"1","more":1}') is not None
    assert undescribed("GET", "/livez", 200, headers, '{"status":"ok"}') is not None
    assert undescribed("GET", "/livez", 418, headers, "{}") is not None
    assert undescribed("GET", "/livez", 200, {**headers, "Content-Type": "text/plain"}, "ok") is not None
    assert undescribed("GET", "/livez", 200, {"Content-Type": "application/json"}, "{}") is not None
    assert undescribed("GET", "/v1/nothing", 200, headers, "{}") is not None
    assert template_of("/v1/orders/7/events?x=1") == "/v1/orders/{order}/events"
    body = '{"type":"provider.up","timestamp":"2026-11-21T18:00:00.000Z","data":{"provider":"x"}}'
    assert undescribed_event(body) is None
    assert undescribed_event(body.replace('"x"}', '"x","more":1}')) is not None
    assert undescribed_event(body.replace(',"data"', ',"id":"1","data"')) is not None
    assert undescribed_event(body.replace("provider.up", "provider.unknown")) is not None


def test_a_route_whose_path_has_an_unknown_part_cannot_be_described() -> None:
    with pytest.raises(KeyError, match="nobody"):
        openapi.document([replace(ROUTES[0], path="/v1/{nobody}")], "1")


# --- answers that the other tests do not bring about


@pytest_asyncio.fixture
async def spoken_to(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Doors]:
    """Doors of a house that has gateways, so that providers have capabilities; nobody calls anybody."""
    outbound = Outbound()
    doors = Doors(make_house(database, clock, tmp_path, CONFIG, outbound=outbound))
    async with TestClient(TestServer(create_app(doors.services))) as client:
        doors.client = client
        yield doors
    await outbound.close()


async def test_providers_with_all_that_is_known_of_them_are_as_described(spoken_to: Doors) -> None:
    order = await spoken_to.write(rows.accept, owner="shop")
    await spoken_to.write(rows.buy, order)
    reply = await spoken_to.get("/v1/providers", key=READER)
    shown = {entry["name"]: entry for entry in reply.json["providers"]}
    assert shown["smmplus"]["capabilities"]["kinds"] == ["smm"]
    assert shown["hstock"]["status_calls"]["limit"] >= 1


async def test_a_batch_of_good_and_bad_orders_is_as_described(doors: Doors) -> None:
    reply = await doors.post("/v1/orders:batch", {"orders": [an_order(), an_order(quantity=-1, link=3), "no order"]})
    assert [result["status"] for result in reply.json["results"]] == [201, 422, 422]


# --- the page


class _Looked(HTMLParser):
    """What a page asks a browser to fetch, where its links lead, and which ids it has."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster") or (name == "href" and tag == "link"):
                self.fetched.append(f"{tag} {name}={value}")
            elif name == "href" and value is not None:
                self.links.add(value)
            elif name == "id" and value is not None:
                assert value not in self.ids, f"the id {value} stands twice"
                self.ids.add(value)
            elif name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")


async def test_the_page_is_whole_by_itself_and_may_fetch_nothing(sqlite_doors: Doors) -> None:
    reply = await sqlite_doors.get("/docs", key=None)
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = reply.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    page = _Looked()
    page.feed(reply.text)
    assert (page.fetched, page.inline) == ([], [])
    assert "@import" not in reply.text
    assert "url(" not in reply.text
    inner = {link[1:] for link in page.links if link.startswith("#")}
    assert inner - page.ids == set()
    assert {link for link in page.links if "//" in link} == {"https://www.standardwebhooks.com"}
    for path, method in OPERATIONS:
        assert operation_of(path, method)["operationId"] in page.ids
    assert {f"schema-{name}" for name in described()["components"]["schemas"]} <= page.ids
    assert {f"event-{name}" for name in EVENT_TYPES} <= page.ids
    assert {f"error-{kind}" for kind in ProblemKind} <= page.ids


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
async def test_who_has_the_description_already_is_told_so(sqlite_doors: Doors, path: str) -> None:
    first = await sqlite_doors.get(path, key=None)
    assert first.headers["Cache-Control"] == "no-cache"
    again = await sqlite_doors.get(path, key=None, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.text) == (304, "")
    other = await sqlite_doors.get(path, key=None, headers={"If-None-Match": '"of-another-release"'})
    assert (other.status, other.text) == (200, first.text)


async def test_the_document_that_is_served_is_the_one_of_the_routes(sqlite_doors: Doors) -> None:
    reply = await sqlite_doors.get("/openapi.json", key=None)
    assert reply.json == described()
    assert reply.json["info"]["version"] == "1.2.3"
    # It says nothing of the business: no name that only the config knows.
    for word in ("ig-comments", "app-code-us", "hstock", "127.0.0.1:9"):
        assert word not in reply.text


async def test_a_description_that_could_not_be_made_is_tried_again(sqlite_doors: Doors) -> None:
    tries = iter([MemoryError("for once"), None])

    def make() -> dict[str, Any]:
        if (error := next(tries)) is not None:
            raise error
        return described()

    reader = Reader(make)
    with pytest.raises(MemoryError):
        await reader.document()
    assert (await reader.document()).body


def test_handlers_that_admit_by_themselves_are_the_open_ones() -> None:
    assert {route.path for route in ROUTES if not route.admits} == {
        "/livez",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/api/v2",
    }
