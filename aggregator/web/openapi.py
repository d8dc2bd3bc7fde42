"""The API's own description: an OpenAPI 3.1 document made of the route table and the shapes.

It decides nothing about the API: what a route takes and answers is declared with it (web.operations), what an answer
holds by its shape (web.schemas). Pure; it is made once and served as bytes by web.reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from aggregator.domain.errors import ProblemKind
from aggregator.web.openapi_parts import (
    ABOUT,
    ANSWER_HEADERS,
    PATH_PARAMETERS,
    REQUEST_HEADERS,
    WEBHOOKS,
    Json,
)
from aggregator.web.operations import ProblemName, Route, Text, status_of
from aggregator.web.problems import REQUEST_PREFIX, STORED, TABLE, TYPE_PREFIX, phrase_type, retries
from aggregator.web.rendering import JSON, PROBLEM_JSON
from aggregator.web.schemas.common import NAMED, Shape
from aggregator.web.schemas.events import EVENTS, Place, Told, event_name, event_shapes
from aggregator.web.schemas.problems import WHEN, Problem

_SCHEMAS: Final = "#/components/schemas/"
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data", JSON)


def document(routes: Iterable[Route], version: str) -> Json:
    """The whole description of these routes and of every event, as JSON that is still a dictionary."""
    routes = tuple(routes)
    schemas = _schemas(routes)
    made = _Maker(schemas)
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = made.operation(route)
    tags = list(dict.fromkeys(route.tag for route in routes))
    return {
        "openapi": "3.1.0",
        "info": {"title": "aggregator", "version": version, "description": ABOUT, "license": {"name": "MIT"}},
        "servers": [{"url": "/", "description": "This daemon."}],
        "tags": [*({"name": tag} for tag in tags), {"name": "Webhooks", "description": WEBHOOKS}],
        "paths": paths,
        "webhooks": {name: {"post": made.webhook(name, told)} for name, told in EVENTS.items()},
        "components": {
            "schemas": schemas,
            "responses": dict(sorted(made.responses.items())),
            "headers": dict(ANSWER_HEADERS),
            "parameters": dict(REQUEST_HEADERS),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key of `keys` in the config. The roles that a call lists are scopes. Where no "
                    "key is configured, whoever may connect to the unix socket is the admin.",
                }
            },
        },
        "x-problem-types": [_row(name) for name in WHEN],
    }


class _Generator(GenerateJsonSchema):
    """Pydantic's JSON Schema without what says nothing: titles made of names, and defaults of what is left out."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        shown = super().default_schema(schema)
        if shown.get("default", ...) is None:
            del shown["default"]
        return shown


def _schemas(routes: Sequence[Route]) -> Json:
    models: list[type[BaseModel]] = [Problem, Place, *event_shapes().values()]
    for route in routes:
        models += [
            model
            for model in (route.body, route.form, route.answer)
            if model is not None and not isinstance(model, Text)
        ]
    wanted = [(model, "validation") for model in dict.fromkeys(models)]
    _, found = models_json_schema(wanted, schema_generator=_Generator, ref_template=_SCHEMAS + "{model}")  # type: ignore[arg-type]
    schemas: Json = {name: _plain(schema) for name, schema in found["$defs"].items()}
    for schema in schemas.values():
        schema.pop("title", None)
        if "enum" in schema:
            # An enumeration's docstring speaks to readers of the code.
            schema.pop("description", None)
    return dict(sorted(schemas.items()))


