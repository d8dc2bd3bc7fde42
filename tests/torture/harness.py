"""Kill a daemon again and again under load and faults, and hold what it then believes against what really happened.

The sandbox and the webhook endpoint survive it all and are the witnesses. Callers repeat a request until it is
answered, under the same Idempotency-Key.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, func, select

from aggregator.sandbox.faults import FAULTS
from aggregator.storage import invariants
from aggregator.storage.tables import attempts, events, orders
from tests.simulation import truth
from tests.support.databases import apart, opened
from tests.support.due import unfinished
from tests.support.processes import SandboxProcess, running_sandbox, until
from tests.torture.forge import Forge
from tests.torture.points import POINTS
from tests.torture.victim import Receiver, Victim, new_victim, receiving

SPEED: Final = 60.0
REACHED_S: Final = 1.0
"""How long after its load a daemon is waited for to die at its point; longer with every try that missed it."""
ANSWERS_S: Final = 120.0
SETTLE_S: Final = 240.0
MOST_TRIES: Final = 12
"""Starts after which a point counts as one that cannot be reached; a slow machine needs several for some."""
LOAD: Final = ("followers", "followers", "plus", "cheap", "cheap", "drops", "gmail", "code", "drip", "rest")
LEAST: Final = {"gmail": 1, "code": 1}
MORE: Final = {"drip": 100, "rest": 100}
"""What some services sell at least."""
DRIP: Final = {"runs": 2, "interval": 1}
WANTED: Final = {
    "recovery": "cheap",
    "sms_watch": "code",
    "refilling": "drops",
    "canceling": "plus",
    "dripping": "drip",
    "remainders": "rest",
}
"""What is ordered so that a stage has something to do."""
# Held and huge answers cost a second of real time each; the others come more often.
_QUICK: Final = tuple(name for name, fault in FAULTS.items() if fault.wire not in ("hold", "huge", "delay"))


@dataclass(slots=True)
class Report:
    """What a torture came to."""

    seed: int
    database: str
    kills: int = 0
    cold: int = 0
    by_point: Counter[str] = field(default_factory=Counter)
    orders: int = 0
    purchases: int = 0
    refills: int = 0
    cancels: int = 0
    runs: int = 0
    remainders: int = 0
    events: int = 0
    missing: int = 0
    misplaced: int = 0
    repeated: int = 0
    """Events that the endpoint never took, took before an earlier one of their lane, and took more than once."""
    unclear: int = 0
    double: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        return not (self.double or self.lost or self.broken)

    def lines(self) -> list[str]:
        named = sum(count for point, count in self.by_point.items() if point in POINTS)
        missed = [point for point in POINTS if not self.by_point[point]]
        return [
            f"seed {self.seed} on {self.database}: kills {self.kills} ({named} at named points, "
            f"{self.kills - named} at random moments, {self.cold} of cold processes)",
            f"  orders {self.orders} ({self.runs} runs, {self.remainders} remainders), purchases {self.purchases}, "
            f"refills {self.refills}, cancels {self.cancels}, events {self.events}, unclear {self.unclear}",
            f"  double {len(self.double)}, lost {len(self.lost)}, broken invariants {len(self.broken)}",
            f"  events missing at the endpoint {self.missing}, out of order {self.misplaced}, "
            f"taken again {self.repeated}",
            f"  named points reached {len(POINTS) - len(missed)} of {len(POINTS)}",
            *(f"  DOUBLE {line}" for line in self.double),
            *(f"  LOST {line}" for line in self.lost),
            *(f"  BROKEN {line}" for line in self.broken),
        ]


class Torture:
    """One database, one sandbox, one endpoint, and a daemon that dies."""

    def __init__(
        self, victim: Victim, sandbox: SandboxProcess, receiver: Receiver, database: str, seed: int, faults: bool = True
    ) -> None:
        self.report = Report(seed, "PostgreSQL" if database.startswith("postgresql") else "SQLite")
        self._victim = victim
        self._sandbox = sandbox
        self._receiver = receiver
        self._database = database
        self._rng = random.Random(seed)
        self._faults = faults
        self._unanswered: dict[str, list[dict[str, Any]]] = {}
        self._answered: dict[str, list[str]] = {}
        self._refilled: set[str] = set()
        self._canceled: set[str] = set()
        self._stopped: set[str] = set()
        self._wishes = 0
        self._ordered = 0
        sandbox.control("accounts/smmplus", {"balance": "100000000", "refill_cooldown_s": 0})
        sandbox.control(
            "accounts/smmcheap", {"balance": "100000000", "refill_cooldown_s": 0, "honours_idempotency_key": True}
        )
        sandbox.control("accounts/hstock", {"balance": "100000000"})
        sandbox.control("accounts/hstock/services/2", {"stock": 100_000_000})
        sandbox.control("accounts/hstock/services/1", {"stock": 100_000_000})
        soon = {"kind": "partial", "pending_s": 5, "run_s": 15}
        sandbox.control("accounts/smmplus/services/19", {"behaviour": soon})

    def run(self, kills: int, load: int, *, cold: int = 0, points: Sequence[str] = POINTS) -> Report:
        """So many kills, `load` new orders before each; first at each of the points, then in an order of the seed's.

        A few more where a point was missed again and again.
        """
        try:
            self._run(kills, load, cold, points)
        except (AssertionError, OSError) as exc:
            # Whatever did not come in time: the verdict does.
            self.report.broken.append(f"it did not come to its end: {exc!r}\n{self._victim.tail(10)}")
        return self.report

    def _run(self, kills: int, load: int, cold: int, points: Sequence[str]) -> None:
        rng = self._rng
        wanted = [*points]
        rng.shuffle(wanted)
        # First: they know no shortened pauses, and an order that was refused often would wait for minutes after them.
        for _ in range(cold):
            self.cold_cycle(load)
        for point in wanted:
            self._reach(point, load)
        mixed: list[str | None] = []
        while self.report.kills < kills:
            if not mixed:
                # A quarter of the kills falls at no named point at all.
                mixed = [*POINTS, *[None] * (len(POINTS) // 3)]
                rng.shuffle(mixed)
            self.cycle(mixed.pop(), load, rng.choice((1, 1, 1, 1, 2)))
        # Daemons that died at their start took none.
        self.finish(kills * load)

    def _reach(self, point: str, load: int) -> None:
        """Kill until one of the kills fell at the point."""
        for missed in range(MOST_TRIES):
            if self.report.by_point[point]:
                return
            self.cycle(point, load, 1, REACHED_S * (1 + missed))

    def cycle(self, point: str | None, load: int, nth: int, patience_s: float = REACHED_S) -> None:
        """Start, load, and be killed when the point is reached the n-th time, or soon."""
        rng = self._rng
        self._break_something(point)
        ready = self._victim.start(point, nth)
        reached = not ready
        if ready:
            self._work(point, load, 3 * patience_s)
            reached = self._victim.died(patience_s if point else rng.uniform(0.0, 0.5))
            if not reached:
                self._victim.kill()
        self._killed(point if reached and point else "at random")

    def cold_cycle(self, load: int) -> None:
        """The same with a process that starts from nothing, killed at any moment."""
        self._break_something(None)
        self._victim.start_cold()
        self._work(None, load)
        self._victim.died(0)
        self._victim.kill()
        self.report.cold += 1
        self._killed("at random")

    def _killed(self, where: str) -> None:
        self.report.kills += 1
        self.report.by_point[where] += 1

    # --- load ---

    def _work(self, point: str | None, load: int, patience_s: float = 3 * REACHED_S) -> None:
        """Orders old and new; whoever is not answered asks again after the next start."""
        singles = min(load, 3)
        for count in (*[1] * singles, *([load - singles] if load > singles else [])):
            self._wish(count, point)
        with suppress(OSError, AssertionError if point else OSError):
            for name in list(self._unanswered):
                self._ask(name)
            if point is not None and point.startswith("refilling"):
                until("an order to refill", self._refill, within_s=patience_s)
            elif point is not None and point.startswith("canceling"):
                until("an order to cancel", self._cancel, within_s=patience_s)
            elif self._rng.random() < 0.1:
                self._refill()
            elif self._rng.random() < 0.1:
                self._cancel()
            if point is not None and point.startswith("catalogue_sync"):
                self._victim.post("/v1/providers/smmplus/sync", {})

    def _wish(self, count: int, point: str | None) -> None:
        rng = self._rng
        self._wishes += 1
        self._ordered += count
        name = f"t{self.report.seed}-{self._wishes}"
        wishes = []
        for place in range(count):
            service = rng.choice(LOAD)
            if place == 0 and point is not None:
                service = WANTED.get(point.split(".")[0], service)
            wish: dict[str, Any] = {"service": service, "reference": f"{name}-{place}"}
            if service in LEAST:
                wish["quantity"] = rng.randint(1, 2)
            else:
                quantity = rng.randint(50, 90) + MORE.get(service, 0)
                wish |= {"quantity": quantity, "link": f"https://example.com/{name}/{place}"}
            if service == "drip":
                wish["params"] = DRIP
            wishes.append(wish)
        self._unanswered[name] = wishes

    def _ask(self, name: str) -> None:
        wishes = self._unanswered[name]
        if len(wishes) == 1:
            answer = self._victim.post("/v1/orders", wishes[0], key=name)
            if answer.status == 503:
                return
            assert answer.status == 201, answer.body
            ids = [answer.json()["id"]]
        else:
            answer = self._victim.post("/v1/orders:batch", {"orders": wishes}, key=name)
            if answer.status == 503:
                return
            assert answer.status == 200, answer.body
            ids = [result["order"]["id"] for result in answer.json()["results"]]
        del self._unanswered[name]
        for wish, one in zip(wishes, ids, strict=True):
            self._answered[wish["reference"]] = [one]

    def _refill(self) -> bool:
        """A caller asks for a refill by hand; asking again is the caller's right, giving twice the daemon's fault."""
        found = self._victim.get("/v1/orders?state=completed&service=drops&limit=50").json()["orders"]
        fresh = [order["id"] for order in found if order["id"] not in self._refilled]
        return any(self._asked(one, "refill", self._refilled) for one in fresh[:1])

    def _cancel(self) -> bool:
        """A caller thinks better of an order that goes on; its provider must hear of it once."""
        for state in ("pending", "in_progress"):
            found = self._victim.get(f"/v1/orders?state={state}&service=plus&limit=50").json()["orders"]
            fresh = [order["id"] for order in found if order["id"] not in self._canceled]
            if any(self._asked(one, "cancel", self._canceled) for one in fresh[:1]):
                return True
        return False

    def _asked(self, order: str, wish: str, known: set[str]) -> bool:
        """Whether the daemon took the wish; one that it refuses is not told again either."""
        status = self._victim.post(f"/v1/orders/{order}/{wish}", {}).status
        if status in (202, 409):
            known.add(order)
        return status == 202

    def _stop_drips(self) -> None:
        """Runs that are still to be made would take minutes."""
        found = self._victim.get("/v1/orders?state=in_progress&service=drip&limit=500").json()["orders"]
        for one in [order["id"] for order in found if order["id"] not in self._stopped]:
            self._victim.post(f"/v1/orders/{one}/cancel", {})
            self._stopped.add(one)

    def _at_rest(self) -> bool:
        self._stop_drips()
        return not self._look(unfinished)

    def _break_something(self, point: str | None) -> None:
        rng = self._rng
        rules: list[dict[str, Any]] = []
        if point is not None and point.startswith("recovery"):
            fault = rng.choice(("reset_after", "http_500_before", "close_after", "wrong_json_after"))
            rules.append({"fault": fault, "account": "smmcheap", "action": "add", "count": 2})
        if self._faults:
            rules.append({"fault": rng.choice(_QUICK), "action": rng.choice(("add", "add_sms")), "probability": 0.2})
            rules.append({"fault": rng.choice(_QUICK), "probability": 0.03})
            slow = rng.choice(("timeout_after", "timeout_before", "accept_late", "huge_after"))
            rules.append({"fault": slow, "action": "add", "probability": 0.05, "count": 1, "delay_s": 1.3})
        rules.append({"fault": "delay", "action": "add", "delay_s": rng.choice((0.0, 0.02, 0.2)), "probability": 0.5})
        self._sandbox.control("faults", rules)

    # --- the end ---

    def finish(self, wanted: int) -> None:
        """One whole run, until everything has come to rest; then the verdict."""
        while self._ordered < wanted:
            self._wish(min(20, wanted - self._ordered), None)
        self._sandbox.control("faults", [])
        assert self._victim.start()
        until("the answers to all orders", self._all_answered, within_s=ANSWERS_S)
        try:
            until("the end of all orders", self._at_rest, within_s=SETTLE_S)
        except AssertionError as exc:
            left = [*self._look(unfinished), *self._look(_stories)]
            self.report.broken.append("\n    ".join([str(exc), *left, self._victim.tail(10)]))
        assert self._victim.terminate() == 0
        self._judge()

    def _all_answered(self) -> bool:
        for name in list(self._unanswered):
            self._ask(name)
        return not self._unanswered

    def _judge_deliveries(self, connection: Connection) -> None:
        """The endpoint's log against the events: all there, and in a lane in their order; no hold was ever over."""
        report, taken = self.report, self._receiver.taken
        places = _first_places(taken)
        report.repeated = len(taken) - len(places)
        last: dict[str, tuple[int, str]] = {}
        query = select(events.c.id, events.c.lane).where(events.c.order_number.is_not(None)).order_by(events.c.seq)
        for row in connection.execute(query):
            place = places.get(row.id)
            if place is None:
                report.missing += 1
                report.lost.append(f"lost: the endpoint never took event {row.id}")
                continue
            before, earlier = last.get(row.lane, (-1, ""))
            if place < before:
                report.misplaced += 1
                report.broken.append(f"event {row.id} was taken before {earlier} of lane {row.lane}")
            last[row.lane] = max((before, earlier), (place, row.id))

    def _look(self, work: Any) -> Any:
        async def read() -> Any:
            async with opened(self._database) as database:
                return await database.read(work)

        return apart(read)

    def _judge(self) -> None:
        entries: Sequence[dict[str, Any]] = self._sandbox.ledger("add", "add_sms", "refill", "cancel")
        sold = truth.sales(entries)
        report = self.report

        def read(connection: Connection) -> None:
            rows = list(connection.execute(select(orders).order_by(orders.c.number)).mappings())
            tried = list(connection.execute(select(attempts)).mappings())
            found = [
                *truth.lost(rows, self._answered),
                *truth.purchases(rows, tried, sold),
                *truth.cancels_sent(connection, rows, entries),
                *truth.runs_made(rows),
                *truth.remainders_made(rows),
                *truth.told(connection, rows, self._receiver.heard, self._receiver.changed),
                *invariants.check(connection),
            ]
            for line in found:
                if line.startswith("double"):
                    report.double.append(line)
                elif line.startswith("lost"):
                    report.lost.append(line)
                else:
                    report.broken.append(line)
            report.orders = len(rows)
            report.runs = sum(row["role"] == "run" for row in rows)
            report.remainders = sum(row["role"] == "remainder" for row in rows)
            report.unclear = sum(row["state"] == "unclear" for row in rows)
            report.events = connection.execute(select(func.count()).select_from(events)).scalar_one()
            self._judge_deliveries(connection)

        self._look(read)
        given = Counter((entry["account"], entry["order"]) for entry in entries if entry["action"] == "refill")
        report.double += [f"order {place} was refilled {count} times" for place, count in given.items() if count > 1]
        report.refills = sum(given.values())
        report.cancels = sum(entry["action"] == "cancel" for entry in entries)
        report.purchases = len(sold)


