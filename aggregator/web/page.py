"""The reader's page: the document as one HTML file, for people.

It is made of the document alone and needs nothing from elsewhere: no script but the filter's few lines, no style but
its own, both allowed by their hashes and nothing else by the page's policy. It decides how things look.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

Json = dict[str, Any]

_REF: Final = re.compile(r"^#/components/\w+/")
_SCHEMAS: Final = "#/components/schemas/"
_SPAN: Final = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\((https://[^)\s]+)\)")
_STYLE: Final = "docs.css"
_SCRIPT: Final = "docs.js"


@dataclass(frozen=True, slots=True)
class Page:
    """The page, and the Content-Security-Policy that it is to be served with."""

    html: str
    policy: str


def page(document: Json) -> Page:
    """The page of a document."""
    environment = Environment(
        loader=PackageLoader("aggregator.web", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["prose"] = _prose
    environment.filters["json"] = _json
    loader = environment.loader
    assert loader is not None
    style, script = (loader.get_source(environment, name)[0] for name in (_STYLE, _SCRIPT))
    reading = _Reading(document)
    html = environment.get_template("docs.html").render(
        document=document,
        style=Markup(style),
        script=Markup(script),
        groups=list(reading.groups()),
        schemas=[reading.schema(name) for name in document["components"]["schemas"]],
        events=[reading.event(name, item["post"]) for name, item in document["webhooks"].items()],
    )
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    return Page(html, policy)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _prose(text: str) -> Markup:
    """The little Markdown that descriptions use: paragraphs, `code`, **strong** and links."""
    made = []
    for paragraph in text.strip().split("\n\n"):
        parts, last = [], 0
        for found in _SPAN.finditer(paragraph):
            parts.append(escape(paragraph[last : found.start()]))
            code, strong, words, address = found.groups()
            if code is not None:
                parts.append(Markup("<code>{}</code>").format(code))
            elif strong is not None:
                parts.append(Markup("<strong>{}</strong>").format(strong))
            else:
                parts.append(Markup('<a href="{}" rel="noreferrer">{}</a>').format(address, words))
            last = found.end()
        parts.append(escape(paragraph[last:]))
        made.append(Markup("<p>{}</p>").format(Markup("").join(parts)))
    return Markup("\n").join(made)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


class _Reading:
    """The document's parts as the template wants them: references followed, types in words."""

    def __init__(self, document: Json) -> None:
        self._document = document

    def groups(self) -> Iterator[Json]:
        """The operations by tag, in the document's order."""
        for tag in self._document["tags"]:
            found = [
                self._operation(method, path, operation)
                for path, operations in self._document["paths"].items()
                for method, operation in operations.items()
                if tag["name"] in operation["tags"]
            ]
            if found:
                yield {"name": tag["name"], "operations": found}

    def event(self, name: str, operation: Json) -> Json:
        content = operation["requestBody"]["content"]["application/json"]
        shape = content["schema"]["$ref"].removeprefix(_SCHEMAS)
        data = self._document["components"]["schemas"][shape]["properties"]["data"]["$ref"].removeprefix(_SCHEMAS)
        return {"name": name, "summary": operation["summary"], "data": data, "example": content["example"]}

    def schema(self, name: str) -> Json:
        schema = self._document["components"]["schemas"][name]
        return {
            "name": name,
            "description": schema.get("description", ""),
            "words": schema.get("enum", ()),
            "fields": list(self._fields(schema)),
            "parts": [self._type(part) for part in schema.get("allOf", ())],
        }

    def _operation(self, method: str, path: str, operation: Json) -> Json:
        parameters = [self._resolved(parameter) for parameter in operation["parameters"]]
        body = operation.get("requestBody")
        shown_body = None
        if body is not None:
            content = body["content"]["application/json"]
            shown_body = {
                "type": self._type(content["schema"]),
                "required": body["required"],
                "fields": list(self._fields(self._resolved(content["schema"]))),
                "example": content["example"],
            }
        return {
            "id": operation["operationId"],
            "method": method.upper(),
            "path": path,
            "summary": operation["summary"],
            "description": operation.get("description", ""),
            "parameters": [
                {**parameter, "type": self._type(parameter["schema"]), "limits": _limits(parameter["schema"])}
                for parameter in parameters
            ],
            "body": shown_body,
            "curl": _curl(method.upper(), path, operation, parameters),
            "answers": [self._answer(status, answer) for status, answer in operation["responses"].items()],
        }

    def _answer(self, status: str, answer: Json) -> Json:
        whole = self._resolved(answer)
        content = next(iter(whole.get("content", {}).items()), None)
        shown: Json = {"status": status, "description": whole["description"], "type": "", "example": None, "kinds": ()}
        if content is not None:
            media_type, body = content
            shown["type"] = self._type(body["schema"]) if media_type.endswith("json") else escape(media_type)
            shown["example"] = body.get("example")
            shown["kinds"] = list(body.get("examples", ()))
        return shown

    def _fields(self, schema: Json) -> Iterator[Json]:
        required = schema.get("required", ())
        for name, field in schema.get("properties", {}).items():
            yield {
                "name": name,
                "required": name in required,
                "type": self._type(field),
                "limits": _limits(field),
                "description": field.get("description", ""),
            }

    def _resolved(self, part: Json) -> Json:
        if "$ref" not in part:
            return part
        found: Any = self._document
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        return {**found, **{name: value for name, value in part.items() if name != "$ref"}}

    def _type(self, schema: Mapping[str, Any]) -> Markup:
        """A schema in a word or two; what has a name is a link to it."""
        if "$ref" in schema:
            name = _REF.sub("", schema["$ref"])
            return Markup('<a href="#schema-{}">{}</a>').format(name, name)
        for many in ("anyOf", "oneOf"):
            if many in schema:
                if len(schema[many]) > 6:
                    return Markup("one of {} kinds, by <code>type</code>").format(len(schema[many]))
                return Markup(" or ").join(self._type(one) for one in schema[many])
        if "allOf" in schema:
            return Markup(" with ").join(self._type(one) for one in schema["allOf"])
        if "const" in schema or "enum" in schema:
            words = schema.get("enum", [schema.get("const")])
            return Markup(" · ").join(Markup("<code>{}</code>").format(_word(word)) for word in words)
        kinds = schema.get("type", "any value")
        if not isinstance(kinds, list):
            kinds = [kinds]
        shown = []
        for kind in kinds:
            if kind == "array" and "items" in schema:
                shown.append(Markup("list of {}").format(self._type(schema["items"])))
            elif schema.get("format") == "date-time" and kind == "string":
                shown.append(Markup("time"))
            else:
                shown.append(escape({"string": "text", "integer": "whole number"}.get(kind, kind)))
        return Markup(" or ").join(shown)


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _limits(schema: Mapping[str, Any]) -> str:
    """Bounds and default of a value, in words."""
    said = []
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        said.append(f"{low} to {high}")
    elif low is not None:
        said.append(f"at least {low}")
    elif high is not None:
        said.append(f"at most {high}")
    if "maxLength" in schema:
        said.append(f"up to {schema['maxLength']} characters")
    if "default" in schema:
        said.append(f"default {_word(schema['default'])}")
    return ", ".join(said)


def _curl(method: str, path: str, operation: Json, parameters: list[Json]) -> str:
    """The operation's example as a curl line."""
    address = path
    query: list[str] = []
    for parameter in parameters:
        if parameter["in"] == "path":
            address = address.replace("{" + parameter["name"] + "}", str(parameter["example"]))
        elif parameter["in"] == "query" and "example" in parameter and not query:
            query.append(f"{parameter['name']}={parameter['example']}")
    url = "$URL" + address + ("?" + "&".join(query) if query else "")
    words = [f'curl "{url}"'] if method == "GET" else [f'curl -X {method} "{url}"']
    if operation["security"]:
        words.append('-H "Authorization: Bearer $KEY"')
    if any(parameter["name"] == "Idempotency-Key" for parameter in parameters):
        words.append("-H 'Idempotency-Key: shop-778-a'")
    body = operation.get("requestBody")
    if body is not None and body["required"]:
        words.append("-H 'Content-Type: application/json'")
        words.append("-d " + shlex.quote(_json(body["content"]["application/json"]["example"])))
    return " \\\n  ".join(words)