def _plain(schema: Any) -> Any:
    """`anyOf` of one simple type and null as one list of types: readers and generators take it better."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if NAMED in schema:
        return {"$ref": _SCHEMAS + schema[NAMED]}
    plain = {name: _plain(value) for name, value in schema.items()}
    some = plain.get("anyOf")
    if isinstance(some, list) and len(some) == 2 and some[1] == {"type": "null"}:
        first = some[0]
        if isinstance(first.get("type"), str) and not first.keys() & {"enum", "const"}:
            del plain["anyOf"]
            plain = {**first, **plain, "type": [first["type"], "null"]}
    return plain


def _row(name: ProblemName) -> Json:
    """A line of the table of errors."""
    status = status_of(name)
    if isinstance(name, ProblemKind):
        return {"type": TYPE_PREFIX + name, "status": status, "title": TABLE[name][1], "when": WHEN[name]}
    return {"type": phrase_type(name), "status": status, "title": name.phrase, "when": WHEN[name]}


def _ref(place: str, name: str) -> Json:
    return {"$ref": f"#/components/{place}/{name}"}


class _Maker:
    """Makes operations, and collects the answers that many of them share."""

    def __init__(self, schemas: Mapping[str, Any]) -> None:
        self._schemas = schemas
        self.responses: Json = {}

    def operation(self, route: Route) -> Json:
        made: Json = {"operationId": route.id, "tags": [route.tag], "summary": route.summary}
        if said := "\n\n".join(text for text in (route.description, _needs(route)) if text):
            made["description"] = said
        made["security"] = _security(route)
        made["parameters"] = _parameters(route)
        if route.body is not None:
            shape = {"schema": {"$ref": _SCHEMAS + route.body.__name__}}
            content = {JSON: {**shape, "example": self._example(shape["schema"])}}
            made["requestBody"] = {"required": route.body_required, "content": content}
        if route.form is not None:
            shape = {"schema": {"$ref": _SCHEMAS + route.form.__name__}}
            shown = {**shape, "example": self._example(shape["schema"])}
            made["requestBody"] = {"required": True, "content": {media: shown for media in _FORMS}}
        made["responses"] = self._answers(route)
        return made

    def webhook(self, event_type: str, told: Told) -> Json:
        schema: Json = {"$ref": _SCHEMAS + event_name(event_type), "unevaluatedProperties": False}
        names = ("WebhookId", "WebhookTimestamp", "WebhookSignature")
        return {
            "operationId": "on" + event_name(event_type).removesuffix("Event"),
            "tags": ["Webhooks"],
            "summary": told.sentence,
            "security": [],
            "parameters": [_ref("parameters", name) for name in names],
            "requestBody": {
                "required": True,
                "content": {JSON: {"schema": schema, "example": self._example(schema)}},
            },
            "responses": {
                "2XX": {"description": "Taken; it is not sent again."},
                "410": {"description": "Send nothing more: the endpoint is disabled."},
                "5XX": {"description": "Like every other answer, and like none: it is tried again."},
            },
        }

    def _answers(self, route: Route) -> Json:
        headers = ["X-Request-Id", *route.answer_headers]
        if route.idempotent:
            headers.append("Idempotent-Replayed")
        if route.unchanged:
            headers.append("ETag")
        answer: Json = {"description": "", "headers": {name: _ref("headers", name) for name in headers}}
        if isinstance(route.answer, Text):
            answer["description"] = route.answer.description
            answer["content"] = {media: {"schema": {"type": "string"}} for media in route.answer.media_types}
        else:
            schema = {"$ref": _SCHEMAS + route.answer.__name__}
            answer["description"] = (route.answer.__doc__ or "").strip()
            answer["content"] = {JSON: {"schema": schema}}
            if issubclass(route.answer, Shape):
                answer["content"][JSON]["example"] = self._example(schema)
        if route.links:
            answer["links"] = {
                link.operation: {
                    "operationId": link.operation,
                    "parameters": dict(link.parameters),
                    "description": link.description,
                }
                for link in route.links
            }
        made: Json = {str(route.status): answer}
        if route.unchanged:
            made["304"] = {"description": "Not changed since the version that `If-None-Match` names."}
        by_status: dict[int, list[ProblemName]] = {}
        for name in route.possible_problems:
            by_status.setdefault(status_of(name), []).append(name)
        for status, names in by_status.items():
            made[str(status)] = self._refusal(names)
            if ProblemKind.CONFLICT in names:
                made[str(status)]["description"] = route.conflict
        return made

    def _refusal(self, names: Sequence[ProblemName]) -> Json:
        """The answer for any of some problems of one status; made once and referred to."""
        rows = [_row(name) for name in names]
        key = "Or".join("".join(map(str.capitalize, row["type"].rpartition(":")[2].split("-"))) for row in rows)
        if key not in self.responses:
            headers = {"X-Request-Id": _ref("headers", "X-Request-Id")}
            if any(isinstance(name, ProblemKind) and retries(name) for name in names):
                headers["Retry-After"] = _ref("headers", "Retry-After")
            if status_of(names[0]) in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                headers["WWW-Authenticate"] = _ref("headers", "WWW-Authenticate")
            if STORED.intersection(names):
                headers["Idempotent-Replayed"] = _ref("headers", "Idempotent-Replayed")
            narrowed = {
                "$ref": _SCHEMAS + Problem.__name__,
                "properties": {
                    "type": {"enum": [row["type"] for row in rows]},
                    "status": {"const": rows[0]["status"]},
                },
            }
            examples = {row["type"].rpartition(":")[2]: {"value": _problem(row)} for row in rows}
            self.responses[key] = {
                "description": " ".join(row["when"] for row in rows),
                "headers": headers,
                "content": {PROBLEM_JSON: {"schema": narrowed, "examples": examples}},
            }
        return _ref("responses", key)

    def _example(self, schema: Mapping[str, Any]) -> Any:
        """A value of a schema, put together from the examples of its parts."""
        for given in (schema.get("examples") or ())[:1]:
            return given
        if "const" in schema:
            return schema["const"]
        if "$ref" in schema:
            return self._example(self._schemas[schema["$ref"].removeprefix(_SCHEMAS)])
        if "allOf" in schema:
            return {name: value for part in schema["allOf"] for name, value in self._example(part).items()}
        for many in ("anyOf", "oneOf"):
            if many in schema:
                return self._example(schema[many][0])
        if "enum" in schema:
            return schema["enum"][0]
        return self._of_type(schema)

    def _of_type(self, schema: Mapping[str, Any]) -> Any:
        kinds = schema.get("type", "object")
        if isinstance(kinds, list):
            # What may be null and shows nothing else is null in the example.
            return None if "null" in kinds else self._of_type({**schema, "type": kinds[0]})
        if kinds == "object":
            required = schema.get("required", ())
            shown = schema.get("properties", {})
            return {name: self._example(part) for name, part in shown.items() if name in required or "examples" in part}
        if kinds == "array":
            return [self._example(schema["items"])]
        return {"string": "text", "integer": 1, "number": 1, "boolean": True, "null": None}[kinds]


def _problem(row: Mapping[str, Any]) -> Json:
    shown: Json = {
        "type": row["type"],
        "title": row["title"],
        "status": row["status"],
        "detail": row["when"],
        "instance": REQUEST_PREFIX + "4f1c2b7a90de3358-1",
    }
    if row["type"] == TYPE_PREFIX + ProblemKind.INVALID_FIELD:
        shown |= {"detail": "quantity: must be at least 1", "field": "quantity"}
    return shown


def _needs(route: Route) -> str:
    if route.scopes is None:
        return ""
    scopes = " or ".join(f"`{scope}`" for scope in sorted(route.scopes, reverse=True))
    return f"Needs a key with {scopes}."


def _security(route: Route) -> list[Json]:
    if route.scopes is None:
        return []
    keys: list[Json] = [{"key": [scope]} for scope in sorted(route.scopes, reverse=True)]
    return keys if route.admits else [{}, *keys]


def _parameters(route: Route) -> list[Json]:
    parts = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    made: list[Json] = []
    for name in parts:
        description, schema, example = PATH_PARAMETERS[name]
        made.append(
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": description,
                "schema": schema,
                "example": example,
            }
        )
    for parameter in route.query.known:
        one: Json = {"name": parameter.name, "in": "query", "description": parameter.description}
        one["schema"] = dict(parameter.schema)
        if parameter.example is not None:
            one["example"] = parameter.example
        made.append(one)
    if route.idempotent:
        made.append(_ref("parameters", "IdempotencyKey"))
    if route.unchanged:
        made.append(_ref("parameters", "IfNoneMatch"))
    made.append(_ref("parameters", "RequestId"))
    return made
