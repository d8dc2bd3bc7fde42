"""The look for secrets itself: what is planted is found, however it is written, wherever it stands."""

from __future__ import annotations

import base64
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from aggregator.domain.clock import Clock
from aggregator.log import Redactor
from aggregator.storage import catalogue
from aggregator.storage.database import Database
from tests.support import leaks
from tests.support.house import load_settings
from tests.support.processes import KEY, DaemonProcess, running_sandbox, write_config

PLANTED = "planted/secret+of=this-test"


@pytest.mark.parametrize(
    "told",
    [
        f"api_key={PLANTED}",
        f"/api/v2?key={quote(PLANTED, safe='')}&action=add",
        f"Basic {base64.b64encode(f'user:{PLANTED}'.encode()).decode()}",
        base64.b64encode(f"us:{PLANTED}".encode()).decode(),
        f"\\x{PLANTED.encode().hex()}",
    ],
)
def test_a_secret_is_found_in_every_way_that_programs_echo_it(told: str) -> None:
    assert leaks.found_in(told.encode(), [PLANTED]) == ["planted/…"]
    assert leaks.found_in(told.replace(told[-12:], "").encode(), [PLANTED]) == []


def test_secrets_of_a_config_and_of_a_redactor_are_known(tmp_path: Path) -> None:
    text = f'keys: [{{name: shop, key: "{PLANTED}", scopes: [orders]}}]'
    list(load_settings(tmp_path, text).secrets())
    Redactor().add("a-secret-that-was-met-later")
    assert leaks._known == {PLANTED, "a-secret-that-was-met-later"}
    leaks.forget()
    assert leaks._known == set()


async def test_a_secret_in_any_row_is_found(database: Database, clock: Clock) -> None:
    """On both databases, until nobody knows any more that it is one."""
    name, now = f"reason: key={PLANTED} is wrong", clock.now()
    await database.write(partial(catalogue.ensure_providers, names=[name], now=now))
    assert await database.read(leaks.in_rows) == []
    Redactor().add(PLANTED)
    assert await database.read(leaks.in_rows) == ["planted/…"]
    leaks.forget()  # the fixture that ends this test looks, too


def test_a_daemon_that_tells_its_key_is_found(tmp_path: Path) -> None:
    log, config = tmp_path / "daemon.log", tmp_path / "config.yaml"
    daemon = DaemonProcess(config, 0, log)
    config.touch(mode=0o600)
    config.write_text(f'keys: [{{name: shop, key: "{PLANTED}", scopes: [orders]}}]')
    leaks.started(daemon)
    log.write_text("nothing yet\n")
    with pytest.raises(AssertionError, match=r"/metrics tells planted/…"):
        leaks.answered(daemon, "/metrics", f'{{key="{PLANTED}"}} 1'.encode())
    log.write_text(f"nothing yet\nkey {PLANTED}\n")
    (tmp_path / "orders.db").write_bytes(b"\0" + PLANTED.encode())
    assert leaks.of_daemons() == ["planted/… in daemon.log", "planted/… in orders.db"]
    assert leaks.of_daemons() == [], "one that has ended is looked at once"


def test_what_a_real_daemon_logs_stores_and_answers_is_looked_through(tmp_path: Path) -> None:
    with running_sandbox(speed=20) as sandbox:
        daemon = write_config(tmp_path, f"sqlite:///{tmp_path}/orders.db", sandbox.url)
        daemon.start()
        [watched] = [one for one in leaks._daemons if one.daemon is daemon]
        assert watched.secrets() >= {KEY, "sandbox-smmplus-key", "sandbox-hstock-key"}
        assert daemon.get("/v1/providers").status == 200
        assert daemon.terminate() == 0
        with daemon.log.open("a") as log:
            log.write("as if the daemon had said: sandbox-hstock-key\n")
    assert leaks.of_daemons() == ["sandbox-… in daemon.log"]
