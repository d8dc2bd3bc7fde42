"""How YAML is read: strictly, with places in errors, never quoting the file."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.config.document import parse
from aggregator.config.problems import ConfigError


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("0123", "0123"),
        ("65e012", "65e012"),
        ("1e6", "1e6"),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("0x1F", "0x1F"),
        ("2027-01-31", "2027-01-31"),
        ("-3", -3),
        ("+7", 7),
        ("0", 0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-1.5e3", -1500.0),
        (".inf", float("inf")),
        ("~", None),
        ("null", None),
        ("", None),
        ("'1'", "1"),
        ("9" * 40, "9" * 40),
    ],
)
def test_scalars_are_read_as_yaml_1_2_does(scalar: str, value: object) -> None:
    read = parse(f"a: {scalar}", "f").data["a"]
    assert read == value
    assert type(read) is type(value)


def test_names_stay_text_whatever_they_look_like() -> None:
    assert parse("{404: a, no: b, 1.0: c}", "f").data == {"404": "a", "no": "b", "1.0": "c"}


def test_repeated_names_are_problems_at_any_level() -> None:
    document = parse("a: 1\nb:\n  - c: {d: 1, e: 2, d: 3}\na: 2\n", "f")
    assert [str(problem) for problem in document.problems] == [
        "b[0].c.d: stands here twice, in lines 3 and 3; keep one",
        "a: stands here twice, in lines 1 and 4; keep one",
    ]


def test_merged_defaults_may_be_overridden() -> None:
    document = parse("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\n", "f")
    assert document.data["b"] == {"p": 1, "q": 3}
    assert document.problems == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f is empty"),
        ("# only a comment\n", "f is empty"),
        ("---\n", "f is empty"),
        ("- a\n", "f must be a mapping"),
        ("hello", "f must be a mapping"),
        ("a: !!python/object:os.system x\n", "tags (!…) are not understood"),
        ("a: !!binary eA==\n", "tags (!…) are not understood"),
        ("? [a]\n: 1\n", "a name must be plain text"),
        ("a: &x\n  b: *x\n", "a.b: refers to itself"),
        ("a: \x00\n", "not allowed in YAML"),
        ("a: " + "[" * 20_000, "f"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n\tb: 1\n", "f, line 2, column 1: not valid YAML: a tab stands here; indent with spaces alone"),
        ("a: 1\n b: 2\n", 'line 2, column 3: not valid YAML: a ": " stands where none fits'),
        ("a: b: c\n", 'line 1, column 5: not valid YAML: a ": " stands where none fits'),
        ("a: [1, 2\nb: 3\n", "line 2, column 2: not valid YAML: the list that opens with [ in line 1 lacks a comma"),
        ("a: {b: 1\nc: 2\n", "line 2, column 2: not valid YAML: the mapping that opens with { in line 1 lacks a comma"),
        ("a: [\n", "the file ends before a [ or { is closed"),
        ("a: [1,,2]\n", "column 7: not valid YAML: a value is missing before ,"),
        ("a: ]\n", "column 4: not valid YAML: a value is missing before ], or the ] is one too many"),
        ("a: 1\n]\n", "line 2, column 1: not valid YAML: a bracket or comma stands here that nothing opened"),
        ("b: 1\na: 'x\n\n", "line 2, column 4: not valid YAML: the quote that opens here is never closed"),
        ('a: "x\n---\n', "line 1, column 4: not valid YAML: the quote that opens here is never closed"),
        ('a: "C:\\path"\n', "column 8: not valid YAML: a backslash"),
        ("a: 'b' c\n", "column 8: not valid YAML: text stands after the end of a value"),
        ("a: @x\n", "column 4: not valid YAML: a value may not begin with @; put the value in quotes"),
        ("a: %x\n", "a value may not begin with %; put the value in quotes"),
        ("a: *\n", "a value may not begin with & or *; put the value in quotes"),
        ("a: *nope\n", "refers to an anchor (&…), and there is none"),
        ("a: &x 1\nb: &x 2\n", "line 2, column 4: not valid YAML: this anchor (&…) was given before"),
        ("a: !<x y\n", "a value may not begin with !; put the value in quotes"),
        ("a: |x\n  b\n", "after | or > the text begins in the next line"),
        ("a:\n  b: 1\n  foo\n", "line 3, column 3: not valid YAML: a name without its colon"),
        ("a:\n    b: 1\n  c: 2\n", "line 3, column 3: not valid YAML: this line does not fit the mapping in line 1"),
        ("a:\n  - b\n  c: 1\n", "line 3, column 3: not valid YAML: this line does not fit the list in line 2"),
        ("a:\n  c: 1\n  - b\n", "a list entry (- …) stands among the names of a mapping in line 2"),
        ("a: - b\n", "column 4: not valid YAML: a list entry (- …) must begin in a line of its own"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1: not valid YAML: --- begins a second document"),
        ("a: 1\n%x\n", "this does not belong to what stands above"),
        ("a: {<<: 1}\n", "<<: takes a mapping"),
        ("a: 1\nb: x\x00\n", "f, line 2, column 5: the character U+0000 is not allowed in YAML; remove it"),
        ("a: {{x}}\n", "put a value such as {{…}} in quotes"),
    ],
)
def test_a_syntax_error_says_where_what_and_what_to_do(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    assert message in str(caught.value)
    # The parser's own words, which speak of its tokens.
    assert not re.search("expected|found|token|scalar|<block|could not", str(caught.value))


@given(st.text(alphabet=list("ab: -,[]{}'\"\\\n\t#&*!|>%@`?<~1"), max_size=30))
def test_whatever_is_no_yaml_is_told_in_our_words(text: str) -> None:
    said = ""
    try:
        parse(text, "f")
    except ConfigError as exc:
        said = str(exc)
    assert not re.search("expected|found|token|scalar|<block|could not|cannot be understood", said)


@pytest.mark.parametrize(
    "line",
    ["*hunter2hunter2", "!hunter2hunter2 x", "'hunter2hunter2", '"hunter2hunter2', "[hunter2hunter2",
     "x: hunter2hunter2", "!h!hunter2hunter2 x", "&hunter2hunter2 *hunter2hunter2",
     "%hunter2hunter2", '"\\hunter2hunter2"'],
)  # fmt: skip
def test_a_syntax_error_never_quotes_the_file(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"a: {{api_key: {line}\nb: @\n", "f")
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__cause__ or error.__context__


def test_aliases_of_aliases_are_walked_once() -> None:
    levels = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))
    assert parse(f"a0: &a0 [x]\n{levels}\n", "f").problems == ()
