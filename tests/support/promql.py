"""Which metrics a PromQL expression asks for, and by which labels: as much of the language as the rules here use."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

_TOKEN: Final = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
    r"""|(?P<range>\[[^\]]*\])"""
    r"""|(?P<number>\d[\w.]*)"""
    r"""|(?P<name>[a-zA-Z_:][\w:]*)"""
    r"""|(?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^=<>(){},])"""
    r"""|(?P<space>\s+)"""
)
_GROUPING: Final = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_WORDS: Final = frozenset({"and", "or", "unless", "bool", "offset"})


@dataclass(slots=True)
class Asked:
    """A metric of an expression. `equal`: the labels that must have a value; `labels`: all that it is chosen by."""

    name: str
    equal: dict[str, str] = field(default_factory=dict)
    labels: set[str] = field(default_factory=set)


def asked(expression: str) -> list[Asked]:
    """Every metric that is named. Labels that it is grouped by count for all metrics of the expression.

    ValueError for what is no PromQL that this reads: a name that nobody checks would be worse.
    """
    tokens, at = [], 0
    while at < len(expression):
        found = _TOKEN.match(expression, at)
        if found is None:
            raise ValueError(f"cannot read {expression[at:]!r}")
        if found.lastgroup not in ("space", "range", "number"):
            tokens.append((found.lastgroup, found[0]))
        at = found.end()
    return _walk(tokens)


def _walk(tokens: list[tuple[str | None, str]]) -> list[Asked]:
    metrics: list[Asked] = []
    grouped: set[str] = set()
    place = 0
    while place < len(tokens):
        kind, token = tokens[place]
        following = tokens[place + 1][1] if place + 1 < len(tokens) else ""
        place += 1
        if kind == "name" and token in _GROUPING and following == "(":
            end = tokens.index(("sign", ")"), place)
            grouped |= {text for what, text in tokens[place:end] if what == "name"}
            place = end + 1
        elif kind == "name" and token not in _WORDS and token not in _GROUPING:
            # A function, or an aggregation such as `sum by (provider) (…)`, is no metric.
            if following != "(" and following not in _GROUPING:
                metrics.append(Asked(token))
        elif token == "{":
            end = tokens.index(("sign", "}"), place)
            _choose(metrics[-1], tokens[place:end])
            place = end + 1
    for metric in metrics:
        metric.labels |= grouped
    return metrics


def _choose(metric: Asked, tokens: list[tuple[str | None, str]]) -> None:
    for (_, label), (_, sign), (_, value) in zip(tokens[::4], tokens[1::4], tokens[2::4], strict=True):
        metric.labels.add(label)
        if sign == "=":
            metric.equal[label] = value[1:-1]