def _first_places(taken: Sequence[str]) -> dict[str, int]:
    places: dict[str, int] = {}
    for place, event in enumerate(taken):
        places.setdefault(event, place)
    return places


def _stories(connection: Connection) -> list[str]:
    """What a few of the orders that do not end are waiting for."""
    going_on = (orders.c.finished_at.is_(None), orders.c.state != "unclear", orders.c.role != "parent")
    query = select(orders).where(*going_on).limit(5)
    found = []
    for row in connection.execute(query).mappings():
        shown = {name: str(value) for name, value in row.items() if value is not None}
        tried = select(attempts).where(attempts.c.order_number == row["number"]).order_by(attempts.c.ordinal.desc())
        last = connection.execute(tried.limit(1)).mappings().one_or_none()
        found.append(f"{shown}; last attempt {dict(last) if last is not None else None}")
    return found


@contextmanager
def torture(forge: Forge, folder: Path, database: str, seed: int, *, faults: bool = True) -> Iterator[Torture]:
    with running_sandbox(speed=SPEED, seed=seed) as sandbox, receiving() as receiver:
        victim = new_victim(forge, folder, database, sandbox.url, receiver.url)
        made = Torture(victim, sandbox, receiver, database, seed, faults)
        try:
            yield made
        finally:
            victim.kill()
