"""Where secrets come from, when they are refused, and that none shows itself."""

from __future__ import annotations

import copy
import pickle
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.config import ConfigError, Secret, Sources, load
from aggregator.config.secret import SecretError
from tests.config.conftest import ENVIRON, WEBHOOK_SECRET, LoadWith, ProblemsWith

AT = ("providers", "panel", "api_key")


def test_a_secret_prints_as_a_mask() -> None:
    secret = Secret("hunter2")
    assert [str(secret), repr(secret), f"{secret}", f"{[secret]}"] == ["[secret]"] * 3 + ["[[secret]]"]
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2")
    assert secret != Secret("hunter3")
    assert secret != "hunter2"
    assert len({secret, Secret("hunter2")}) == 1
    assert copy.deepcopy(secret) == secret
    assert pickle.loads(pickle.dumps(secret)) == secret


@pytest.mark.parametrize(
    ("source", "content", "value"),
    [
        ("env:TOKEN", None, "from-env"),
        ("file:key.txt", b"from-file\n", "from-file"),
        ("file:key.txt", b"from-file\r\n", "from-file"),
        ("file:key.txt", b"from-file", "from-file"),
        ("credential:key.txt", b"from-credential\n", "from-credential"),
        ("a literal: with a colon", None, "a literal: with a colon"),
        ("environment:x", None, "environment:x"),
    ],
)
def test_sources_give_their_value(tmp_path: Path, source: str, content: bytes | None, value: str) -> None:
    if content is not None:
        (tmp_path / "key.txt").write_bytes(content)
    environ = {"TOKEN": "from-env", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert Sources(environ, tmp_path).resolve(source).reveal() == value


def test_an_absolute_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("v\n")
    assert Sources({}, Path("/nowhere")).resolve(f"file:{tmp_path}/key").reveal() == "v"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("env:MISSING", "environment variable MISSING is not set; export it"),
        ("env:EMPTY", "environment variable EMPTY is empty"),
        ("env:BLANK", "environment variable BLANK is empty"),
        ("env:", "must be followed by the name of an environment variable"),
        ("env:with space", "must be followed by the name of an environment variable"),
        ("ENV:TOKEN", "write env: in lower case"),
        (" env:TOKEN", "write env: in lower case"),
        ("env:PADDED", "spaces at its ends"),
        ("env:TWO_LINES", "line break"),
        ("file:", "must be followed by a path"),
        ("file:missing.txt", "missing.txt does not exist; create it"),
        ("file:empty.txt", "empty.txt is empty"),
        ("file:.", "is a directory"),
        ("file:binary.txt", "is not UTF-8 text"),
        ("file:huge.txt", "is larger than"),
        ("file:two.txt", "line break"),
        ("file:a\0b", "cannot be read"),
        ("credential:", "must be followed by the name"),
        ("credential:../x", "must be followed by the name"),
        ("credential:..", "must be followed by the name"),
        ("credential:nothing", "does not exist; add LoadCredential=nothing:"),
        ("", "is empty"),
        ("  ", "is empty"),
    ],
)
def test_a_missing_or_broken_source_says_what_to_do(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "huge.txt").write_bytes(b"x" * 70_000)
    (tmp_path / "two.txt").write_text("a\nb\n")
    environ = {
        "TOKEN": "t", "EMPTY": "", "BLANK": " ", "PADDED": "x ", "TWO_LINES": "a\nb",
        "CREDENTIALS_DIRECTORY": str(tmp_path),
    }  # fmt: skip
    with pytest.raises(SecretError) as caught:
        Sources(environ, tmp_path).resolve(source)
    assert message in str(caught.value)


