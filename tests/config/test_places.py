"""Addresses, the database, the sealing key and URLs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aggregator.config import ConfigError, SealingKey, Secret, TcpAddress, UnixAddress
from aggregator.config.places import parse_address, parse_database_url
from aggregator.config.secret import SecretError, Sources
from tests.config.conftest import LoadWith, ProblemsWith


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:8080", TcpAddress("127.0.0.1", 8080), True),
        ("127.9.9.9:1", TcpAddress("127.9.9.9", 1), True),
        ("0.0.0.0:0", TcpAddress("0.0.0.0", 0), False),
        ("[::1]:65535", TcpAddress("::1", 65535), True),
        ("[::]:80", TcpAddress("::", 80), False),
        ("localhost:80", TcpAddress("localhost", 80), True),
        ("api.example.org:80", TcpAddress("api.example.org", 80), False),
        ("unix:/run/aggregator.sock", UnixAddress(Path("/run/aggregator.sock")), None),
    ],
)
def test_addresses_are_read_and_written_alike(text: str, address: TcpAddress | UnixAddress, loopback: bool) -> None:
    assert parse_address(text) == address
    assert str(address) == text
    assert parse_address(address) is address
    if isinstance(address, TcpAddress):
        assert address.is_loopback is loopback


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8080", "must end in a colon and a port"),
        ("localhost", "must end in a colon and a port"),
        ("127.0.0.1:65536", "must end in a colon and a port"),
        ("127.0.0.1:http", "must end in a colon and a port"),
        ("127.0.0.1:-1", "must end in a colon and a port"),
        (":8080", "needs a host"),
        ("*:8080", "needs a host"),
        ("a b:80", "needs a host"),
        ("http://x:80", "IPv6"),
        ("::1:8080", "an IPv6 address needs brackets: [::1]:8080"),
        ("[::1:8080", "needs brackets"),
        ("[127.0.0.1]:80", "IPv6"),
        ("unix:relative", "needs a path from the root"),
        ("unix:", "needs a path from the root"),
        ("unix:/" + "x" * 107, "may have 107 bytes, this one has 108"),
        (8080, "must be text such as"),
        (None, "must be text such as"),
    ],
)
def test_bad_addresses_are_refused(problems_with: ProblemsWith, text: object, message: str) -> None:
    [problem] = problems_with(("http", "listen"), [text])
    assert problem.startswith("http.listen[0]: ")
    assert message in problem


def test_the_same_address_twice_is_refused(problems_with: ProblemsWith) -> None:
    assert problems_with(("http", "listen"), ["127.0.0.1:1", "127.0.0.1:1"]) == ["http.listen: names 127.0.0.1:1 twice"]


def test_without_keys_only_unix_sockets_are_opened(load_text: LoadWith) -> None:
    listen = 'http: {listen: ["127.0.0.1:8080", "unix:/run/a.sock"]}'
    settings = load_text(listen)
    assert settings.local_admin
    assert settings.listen == (UnixAddress(Path("/run/a.sock")),)
    settings = load_text(f'{listen}\nkeys: [{{name: a, key: "env:SHOP_KEY"}}]')
    assert not settings.local_admin
    assert settings.listen == settings.http.listen


@pytest.mark.parametrize("address", ["0.0.0.0:8080", "[::]:8080", "192.168.0.1:80", "example.org:80"])
def test_an_open_door_without_keys_is_refused(problems_in: ProblemsWith, address: str) -> None:
    [problem] = problems_in(f'http: {{listen: ["127.0.0.1:1", "{address}"]}}')
    assert problem.startswith(f"http.listen[1]: {address} can be reached from outside, which needs keys")


@pytest.mark.parametrize(
    ("text", "state", "path"),
    [
        ("sqlite:///a.db", "", "/cwd/a.db"),
        ("sqlite:///sub/a.db", "", "/cwd/sub/a.db"),
        ("sqlite:////abs/a.db", "/state", "/abs/a.db"),
        ("sqlite:///a.db", "/state", "/state/a.db"),
        ("sqlite:///a.db", "/state:/other", "/state/a.db"),
    ],
)
def test_a_sqlite_path_is_made_absolute(text: str, state: str, path: str) -> None:
    url = parse_database_url(text, Sources({"STATE_DIRECTORY": state}, cwd=Path("/cwd")))
    assert (url.kind, url.path, url.reveal(), str(url)) == (
        "sqlite",
        Path(path),
        f"sqlite:///{path}",
        f"sqlite:///{path}",
    )


@pytest.mark.parametrize(
    ("text", "shown", "passwords"),
    [
        ("postgresql://user@host/name", "postgresql://user@host/name", ()),
        ("postgresql:///name", "postgresql:///name", ()),
        ("postgresql:///name?host=/run/postgresql", "postgresql:///name", ()),
        ("postgresql://u:pw@h:5432/n", "postgresql://u:***@h:5432/n", ("pw",)),
        ("postgresql://u:p%40w@h/n", "postgresql://u:***@h/n", ("p%40w", "p@w")),
        ("postgresql://u:p@w@h/n", "postgresql://u:***@h/n", ("p@w",)),
        ("postgresql://u@h/n?password=pw&x=1", "postgresql://u@h/n", ("pw",)),
    ],
)
def test_a_postgresql_url_hides_its_password(text: str, shown: str, passwords: tuple[str, ...]) -> None:
    url = parse_database_url(text, Sources())
    assert (url.kind, url.path, url.reveal()) == ("postgresql", None, text)
    assert str(url) == repr(url) == shown
    assert url.passwords == passwords


@pytest.mark.parametrize(
    "text",
    ["", "aggregator.db", "sqlite://", "sqlite:///", "sqlite:///dir/", "sqlite:///:memory:", "sqlite:///a?mode=ro",
     "sqlite:///file:a.db", "mysql://h/n", "postgres://h/n", "postgresql+asyncpg://h/n", "postgresql://h",
     "postgresql://h:0/n", "postgresql://h:x/n", "postgresql://h/n#f", "postgresql://h/n m"],
)  # fmt: skip
def test_other_databases_are_refused(text: str) -> None:
    with pytest.raises(SecretError):
        parse_database_url(text, Sources())


def test_a_database_password_is_a_secret_like_any_other(load_text: LoadWith, problems_in: ProblemsWith) -> None:
    text = "database: postgresql://u:hunter2@h/n"
    assert load_text(text).database.reveal() == "postgresql://u:hunter2@h/n"
    [problem] = problems_in(text, mode=0o644)
    assert problem.startswith("database: a secret may stand in the file only if")
    assert "hunter2" not in problem
    assert load_text("database: postgresql://u@h/n", mode=0o644).database.kind == "postgresql"
    from_env = load_text("database: env:DB", environ={"DB": "postgresql://u:hunter2@h/n"}, mode=0o644)
    assert from_env.database.passwords == ("hunter2",)
    assert "hunter2" in set(from_env.secrets())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("database: sqlite:////data/a.db", SealingKey(file=Path("/data/sealing.key"))),
        ("currency: USD", SealingKey(file=Path("/state/sealing.key"))),
        ("database: postgresql://h/n", SealingKey(file=Path("/state/sealing.key"))),
        ("sealing_key: file:/k/sealing.key", SealingKey(file=Path("/k/sealing.key"))),
        ("sealing_key: env:SEAL", SealingKey(value=Secret("sealed"))),
        ("sealing_key: literal", SealingKey(value=Secret("literal"))),
    ],
)
def test_the_sealing_key_is_beside_the_database_unless_said_otherwise(
    load_text: LoadWith, text: str, expected: SealingKey
) -> None:
    assert load_text(text, environ={"STATE_DIRECTORY": "/state", "SEAL": "sealed"}).sealing_key == expected


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("between", ["\n", "\r\n", "\n\n"])
def test_a_sealing_key_may_be_several_lines_from_every_source(
    load_text: LoadWith, tmp_path: Path, between: str, end: str
) -> None:
    """The new one and the old one, while keys are changed."""
    keys = f"new{between}old{end}"
    (tmp_path / "seal").write_bytes(keys.encode())
    environ = {"SEAL": keys, "CREDENTIALS_DIRECTORY": str(tmp_path)}
    for text in ("sealing_key: env:SEAL", "sealing_key: credential:seal", f"sealing_key: {json.dumps(keys)}"):
        settings = load_text(text, environ=environ)
        assert settings.sealing_key == SealingKey(value=Secret("new\nold"))
        assert {"new", "old"} <= set(settings.secrets())


@pytest.mark.parametrize("keys", ["new\told", "new \nold", "new\n old", "new\x00", "new\rold"])
def test_a_sealing_key_of_odd_lines_is_refused(load_text: LoadWith, keys: str) -> None:
    with pytest.raises(ConfigError, match="control character or spaces at the ends of a line"):
        load_text("sealing_key: env:SEAL", environ={"SEAL": keys})


def test_no_other_secret_may_have_several_lines() -> None:
    with pytest.raises(SecretError, match="line break"):
        Sources({"X": "one\ntwo"}).resolve("env:X")


def test_a_relative_sealing_key_lies_beside_the_file(load_text: LoadWith, tmp_path: Path) -> None:
    """It need not exist: the first start makes it."""
    assert load_text("sealing_key: file:sealing.key").sealing_key == SealingKey(file=tmp_path / "sealing.key")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("x.example", "must begin with http"),
        ("ftp://x.example/", "must begin with http"),
        ("https://", "valid host"),
        ("https:///path", "valid host"),
        ("https://x:99999/", "valid host and port"),
        ("https://x:0/", "valid host and port"),
        ("https://[::1/", "valid host and port"),
        ("https://user@x/", "must not hold a user name"),
        ("https://user:secret@x/", "must not hold a user name"),
        ("https://x/#f", "must not hold a fragment"),
        ("https://x/#", "must not hold a fragment"),
        ("https://x/a b", "without spaces"),
        ("https://x/a\tb", "without spaces"),
        (5, "must be text, got 5"),
    ],
)
@pytest.mark.parametrize("place", [("providers", "panel", "url"), ("webhooks", 0, "url")])
def test_bad_urls_are_refused(
    problems_with: ProblemsWith, place: tuple[str | int, ...], url: object, message: str
) -> None:
    [problem] = problems_with(place, url)
    assert message in problem


def test_nothing_is_loaded_from_a_refused_database(load_text: LoadWith) -> None:
    with pytest.raises(ConfigError, match="database: must begin with postgresql://, without a driver's name"):
        load_text("database: postgresql+asyncpg://h/n")
