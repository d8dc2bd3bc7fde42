"""What is wrong with the YAML itself: the place, the cause and the remedy, in words for the owner of the file.

Decides the wording alone. The parser's own text is never shown: it speaks of tokens, and it quotes the file, in which
secrets may stand.
"""

from __future__ import annotations

import re
from typing import Final

import yaml

from aggregator.config.problems import ConfigError, Problem

_QUOTES: Final = 'put the value in quotes: "…"'
_ALIGN: Final = "names of one level begin in the same column"

# (what the parser was reading, what it stumbled over, our words); the first that fits counts. `{opened}` is where the
# thing began that the parser was reading.
_WORDS: Final[tuple[tuple[str, str, str], ...]] = (
    ("", r"character '\\t'", "a tab stands here; indent with spaces alone"),
    ("", r"character '([@`%|>&*!])'", "a value may not begin with {0}; " + _QUOTES),
    ("", "cannot start any token", "a value may not begin with this character; " + _QUOTES),
    (
        "",
        "mapping values are not allowed",
        'a ": " stands where none fits. If it belongs to a value, ' + _QUOTES + "; if it follows a name, that name is "
        f"indented too far or the line above lacks its own colon and space: {_ALIGN}",
    ),
    (
        "simple key",
        "could not find expected ':'",
        "a name without its colon and value; write name: value, or bring the text into the line that it belongs to",
    ),
    ("", "sequence entries are not allowed", "a list entry (- …) must begin in a line of its own"),
    ("", "mapping keys are not allowed", f"a name does not fit here; {_ALIGN}"),
    ("quoted scalar", "end of stream|document separator", "the quote that opens here is never closed"),
    (
        "double-quoted",
        "escape|hexdecimal",
        "a backslash within \"…\" begins a code that YAML does not know; use single quotes '…', or double it: \\\\",
    ),
    ("scanning an (?:anchor|alias)", "", "a value may not begin with & or *; " + _QUOTES),
    ("", "undefined alias", "a value that begins with * refers to an anchor (&…), and there is none; " + _QUOTES),
    ("", "second occurrence", "this anchor (&…) was given before; give each its own name"),
    (
        "block scalar",
        "",
        "after | or > the text begins in the next line, indented; to begin a value with it, " + _QUOTES,
    ),
    ("tag", "", "a value may not begin with !; " + _QUOTES),
    ("", "tag handle", "a value may not begin with !; " + _QUOTES),
    ("directive", "", "a line may not begin with %; " + _QUOTES),
    ("flow sequence", r"expected ',' or '\]'", "the list that opens with [{opened} lacks a comma or its ] before this"),
    (
        "flow mapping",
        "expected ',' or '}'",
        "the mapping that opens with {{{opened} lacks a comma or its }} before this",
    ),
    ("flow", "found unexpected", "a value within [ ] or { } may not hold this; " + _QUOTES),
    ("", r"node content, but found '([,\]}])'", "a value is missing before {0}, or the {0} is one too many"),
    ("", "node content, but found '<stream end>'", "the file ends before a [ or {{ is closed"),
    ("", "node content", "a value is missing here"),
    (
        "block mapping",
        "but found '-'",
        "a list entry (- …) stands among the names of a mapping{opened}; a mapping has names, a list has entries",
    ),
    (
        "block mapping",
        "but found '<scalar>'",
        "text stands after the end of a value; " + 'put all of it into one pair of quotes: "…"',
    ),
    (
        "block mapping",
        r"but found '(?:,|\]|\})'",
        "a bracket or comma stands here that nothing opened; remove it, or " + _QUOTES,
    ),
    ("block mapping", "expected <block end>", "this line does not fit the mapping{opened}: " + _ALIGN),
    (
        "block collection",
        "expected <block end>",
        "this line does not fit the list{opened}: its entries (- …) begin in the same column, and what belongs to an "
        "entry is indented further",
    ),
    ("", "another document", "--- begins a second document; a config is one, remove the line"),
    ("", "<document start>", "this does not belong to what stands above; a config is one mapping (name: value)"),
    ("", r"tags \(!…\)", "tags (!…) are not understood here; to begin a value with !, " + _QUOTES),
    ("", "merging", "<<: takes a mapping or a list of them (<<: *name)"),
)

_BEGUN: Final = re.compile("end of stream|document separator|could not find expected ':'")
"""Where the mistake is where the thing began; the parser notices only much later that it does not end."""


def syntax_error(error: yaml.YAMLError, name: str, text: str) -> ConfigError:
    """The parser's error as ours; `name` is what the file is called, `text` what stands in it."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        begun = error.context_mark if _BEGUN.search(error.problem or "") else None
        place = _place(begun or error.problem_mark)
        return ConfigError([Problem("", f"{name}, {place}: not valid YAML: {_words(error)}")])
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        place = f"line {before.count(chr(10)) + 1}, column {error.position - before.rfind(chr(10))}"
        code = error.character if isinstance(error.character, int) else ord(str(error.character)[:1] or "\0")
        return ConfigError(
            [Problem("", f"{name}, {place}: the character U+{code:04X} is not allowed in YAML; remove it")]
        )
    return ConfigError([Problem("", f"{name}: not valid YAML; config.example.yaml shows how it is written")])


def _place(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _words(error: yaml.MarkedYAMLError) -> str:
    context, problem = error.context or "", error.problem or ""
    opened = f" in line {error.context_mark.line + 1}" if error.context_mark is not None else ""
    for reading, stumbled, words in _WORDS:
        found = re.search(stumbled, problem)
        if found is not None and re.search(reading, context):
            return words.format(*found.groups(), opened=opened)
    return "this cannot be understood; config.example.yaml shows how each setting is written"