def test_a_credential_without_systemd_says_how_to_get_one(problems_with: ProblemsWith) -> None:
    [problem] = problems_with(AT, "credential:panel")
    assert problem.startswith("providers.panel.api_key: there is no $CREDENTIALS_DIRECTORY")
    assert "LoadCredential=panel:" in problem


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_literal_is_taken_from_a_private_file(load_with: LoadWith, mode: int) -> None:
    settings = load_with(AT, "literal-secret", mode=mode)
    assert settings.providers["panel"].api_key.reveal() == "literal-secret"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_literal_in_a_file_that_others_may_touch_is_refused_with_the_command(
    problems_with: ProblemsWith, tmp_path: Path, mode: int
) -> None:
    [problem] = problems_with(AT, "literal-secret", mode=mode)
    assert problem.startswith("providers.panel.api_key: ")
    assert f"chmod 600 {tmp_path}/config.yaml" in problem
    assert "literal-secret" not in problem


def test_the_command_mends_the_refusal_even_with_odd_names(tmp_path: Path) -> None:
    path = tmp_path / "my config's.yaml"
    path.write_text("providers: {p: {dialect: panel_v2, url: 'http://x/', api_key: literal-secret}}")
    path.chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    command = str(caught.value).partition("run: ")[2].partition(", or give")[0]
    subprocess.run(command, shell=True, check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load(path, {}).providers["p"].api_key.reveal() == "literal-secret"


@pytest.mark.parametrize("mode", [0o600, 0o644])
@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("keys", 0, "key"), "hunter2"),
        (("keys", 0, "key"), [{"value": "hunter2"}]),
        (("keys", 0, "key"), {"hunter2": 1}),
        (("keys", 0, "key"), [{"value": ["hunter2hunter2"]}]),
        (("keys", 0, "callback_secret"), "whsec_hunter2"),
        (("keys",), "hunter2hunter2"),
        (("keys",), ["hunter2hunter2"]),
        (("webhooks", 0, "secret"), "hunter2"),
        (("webhooks", 0, "secret"), {"value": "hunter2"}),
        (("providers", "panel", "api_key"), ["hunter2"]),
        (("providers", "panel"), "hunter2"),
        (("providers", "panel", "url"), "https://u:hunter2@x.example/"),
        (("providers", "panel", "url"), "ftp://x.example/?key=hunter2"),
        (("providers", "panel", "aip_key"), "hunter2"),
        (("sealing_key",), ["hunter2"]),
        (("database",), "postgres://u:hunter2@h/n"),
        (("database",), "mysql://u:hunter2@h/n"),
        (("database",), "postgresql://u:hunter2@h:99999/n"),
        (("database",), {"hunter2": 1}),
        (("webhooks", 0, "url"), "http://u:hunter2@h/"),
    ],
)
def test_no_problem_shows_a_secret(load_with: LoadWith, place: tuple[str | int, ...], value: object, mode: int) -> None:
    with pytest.raises(ConfigError) as caught:
        load_with(place, value, mode=mode)
    error: BaseException | None = caught.value
    while error is not None:
        text = str(error).replace("hunter2: unknown setting", "")  # a name is not a value
        assert "hunter2" not in text
        error = error.__cause__ or error.__context__


@given(st.text("0123456789+/=", min_size=8))
def test_a_bad_secret_never_reaches_the_error(value: str) -> None:
    sources = Sources({"X": value}, public_file=Path("/c.yaml"))
    assert sources.resolve("env:X").reveal() == value
    with pytest.raises(SecretError) as caught:
        sources.resolve(value)
    assert value not in str(caught.value)


def test_settings_tell_every_secret_for_redaction(load_with: LoadWith) -> None:
    settings = load_with(("database",), "postgresql://user:p%40ssword@host/name")
    secrets = set(settings.secrets())
    assert secrets >= {
        ENVIRON["SHOP_KEY"], ENVIRON["PROVIDER_KEY"], WEBHOOK_SECRET, WEBHOOK_SECRET.removeprefix("whsec_"),
        "p%40ssword", "p@ssword",
    }  # fmt: skip
    for text in (str(settings), repr(settings), settings.model_dump_json(), repr(settings.providers["panel"])):
        assert not [secret for secret in secrets if secret in text]
