"""config.example.yaml is the twin of the models: it loads, names every setting, and its comments tell the defaults."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aggregator.config as config
from aggregator.config import Settings, Sources, read_text
from aggregator.config.document import parse
from aggregator.config.values import Model
from tests.config.conftest import ENVIRON, WEBHOOK_SECRET

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
MODELS = {made for made in vars(config).values() if isinstance(made, type) and issubclass(made, Model)}
FIELDS = {name for model in MODELS for name in model.model_fields}


def commented_settings_switched_on(text: str) -> str:
    """The file with every `# name: value` made active."""
    return re.sub(
        r"^(\s*)# (\s*)([a-z_]+):(?= |$)",
        lambda match: f"{match[1]}{match[2]}{match[3]}:" if match[3] in FIELDS else match[0],
        text,
        flags=re.MULTILINE,
    )


def read(text: str, folder: Path) -> Settings:
    (folder / "hstock").write_text("hstock-key\n")
    environ = ENVIRON | {
        "SHOP_HOOK": WEBHOOK_SECRET,
        "OFFICE_KEY_OLD": "old-office-key-012345",
        "SMMPLUS_KEY": "smmplus-key",
        "CREDENTIALS_DIRECTORY": str(folder),
    }
    return read_text(text, Sources(environ, folder))


def test_the_example_loads(tmp_path: Path) -> None:
    settings = read(EXAMPLE.read_text(), tmp_path)
    assert set(settings.services) == {"ig-followers", "gmail-usa", "app-code-us"}


def test_commented_settings_show_the_defaults(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    switched_on = commented_settings_switched_on(text)
    assert switched_on.count("\n") == text.count("\n")
    assert switched_on != text
    assert read(switched_on, tmp_path) == read(text, tmp_path)


def _models_in(annotation: Any) -> Iterator[type[Model]]:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)
    if isinstance(annotation, types.GenericAlias):
        yield from _models_in(getattr(annotation.__origin__, "__value__", None))


def _mentioned(value: Any, model: type[Model]) -> Iterator[tuple[type[Model], str]]:
    """Every (model, field) that `value`, a part of the file, gives."""
    for name, inner in value.items():
        yield model, name
        for part in _models_in(model.model_fields[name].annotation):
            for item in _items(inner, part):
                yield from _mentioned(item, part)


def _items(value: Any, model: type[Model]) -> list[Any]:
    """The mappings within `value` that are meant for `model`: itself, or what a list or a table of them holds."""
    if isinstance(value, list):
        return [item for item in value if isinstance(item, dict)]
    if isinstance(value, dict):
        return [value] if set(value) <= set(model.model_fields) and value else list(value.values())
    return []


def _all_models(model: type[Model]) -> Iterator[type[Model]]:
    yield model
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            yield from _all_models(inner)


def test_every_setting_is_in_the_example() -> None:
    data = parse(commented_settings_switched_on(EXAMPLE.read_text()), "example").data
    mentioned = set(_mentioned(data, Settings))
    wanted = {(model, name) for model in set(_all_models(Settings)) for name in model.model_fields}
    missing = {f"{model.__name__}.{name}" for model, name in wanted - mentioned}
    # A webhook's and a callback's list of secrets is explained in words; a caller's key shows the shape.
    assert missing <= {"SigningSecret.value", "SigningSecret.until"}


@pytest.mark.parametrize("word", ["$AGGREGATOR_CONFIG", "/etc/aggregator/config.yaml", "credential:NAME", "chmod 600"])
def test_the_example_tells_the_rules_of_the_file(word: str) -> None:
    assert word in EXAMPLE.read_text()
