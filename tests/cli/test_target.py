"""Finding the daemon and its key: what the command line, the environment and the config say, and what wins."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from aggregator.cli.failures import BadConfig
from aggregator.cli.target import Asked, find

KEY = "key-of-the-command-line-1"
CONFIG = """\
http: {listen: ["127.0.0.1:8123"]}
keys:
  - {name: shop, key: "env:SHOP_KEY", scopes: [orders]}
  - {name: boss, key: "env:BOSS_KEY", scopes: [read, admin]}
providers: {panel: {dialect: panel_v2, url: "https://example.com", api_key: "env:NOT_HERE"}}
"""
BOSS = {"BOSS_KEY": "key-of-the-boss-0000001"}


def write(folder: Path, text: str = CONFIG, mode: int = 0o644) -> Path:
    path = folder / "config.yaml"
    path.touch()
    path.chmod(mode)
    path.write_text(text)
    return path


def test_the_config_names_the_address_and_the_first_admin(tmp_path: Path) -> None:
    path = write(tmp_path)
    # The provider's secret is out of reach here, and not needed.
    found = find(Asked(), BOSS, tmp_path)
    assert (found.base, found.name, found.socket) == ("http://127.0.0.1:8123", "http://127.0.0.1:8123", None)
    assert (found.key, found.key_from) == (BOSS["BOSS_KEY"], f"keys[1] (boss) in {path}")
    assert found.how_to_start == f"aggregator run --config {path}"
    assert found.command("orders", "show", "7") == "aggregator orders show 7"
    assert BOSS["BOSS_KEY"] not in repr(found)


def test_without_an_admin_the_first_key_is_taken(tmp_path: Path) -> None:
    write(tmp_path, CONFIG.replace("[read, admin]", "[read]"))
    assert find(Asked(), {"SHOP_KEY": "key-of-the-shop-0000001"}, tmp_path).key == "key-of-the-shop-0000001"


def test_of_a_rotated_key_the_value_that_counts_is_taken(tmp_path: Path) -> None:
    old = "{value: key-of-yesterday-001, until: 2020-01-01}"
    text = f"keys: [{{name: a, key: [{old}, {{value: key-of-today-0000001}}], scopes: [admin]}}]"
    write(tmp_path, text, 0o600)
    assert find(Asked(), {}, tmp_path).key == "key-of-today-0000001"
    write(tmp_path, f"keys: [{{name: a, key: [{old}]}}]", 0o600)
    with pytest.raises(BadConfig, match=r"keys\[0\] has no value that still counts"):
        find(Asked(), {}, tmp_path)


@pytest.mark.parametrize(
    ("listen", "base", "name", "socket"),
    [
        ("'127.0.0.1:1', 'unix:/run/a.sock', 'unix:/b'", "http://localhost", "unix:/run/a.sock", "/run/a.sock"),
        ("'0.0.0.0:80', '127.0.0.1:1'", "http://127.0.0.1:80", "http://127.0.0.1:80", None),
        ("'[::]:80'", "http://[::1]:80", "http://[::1]:80", None),
        ("'[::1]:80'", "http://[::1]:80", "http://[::1]:80", None),
        ("'example.com:80'", "http://example.com:80", "http://example.com:80", None),
    ],
)
def test_the_address_is_one_that_can_be_reached(
    listen: str, base: str, name: str, socket: str | None, tmp_path: Path
) -> None:
    write(tmp_path, CONFIG.replace('"127.0.0.1:8123"', listen))
    found = find(Asked(), BOSS, tmp_path)
    assert (found.base, found.name, found.socket and str(found.socket)) == (base, name, socket)


def test_without_keys_a_socket_needs_none(tmp_path: Path) -> None:
    write(tmp_path, "http: {listen: ['127.0.0.1:1', 'unix:/run/a.sock']}")
    found = find(Asked(), {}, tmp_path)
    assert (found.name, found.key) == ("unix:/run/a.sock", None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{http: {listen: ['127.0.0.1:80']}}", "without keys the daemon opens no TCP port; add `keys`"),
        ("{currency: USD}", "without keys the daemon opens no TCP port"),
        (CONFIG.replace("8123", "0"), "takes any free port"),
        (CONFIG.replace("8123", "99999"), "http.listen"),
        (CONFIG.replace("env:BOSS_KEY", "env:NIX"), "keys[1].key: the environment variable NIX is not set"),
        (CONFIG.replace('"env:BOSS_KEY"', "a-literal-secret-of-all"), "keys[1].key: a secret may stand in the file"),
        ("keys: 5", "keys[0]"),
        ("keys: [5]", "keys[0]"),
        ("- a", "must be a mapping"),
        ("a: [", "not valid YAML"),
        ("", "is empty"),
    ],
)
def test_a_config_that_does_not_say_is_named_with_a_way_out(text: str, words: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(BadConfig) as refused:
        find(Asked(), BOSS, tmp_path)
    said = str(refused.value)
    assert words in said
    assert str(path) in said
    assert "name the daemon with --url" in said
    assert "a-literal-secret" not in said


def test_a_config_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"none\.yaml does not exist"):
        find(Asked(config=Path("none.yaml")), {}, tmp_path)
    with pytest.raises(BadConfig, match="cannot be read: Is a directory"):
        find(Asked(config=tmp_path), {}, tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(BadConfig, match="it is not UTF-8 text"):
        find(Asked(), {"AGGREGATOR_CONFIG": "binary"}, tmp_path)


def test_the_command_line_wins_over_environment_and_config(tmp_path: Path) -> None:
    path = write(tmp_path)
    environ = {**BOSS, "AGGREGATOR_URL": "http://one.example:1/", "AGGREGATOR_KEY": "key-of-the-environment"}
    found = find(Asked(), environ, tmp_path)
    assert (found.base, found.key, found.key_from) == (
        "http://one.example:1",
        "key-of-the-environment",
        "$AGGREGATOR_KEY",
    )
    found = find(Asked(url="https://two.example/agg", key=KEY), environ, tmp_path)
    assert (found.base, found.key, found.key_from) == ("https://two.example/agg", KEY, "--key")
    assert found.command("orders", "list") == "aggregator orders list --url https://two.example/agg"
    assert KEY not in repr(found)
    named = find(Asked(config=path), {**BOSS, "AGGREGATOR_URL": "http://one.example:1"}, tmp_path)
    assert (named.base, named.key) == ("http://127.0.0.1:8123", BOSS["BOSS_KEY"])
    assert named.command("orders", "list") == f"aggregator orders list --config {path}"


def test_the_key_of_a_config_goes_nowhere_else(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert find(Asked(url="http://one.example:1"), BOSS, tmp_path).key is None
    # Unless both were named.
    both = find(Asked(url="unix:/run/a.sock", config=path), BOSS, tmp_path)
    assert (both.name, both.key) == ("unix:/run/a.sock", BOSS["BOSS_KEY"])


def test_a_key_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a key"
    file.write_text(f"{KEY}\n")
    found = find(Asked(url="http://a.example", key_file=file), {"AGGREGATOR_KEY": "another"}, tmp_path)
    assert (found.key, found.key_from) == (KEY, f"--key-file {file}")
    assert found.command("x") == f"aggregator x --url http://a.example --key-file '{file}'"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Asked(url="ftp://a"), "--url: must begin with http:// or https://, or be a socket: unix:/path"),
        (Asked(url="127.0.0.1:80"), "--url: must begin with http://"),
        (Asked(url="http://me:pass@a"), "--url: must not hold a user name or password"),
        (Asked(url="http://a?b=c"), "--url: must not hold a query"),
        (Asked(url="http://a:99999"), "--url: must be a URL with a valid host and port"),
        (Asked(url="unix:a.sock"), "--url: a unix socket needs a path from the root"),
        (Asked(url="http://a", key="with space"), "--key: must hold one key"),
        (Asked(url="http://a", key=""), "--key: must hold one key"),
        (Asked(url="http://a", key=KEY, key_file=Path("a")), "give one of them"),
        (Asked(url="http://a", key_file=Path("/none")), "--key-file: /none cannot be read: No such file"),
    ],
)
def test_what_cannot_be_used_is_asked_wrongly(asked: Asked, words: str, tmp_path: Path) -> None:
    with pytest.raises(click.UsageError) as refused:
        find(asked, {}, tmp_path)
    assert words in str(refused.value)
    assert "with space" not in str(refused.value)


def test_the_environment_is_named_when_it_is_at_fault(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match=r"\$AGGREGATOR_URL: must begin"):
        find(Asked(), {"AGGREGATOR_URL": "nix"}, tmp_path)
    with pytest.raises(click.UsageError, match=r"\$AGGREGATOR_KEY: must hold one key"):
        find(Asked(url="http://a"), {"AGGREGATOR_KEY": "a\nb"}, tmp_path)
