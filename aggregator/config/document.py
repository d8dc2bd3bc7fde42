"""The YAML file as plain values, read strictly.

Decides which YAML is understood: the scalars of YAML 1.2's core schema (so `no` is text and a service id `0123` keeps
its zero), no tags, no repeated names. Never quotes the file in an error, because a secret may stand there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import yaml

from aggregator.config.problems import ConfigError, Problem, path_text
from aggregator.config.syntax import syntax_error

Path = tuple[str | int, ...]

_PREFIX: Final = "tag:yaml.org,2002:"
_MERGE: Final = _PREFIX + "merge"


class _Loader(yaml.SafeLoader):
    """A SafeLoader that knows the core schema only and reads every mapping key as text."""

    # PyYAML keeps its tables in class attributes; these are empty ones of our own.
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012
    yaml_constructors: ClassVar[dict[str | None, Any]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}


def _refuse_tag(loader: _Loader, node: yaml.Node) -> object:
    raise yaml.constructor.ConstructorError(None, None, "tags (!…) are not understood here", node.start_mark)


# A float needs a point, an integer no leading zero and a sane length: ids such as 65e012 or 0123 stay text.
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,29})", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):  # fmt: skip
    _Loader.add_implicit_resolver(_PREFIX + _tag, re.compile(f"^(?:{_pattern})$"), _first)
_Loader.yaml_constructors.update(
    {
        _PREFIX + "null": lambda loader, node: None,
        _PREFIX + "bool": lambda loader, node: node.value.lower() == "true",
        _PREFIX + "int": lambda loader, node: int(node.value),
        _PREFIX + "float": _Loader.construct_yaml_float,
        _PREFIX + "str": _Loader.construct_yaml_str,
        _PREFIX + "seq": lambda loader, node: loader.construct_sequence(node, deep=True),
        _PREFIX + "map": lambda loader, node: loader.construct_mapping(node),
        None: _refuse_tag,
    }
)


@dataclass(frozen=True, slots=True)
class Document:
    """The values of a file, what is wrong with its names, and where each value stands (0 is the first)."""

    data: dict[str, Any]
    problems: tuple[Problem, ...]
    order: dict[Path, int]

    def position(self, path: Path) -> int:
        """For sorting: the place of `path`, or of the nearest thing around it that is in the file."""
        while path and path not in self.order:
            path = path[:-1]
        return self.order.get(path, -1)


@dataclass(slots=True)
class _Survey:
    """A walk over the parsed nodes: repeated and odd names, loops, and the order of all paths."""

    problems: list[Problem] = field(default_factory=list)
    order: dict[Path, int] = field(default_factory=dict)
    walked: set[int] = field(default_factory=set)

    def visit(self, node: yaml.Node, path: Path, around: frozenset[int]) -> None:
        self.order.setdefault(path, len(self.order))
        if id(node) in around:
            raise ConfigError([Problem(path_text(path), "refers to itself")])
        if id(node) in self.walked:  # an alias: its names were looked at where its anchor stands
            return
        self.walked.add(id(node))
        around |= {id(node)}
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.visit(item, (*path, index), around)
        elif isinstance(node, yaml.MappingNode):
            self._visit_mapping(node, path, around)

    def _visit_mapping(self, node: yaml.MappingNode, path: Path, around: frozenset[int]) -> None:
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                message = f"line {line}: a name must be plain text; put a value such as {{{{…}}}} in quotes"
                raise ConfigError([Problem(path_text(path), message)])
            if key.value in lines:
                message = f"stands here twice, in lines {lines[key.value]} and {line}; keep one"
                self.problems.append(Problem(path_text((*path, key.value)), message))
            lines.setdefault(key.value, line)
            # What a merge brings in was walked where its anchor stands.
            if key.tag != _MERGE:
                self.visit(value, (*path, key.value), around)


def parse(text: str, name: str) -> Document:
    """Read YAML; `name` is what error texts call the file.

    Raises ConfigError for what is not YAML, not one mapping, or empty. Repeated names do not raise: they are in
    `problems`, so that they can be listed together with everything else.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None or (isinstance(node, yaml.ScalarNode) and node.value == ""):
            raise ConfigError([Problem("", f"{name} is empty; config.example.yaml shows every setting")])
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError([Problem("", f"{name} must be a mapping of settings (name: value)")])
        survey = _Survey()
        survey.visit(node, (), frozenset())
        data = loader.construct_document(node)
    except yaml.YAMLError as exc:
        failure = syntax_error(exc, name, text)
    except RecursionError:
        failure = ConfigError([Problem("", f"{name} is nested too deeply")])
    else:
        return Document(data, tuple(survey.problems), survey.order)
    finally:
        if loader is not None:
            loader.dispose()
    raise failure  # outside of the handler, so that PyYAML's text, which quotes the file, is not chained
