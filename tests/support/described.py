"""Answers and events held against the API's own description: what is not described there fails the test.

The web tests' requests all pass through here (tests/web/support.py), and so does every event that a test stored
(tests/conftest.py): whoever adds a field, a status or a problem to an answer adds it to its description, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema_rs

from aggregator.web.openapi import document
from aggregator.web.routes import ROUTES

Json = dict[str, Any]


@cache
def described() -> Json:
    """The document of all routes."""
    return document(ROUTES, "1.2.3")


@cache
def _paths() -> tuple[tuple[re.Pattern[str], str], ...]:
    found = []
    for path in described()["paths"]:
        pattern = re.sub(r"\\\{\w+\\\}", "[^/{}]+", re.escape(path))
        found.append((re.compile(pattern), path))
    return tuple(found)


def template_of(path: str) -> str | None:
    """The documented path that a request's path is one of."""
    plain = path.partition("?")[0]
    return next((path for pattern, path in _paths() if pattern.fullmatch(plain)), None)


def resolved(part: Json) -> Json:
    """What a part of the document refers to, or the part itself."""
    if "$ref" not in part:
        return part
    found: Any = described()
    for name in part["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return {**found, **{name: value for name, value in part.items() if name != "$ref"}}


def validator(schema: Json) -> jsonschema_rs.Draft202012Validator:
    """A validator of a schema that may refer to the document's components."""
    whole = {**schema, "components": described()["components"]}
    return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)


@cache
def _answer_validator(path: str, method: str, status: str, media_type: str) -> jsonschema_rs.Draft202012Validator:
    answer = resolved(described()["paths"][path][method]["responses"][status])
    return validator(answer["content"][media_type]["schema"])


def undescribed(method: str, path: str, status: int, headers: Mapping[str, str], text: str) -> str | None:
    """What of an answer its description does not have; None when it has everything."""
    template = template_of(path)
    known = described()["paths"].get(template, {}) if template is not None else {}
    head = method == "HEAD"
    operation = known.get("get" if head else method.lower())
    if operation is None:
        wanted = 405 if known else 404
        return None if status == wanted else f"{method} {path} is no operation, and was answered {status}"
    answer = operation["responses"].get(str(status))
    if answer is None:
        return f"{method} {template} has no answer {status}: {text[:300]}"
    answer = resolved(answer)
    for name, header in answer.get("headers", {}).items():
        if resolved(header).get("required") and name not in headers:
            return f"{method} {template} {status} came without the header {name}"
    content = answer.get("content", {})
    if head or not content:
        return None
    media_type = headers["Content-Type"].partition(";")[0]
    if media_type not in content:
        return f"{method} {template} {status} has no {media_type}"
    if not media_type.endswith("json"):
        return None
    return _first_error(_answer_validator(template or "", method.lower(), str(status), media_type), json.loads(text))


@cache
def _webhook_validator(event_type: str) -> jsonschema_rs.Draft202012Validator:
    return validator(
        described()["webhooks"][event_type]["post"]["requestBody"]["content"]["application/json"]["schema"]
    )


def undescribed_event(body: str) -> str | None:
    """What of an event's body the section `webhooks` does not have; None when it has everything."""
    event = json.loads(body)
    if event["type"] not in described()["webhooks"]:
        return f"no event {event['type']}"
    return _first_error(_webhook_validator(event["type"]), event)


def _first_error(against: jsonschema_rs.Draft202012Validator, value: Any) -> str | None:
    # A document's numbers are told as numbers; all else would be a mistake of its own.
    for error in against.iter_errors(value):
        where = "/".join(map(str, error.instance_path))
        return f"{where or 'the whole'}: {error.message[:600]}"
    return None
