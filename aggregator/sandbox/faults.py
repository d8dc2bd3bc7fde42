"""Fault rules. Decides which call meets which fault; how a fault looks on the wire is `wire`'s affair.

The first rule that applies wins; every rule that matches a call counts it, so `nth` and `after` mean calls of the
account and action, whatever other rules did. Probabilities are seeded: the same rules, put in force in the same order,
let the same calls meet the same faults.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from .fields import FieldError, Fields

Stage = Literal["intact", "before", "after"]
"""intact: answered after all; before: nothing is accepted; after: accepted and charged, then the answer is lost."""
Wire = Literal["delay", "hold", "reset", "close", "reply", "truncated", "short_body", "redirect", "huge"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault's meaning: whether the call is accepted, and what the caller then sees."""

    stage: Stage
    wire: Wire
    status: int = 200
    body: str = ""
    content_type: str = "application/json"


GENERIC_ERROR = "There was an error processing your request. Please try again later"
_HTML_500 = "<!DOCTYPE html><html><head><title>521</title></head><body><h1>Web server is down</h1></body></html>"
_HTML_200 = "<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Checking your browser</body></html>"
_SLOW_DOWN = '{"error": "Rate limit reached, please slow down"}'
_CUT = '{"order": 23501, "currency": "USD"}'


def _pair(
    name: str, wire: Wire, status: int = 200, body: str = "", content_type: str = "application/json"
) -> dict[str, Fault]:
    return {
        f"{name}_before": Fault("before", wire, status, body, content_type),
        f"{name}_after": Fault("after", wire, status, body, content_type),
    }


FAULTS: Mapping[str, Fault] = {
    "delay": Fault("intact", "delay"),
    "accept_late": Fault("intact", "delay"),
    **_pair("timeout", "hold"),
    **_pair("reset", "reset"),
    **_pair("close", "close"),
    **_pair("http_500", "reply", 500, _HTML_500, "text/html"),
    "http_429": Fault("before", "reply", 429, _SLOW_DOWN),
    "html": Fault("before", "reply", 200, _HTML_200, "text/html"),
    "html_after": Fault("after", "reply", 200, _HTML_200, "text/html"),
    **_pair("truncated", "truncated", 200, _CUT),
    **_pair("short_body", "short_body", 200, _CUT),
    **_pair("wrong_json", "reply", 200, "null"),
    "error_text": Fault("before", "reply", 200, GENERIC_ERROR),
    "error_text_after": Fault("after", "reply", 200, GENERIC_ERROR),
    "redirect": Fault("before", "redirect", 302),
    "redirect_after": Fault("after", "redirect", 302),
    "huge": Fault("before", "huge"),
    "huge_after": Fault("after", "huge"),
}


@dataclass(frozen=True, slots=True)
class FaultRule:
    """When a fault happens. None matches every account or action; `delay_s` is real seconds, never sped up.

    `nth`: only that matching call (from 1). `after`: skip so many matching calls. `count`: happen at most so often.
    """

    fault: str
    account: str | None = None
    action: str | None = None
    probability: float = 1.0
    nth: int | None = None
    count: int | None = None
    after: int = 0
    delay_s: float | None = None
    status: int | None = None
    body: str | None = None
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> Fault:
        """The meaning of this rule's fault."""
        return FAULTS[self.fault]


class FaultBook:
    """The rules in force, with how often each has matched and happened."""

    def __init__(self, seed: int, rules: Iterable[FaultRule] = ()) -> None:
        self._seed = seed
        self._sets = 0
        self.replace(rules)

    def replace(self, rules: Iterable[FaultRule]) -> None:
        """Put other rules in force; all counting starts anew, and their dice are others: else the first call after each
        change would meet the same luck for ever."""
        self._sets += 1
        self._rules = list(rules)
        self._matched = [0] * len(self._rules)
        self._happened = [0] * len(self._rules)
        self._dice = [random.Random(f"{self._seed}:fault:{self._sets}:{index}") for index in range(len(self._rules))]

    def pick(self, account: str, action: str) -> FaultRule | None:
        """The fault that this call meets, if any."""
        picked: FaultRule | None = None
        for index, rule in enumerate(self._rules):
            if rule.account not in (None, account) or rule.action not in (None, action):
                continue
            self._matched[index] += 1
            lucky = self._dice[index].random() >= rule.probability
            if picked is None and not lucky and self._ripe(index, rule):
                self._happened[index] += 1
                picked = rule
        return picked

    def shown(self) -> list[dict[str, object]]:
        """The rules as JSON objects, each with `matched` and `happened`."""
        counts = zip(self._rules, self._matched, self._happened, strict=True)
        return [asdict(rule) | {"matched": matched, "happened": happened} for rule, matched, happened in counts]

    def _ripe(self, index: int, rule: FaultRule) -> bool:
        if self._matched[index] <= rule.after or rule.nth not in (None, self._matched[index]):
            return False
        return rule.count is None or self._happened[index] < rule.count


def read_rules(body: object, accounts: Collection[str], actions: Collection[str]) -> list[FaultRule]:
    """Rules from a list, or from an object whose `faults` is one; a FieldError names the first field at fault."""
    if isinstance(body, Mapping):
        fields = Fields(body)
        body = fields.take("faults")
        fields.done()
    if body is None:
        return []
    if not isinstance(body, list):
        raise FieldError(f"faults: must be a list of rules, got {type(body).__name__}")
    return [_read_rule(Fields(item, f"faults[{index}]"), accounts, actions) for index, item in enumerate(body)]


def load_rules(path: Path, accounts: Collection[str], actions: Collection[str]) -> list[FaultRule]:
    """Rules from a YAML or JSON file."""
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise FieldError(f"{path}: cannot be read as YAML: {exc}") from exc
    return read_rules(body, accounts, actions)


def _read_rule(fields: Fields, accounts: Collection[str], actions: Collection[str]) -> FaultRule:
    fault = fields.text("fault", FAULTS)
    if fault is None:
        raise fields.error("fault", "is required", None)
    probability = fields.number("probability", 0, 1)
    rule = FaultRule(
        fault=fault,
        account=fields.text("account", accounts),
        action=fields.text("action", actions),
        probability=1.0 if probability is None else probability,
        nth=fields.integer("nth", 1),
        count=fields.integer("count", 1),
        after=fields.integer("after") or 0,
        delay_s=fields.number("delay_s", 0, 3_600),
        status=fields.integer("status", 200, 599),
        body=fields.text("body"),
        content_type=fields.text("content_type"),
        headers=fields.texts("headers"),
    )
    if any(ord(letter) < 32 for text in [*rule.headers, *rule.headers.values()] for letter in text):
        raise fields.error("headers", "must not hold control characters", dict(rule.headers))
    fields.done()
    return rule
