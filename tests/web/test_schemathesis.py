"""Whatever a generator makes of the API's own description, and against it: no 5xx, no answer that is not described.

A real server answers in a thread of its own. What is generated follows from the run's seed; a failure prints the
request as a curl line.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from aiohttp.test_utils import TestServer
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from aggregator.domain.clock import ManualClock
from aggregator.domain.orders import OrderState
from aggregator.storage.database import Database
from aggregator.web.server import create_app
from tests.conftest import SEED
from tests.support import rows
from tests.support.databases import opened
from tests.support.described import described
from tests.web.support import ADMIN, READER, SHOP, Doors, open_house

EXAMPLES = 5
"""Requests for each operation and way to make them."""
SCENARIOS, STEPS = 20, 8
TURNS = 10
"""So often at most; one is enough in nine of ten runs."""

load_all_checks()
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@dataclass
class Served:
    """The application, listening."""

    url: str
    clock: ManualClock
    session: requests.Session


async def _some_orders(database: Database, doors: Doors) -> None:
    """Orders in states that requests alone do not bring about, for links and numbers to meet."""
    bought = await database.write(lambda c: rows.buy(c, rows.accept(c, owner="shop")))
    await database.write(lambda c: rows.report(c, bought, state=OrderState.COMPLETED, start_count=10, remains=0))
    await database.write(lambda c: rows.lose(c, rows.accept(c, owner="shop")))
    await database.write(lambda c: rows.refuse(c, rows.accept(c, owner="shop")))
    await database.write(rows.sequence)


@asynccontextmanager
async def _server(database_url: str, clock: ManualClock, folder: Path) -> AsyncIterator[str]:
    async with opened(database_url) as database:
        doors = Doors(await open_house(database, clock, folder))
        await doors.intake.refresh()
        await _some_orders(database, doors)
        async with TestServer(create_app(doors.services)) as server:
            yield str(server.make_url("")).rstrip("/")


@pytest.fixture
def served(sqlite_database_url: str, clock: ManualClock, tmp_path: Path) -> Iterator[Served]:
    told: list[str] = []
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        async with _server(sqlite_database_url, clock, tmp_path) as url:
            told.append(url)
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(30)
        with requests.Session() as session:
            yield Served(told[0], clock, session)
    finally:
        done.set()
        thread.join(30)


def what_is_there() -> dict[str, Any]:
    """The description with the names that this house knows: generated ones would meet nothing."""
    document = copy.deepcopy(described())
    wanted = document["components"]["schemas"]["OrderRequest"]["properties"]
    wanted["service"] = {"enum": ["ig-followers", "gmail-usa", "app-code-us"]}
    wanted["quantity"] = {"enum": [10, 15, 20]}
    wanted["metadata"] = {"enum": [{}, {"note": "twice"}]}
    wanted["callback_url"] = {"enum": [None]}
    wanted["provider"] = {"enum": [None, "smmplus"]}
    wanted["max_cost"] = {"enum": [None, "9.99", 9.5, {"amount": 9.99, "currency": "EUR"}]}
    wanted["params"] = {"enum": [{}, {"runs": 2, "interval": 60}]}
    wanted["link"] = {"enum": ["https://instagram.com/username"]}
    document["components"]["schemas"]["OrderRequest"]["required"] = ["service", "quantity", "link"]
    names = {"provider": ["smmplus", "hstock"], "service": ["1", "9", "65f0aa"], "order": ["1", "2", "3", "4"]}
    names["webhook"] = ["shop", "nobody"]
    for operations in document["paths"].values():
        for operation in operations.values():
            # A generator's favourite keys come again and again, with another body each.
            named = [one for one in operation["parameters"] if one.get("name") != "Idempotency-Key"]
            operation["parameters"] = [one for one in named if not one.get("$ref", "").endswith("/IdempotencyKey")]
            for parameter in operation["parameters"]:
                if parameter.get("in") == "path":
                    parameter["schema"] = {"enum": names[parameter["name"]]}
    return document


def the_api(served: Served, document: dict[str, Any]) -> Any:
    config = schemathesis.Config.from_dict({"base-url": served.url, "generation": {"with-security-parameters": False}})
    return schemathesis.openapi.from_dict(document, config=config)


def arguments(served: Served, case: Case[Any], key: str) -> dict[str, Any]:
    # Wrong keys are counted by the minute, and this clock moves only when told.
    served.clock.advance(10)
    if "wait" in case.query:
        # Others wait for events in test_events.
        case.query["wait"] = 0
    return {"headers": {"Authorization": f"Bearer {key}"}, "session": served.session}


@pytest.mark.parametrize(
    ("document", "mode"),
    [
        pytest.param(what_is_there, GenerationMode.POSITIVE, id="what-is-there"),
        pytest.param(described, GenerationMode.POSITIVE, id="what-may-be"),
        pytest.param(described, GenerationMode.NEGATIVE, id="what-may-not-be"),
    ],
)
def test_every_answer_is_described_and_no_mistake_is_ours(
    served: Served, document: Callable[[], dict[str, Any]], mode: GenerationMode
) -> None:
    answers: Counter[int] = Counter()
    for result in the_api(served, document()).get_all_operations():
        operation = result.ok()

        @seed(SEED)
        @settings(
            max_examples=EXAMPLES,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(mode), key=st.sampled_from([ADMIN, ADMIN, SHOP, READER]))
        def ask(case: Case[Any], key: str) -> None:
            sent = arguments(served, case, key)
            answer = case.call(**sent)
            answers[answer.status_code] += 1
            # An open door asks for no key: that a closed one does is asked once.
            checks = [*CHECKS, ignored_auth] if document is what_is_there else CHECKS
            case.validate_response(answer, checks=checks, headers=sent["headers"], transport_kwargs=sent)

        ask()
    print(answers)
    assert answers.total() > 100
    assert answers[422] > 10
    assert document is described or answers[201] + answers[202] > 2


def test_following_links_from_answer_to_answer_finds_none_that_is_not_described(served: Served) -> None:
    followed: Counter[tuple[str, int]] = Counter()

    class Workflow(the_api(served, what_is_there()).as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, case: Case[Any]) -> dict[str, Any]:
            return arguments(served, case, ADMIN)

        def validate_response(self, response: Any, case: Case[Any], **sent: Any) -> None:
            sent.pop("additional_checks", None)
            followed[case.operation.label, response.status_code] += 1
            case.validate_response(response, checks=CHECKS, headers=sent["headers"], transport_kwargs=sent)

    def far_enough() -> bool:
        of_orders = sum(count for (label, status), count in followed.items() if "{order}" in label and status < 300)
        return followed["POST /v1/orders", 201] > 0 and of_orders > 5

    # Which links are followed is chance: go on until some led from an order that was taken to what can be done with it.
    for turn in range(TURNS):
        seed(SEED + turn)(Workflow.TestCase)
        Workflow.run(
            settings=settings(
                max_examples=SCENARIOS,
                stateful_step_count=STEPS,
                phases=[Phase.generate],
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
        )
        if far_enough():
            break
    print(followed)
    assert far_enough()
