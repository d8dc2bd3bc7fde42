"""Liveness, readiness, metrics; what is logged, and what an error gives away."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from aggregator.domain.errors import StorageUnavailable
from tests.web.support import ADMIN, READER, SHOP, Doors, an_order


async def test_livez_fails_when_a_loop_is_stuck(sqlite_doors: Doors) -> None:
    assert (await sqlite_doors.get("/livez", key=None)).json == {"status": "ok", "version": "1.2.3"}
    sqlite_doors.ages["polling"] = 31.0
    reply = await sqlite_doors.get("/livez", key=None)
    assert (reply.status, reply.problem) == (503, "unavailable")
    assert "polling (31 s)" in reply.json["detail"]


async def test_readyz_needs_a_database_that_takes_writes(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(doors, monkeypatch, StorageUnavailable("disk full"))
    reply = await doors.get("/readyz", key=None)
    assert (reply.status, reply.problem, reply.json["detail"]) == (503, "unavailable", "the database cannot be written")
    assert int(reply.headers["Retry-After"]) > 0


async def test_readyz_hears_of_requests_that_the_database_failed(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await doors.get("/readyz", key=None)).status == 200
    # A full disk may still take the few bytes of a look.
    broken(doors, monkeypatch, StorageUnavailable("disk full"))
    assert (await doors.post("/v1/orders", an_order())).status == 503
    monkeypatch.undo()
    assert (await doors.get("/readyz", key=None)).status == 503
    assert "aggregator_database_up 0.0" in (await doors.get("/metrics", key=READER)).text
    monkeypatch.setattr("aggregator.web.health.FAILED_S", 0.0)
    assert (await doors.get("/readyz", key=None)).status == 200


async def test_readyz_is_over_when_the_daemon_drains(doors: Doors) -> None:
    assert (await doors.get("/readyz", key=None)).json == {"status": "ready"}
    doors.draining = True
    assert (await doors.get("/readyz", key=None)).status == 503


async def test_metrics_count_orders_and_requests(doors: Doors) -> None:
    await doors.order()
    reply = await doors.get("/metrics", key=READER)
    assert reply.status == 200
    assert 'aggregator_orders{state="accepted"} 1.0' in reply.text
    assert 'aggregator_http_requests_total{method="POST",route="/v1/orders",status="201"}' in reply.text
    assert "aggregator_database_up 1.0" in reply.text


async def test_metrics_go_on_without_a_database(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(doors, monkeypatch, StorageUnavailable("gone"))
    assert "aggregator_database_up 0.0" in (await doors.get("/metrics", key=READER)).text


async def test_metrics_want_a_key_from_everybody_else(sqlite_doors: Doors) -> None:
    assert (await sqlite_doors.get("/metrics", key=None)).status == 200
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    assert (await sqlite_doors.get("/metrics", key=None, headers=forwarded)).status == 401
    assert (await sqlite_doors.get("/metrics", key=SHOP, headers=forwarded)).status == 403
    assert (await sqlite_doors.get("/metrics", key=ADMIN, headers=forwarded)).status == 200


async def test_a_database_that_is_gone_is_503_with_a_time_to_wait(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(doors, monkeypatch, StorageUnavailable("could not connect to 10.0.0.7"))
    for reply in (
        await doors.post("/v1/orders", an_order(), headers={"Idempotency-Key": "k"}),
        await doors.get("/v1/orders"),
        await doors.post("/v1/orders/1/cancel"),
    ):
        assert (reply.status, reply.problem) == (503, "unavailable")
        assert int(reply.headers["Retry-After"]) > 0
        assert "10.0.0.7" not in reply.text
    monkeypatch.undo()
    reply = await doors.post("/v1/orders", an_order(), headers={"Idempotency-Key": "k"})
    assert (reply.status, "Idempotent-Replayed" in reply.headers) == (201, False)


async def test_a_surprise_is_500_and_gives_nothing_away(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(doors, monkeypatch, RuntimeError("secret detail in /srv/app"))
    with capture_logs() as logs:
        reply = await doors.post("/v1/orders", an_order())
    assert (reply.status, reply.problem) == (500, "internal")
    assert "secret detail" not in reply.text
    (failure,) = [line for line in logs if line["event"] == "request_failed"]
    assert failure["log_level"] == "error"


def broken(doors: Doors, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Every use of the database fails."""

    async def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(doors.house.database, "read", fail)
    monkeypatch.setattr(doors.house.database, "write", fail)
    monkeypatch.setattr(doors.house.database, "write_together", fail)


async def test_each_request_has_one_line_without_what_it_said(sqlite_doors: Doors) -> None:
    order = await sqlite_doors.order()
    with capture_logs() as logs:
        await sqlite_doors.get(f"/v1/orders/{order['id']}")
        await sqlite_doors.get("/v1/orders?reference=very-private")
        await sqlite_doors.get("/no/such/very-private?x=1")
        await sqlite_doors.post("/v1/orders", {"service": "very-private"})
    lines = [line for line in logs if line["event"] == "request"]
    assert [(line["method"], line["route"], line["status"], line["caller"]) for line in lines] == [
        ("GET", "/v1/orders/{order}", 200, "shop"),
        ("GET", "/v1/orders", 200, "shop"),
        ("GET", "(none)", 404, None),
        ("POST", "/v1/orders", 422, "shop"),
    ]
    assert all(isinstance(line["ms"], float) for line in lines)
    assert "very-private" not in str(logs)
    assert SHOP not in str(logs)


async def test_a_request_has_a_name(sqlite_doors: Doors) -> None:
    own = await sqlite_doors.get("/v1/orders", headers={"X-Request-Id": "cart-17.retry_2"})
    assert own.headers["X-Request-Id"] == "cart-17.retry_2"
    made = await sqlite_doors.get("/v1/none", headers={"X-Request-Id": "a b"})
    assert made.headers["X-Request-Id"] != "a b"
    assert made.json["instance"] == f"urn:aggregator:request:{made.headers['X-Request-Id']}"


async def test_answers_name_no_versions_and_are_never_cached(sqlite_doors: Doors) -> None:
    for path in ("/v1/orders", "/v1/none", "/livez"):
        reply = await sqlite_doors.get(path)
        assert reply.headers["Server"] == "aggregator"
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
