"""The sandbox as a server and as a program: methods, loopback only, announcing itself, and stopping."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

import aggregator.sandbox
from aggregator.sandbox.server import serve
from aggregator.sandbox.world import default_accounts
from tests.sandbox.support import Site

ROOT = Path(__file__).parents[2]


async def test_reads_go_by_get_too_and_purchases_do_not(site: Site) -> None:
    url = site.server.make_url("/smmplus/api/v2")
    query = {"key": "sandbox-smmplus-key", "action": "balance"}
    async with site.session.get(url, params=query) as reply:
        assert await reply.json() == {"balance": "1000.00", "currency": "USD"}
    query |= {"action": "add", "service": "1", "link": "https://example.com/p", "quantity": "100"}
    async with site.session.get(url, params=query) as reply:
        assert await reply.json() == {"error": "Incorrect request"}
    assert await site.entries() == []


async def test_an_unknown_account_is_404(site: Site) -> None:
    async with site.session.post(site.server.make_url("/nobody/api/v2"), data={}) as reply:
        assert reply.status == 404


async def test_errors_are_json_with_status_200(site: Site) -> None:
    async with site.session.post(site.server.make_url("/hstock/api/v2"), data={"action": "balance"}) as reply:
        assert (reply.status, reply.content_type) == (200, "application/json")
        assert await reply.json() == {"error": "Invalid API key"}


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.com", ""])
async def test_only_loopback_is_served(host: str) -> None:
    with pytest.raises(ValueError, match="loopback only"):
        await serve(host=host, port=0)


async def test_serve_announces_itself_and_stops_when_canceled(tmp_path: Path) -> None:
    faults = tmp_path / "faults.yaml"
    faults.write_text("faults:\n  - {fault: error_text, action: balance, body: Out of tea}\n")
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(serve(port=0, speed=10, faults=faults, ready=ready.set_result))
    base = await ready
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{base}/control/health") as reply:
            assert (await reply.json())["speed"] == 10
        async with session.get(f"{base}/smmplus/api/v2?action=balance") as reply:
            assert await reply.json() == {"error": "Out of tea"}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"{base}/control/health")


async def test_a_wrong_fault_file_is_refused_before_anything_listens(tmp_path: Path) -> None:
    faults = tmp_path / "faults.yaml"
    faults.write_text("- {fault: html, colour: red}\n")
    with pytest.raises(ValueError, match=r"faults\[0\]\.colour: unknown field"):
        await serve(port=0, faults=faults)


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "aggregator.sandbox", *arguments, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_program_prints_where_it_is_and_stops_on_a_signal(number: signal.Signals) -> None:
    program = await start("--port", "0", "--seed", "5")
    assert program.stdout is not None
    lines: list[str] = []
    while not lines or not lines[-1].startswith("seed"):
        lines.append((await asyncio.wait_for(program.stdout.readline(), 20)).decode().strip())
        assert lines[-1], "the program ended early"
    base = lines[0].removeprefix("sandbox ")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", base)
    assert f"account smmplus dialect=panel_v2 url={base}/smmplus/api/v2 key=sandbox-smmplus-key" in lines
    assert lines[-1] == "seed 5"
    program.send_signal(number)
    _, errors = await asyncio.wait_for(program.communicate(), 20)
    assert (program.returncode, errors) == (0, b"")


async def test_the_program_explains_why_it_cannot_start() -> None:
    program = await start("--port", "0", "--host", "0.0.0.0")
    _, errors = await asyncio.wait_for(program.communicate(), 20)
    assert program.returncode == 1
    assert errors.decode().startswith("sandbox: host: the sandbox listens on loopback only")


def test_the_documented_table_is_the_catalogue() -> None:
    text = aggregator.sandbox.__doc__ or ""
    for account in default_accounts():
        _, _, rest = text.partition(f"\n{account.name} ({account.dialect}, key `{account.settings.key}`")
        table = rest.partition("):\n\n")[2].partition("\n\n")[0]
        for service in account.services.values():
            limits = f"{service.rate} | {service.min}-{service.max} | {service.behaviour.kind}"
            assert f"- {service.id}: {service.name} | {service.type} | {limits}" in table
        for row in account.projects:
            assert f"- {row.project_id}: {row.name} | {row.country_id} | {row.price} | {row.behaviour.kind}" in table


def test_the_sandbox_imports_nothing_else_of_the_project() -> None:
    for path in (ROOT / "aggregator" / "sandbox").glob("*.py"):
        found = re.findall(r"^\s*(?:from|import) (aggregator\S*|\.\.\S*)", path.read_text(encoding="utf-8"), re.M)
        assert found == [], path.name
