"""The daemon under abuse, in small: benchmarks/abuse.py with numbers that a test can bear."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.abuse import MEGABYTE, Target, attack, attacks
from tests.support.processes import KEY, DaemonProcess, free_port

ROOM = 50
ATTACKS = attacks(connections=400, slow=100, large=80, hold_s=1)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder: Path = tmp_path_factory.mktemp("flood")
    config = folder / "config.yaml"
    config.touch(mode=0o600)
    daemon = DaemonProcess(config, free_port(), folder / "daemon.log")
    config.write_text(
        f"database: sqlite:///{folder}/orders.db\n"
        f'http: {{listen: ["127.0.0.1:{daemon.port}"], max_connections: {ROOM}}}\n'
        f"keys: [{{name: shop, key: {KEY}, scopes: [orders, admin]}}]\n"
    )
    daemon.start()
    yield daemon
    assert daemon.terminate() == 0
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.parametrize(("name", "work"), ATTACKS, ids=[name for name, _ in ATTACKS])
def test_others_are_answered_and_memory_stays_where_it_was(
    daemon: DaemonProcess, name: str, work: Callable[..., object]
) -> None:
    assert daemon.process is not None
    target = Target(daemon.port, daemon.process.pid, KEY)
    before = target.resident
    seen = asyncio.run(attack(target, name, work))  # type: ignore[arg-type]
    print(seen.line())
    assert not seen.failed
    # 80 bodies of 1 MiB were sent; 32 MiB of them find room at once.
    assert seen.peak - before < 64 * MEGABYTE
    if "silent" in name or "dripping" in name:
        assert seen.told["left open"] <= ROOM < seen.told.total()
    if "bodies" in name:
        assert seen.told["503"] > 0
    assert daemon.get("/readyz").status == 200
