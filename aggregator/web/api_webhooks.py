"""Endpoints for webhooks: listed, made, changed, switched, tested, replayed; and what they were sent.

Those of the config are edited in the config, and can be switched off and on here; those made here live in the database.
An address that an admin gives is trusted like one of the config. A secret is shown by the answer that made it alone.
"""

from __future__ import annotations

import secrets as random_source
from base64 import b64encode
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from aiohttp import web

from aggregator.config import WebhookSettings
from aggregator.config.problems import did_you_mean
from aggregator.domain.errors import Problem, ProblemKind
from aggregator.domain.events import Draft
from aggregator.flow.base import House
from aggregator.flow.delivery import forget
from aggregator.flow.endpoints import from_row, sealed, stored
from aggregator.flow.replaying import wanted
from aggregator.log import get_logger
from aggregator.storage import deliveries, endpoints, outbox, replays, reports
from aggregator.storage import orders as order_store
from aggregator.storage.database import Connection, RowMapping
from aggregator.web.api_orders import ORDER_NAME
from aggregator.web.auth import Caller
from aggregator.web.bodies import read_body
from aggregator.web.hook_documents import STATES, delivery_document, endpoint_document, source_of, state_of
from aggregator.web.hook_requests import (
    EndpointChange,
    EndpointRequest,
    ReplayRequest,
    SecretRequest,
    given,
)
from aggregator.web.models import EmptyRequest, read, read_optional
from aggregator.web.once import once
from aggregator.web.problems import invalid
from aggregator.web.query import Parameters, choice, instant, query_of, text
from aggregator.web.rendering import Answer, dumps, json_response, listing
from aggregator.web.services import services_of

log = get_logger()

MAX_ENDPOINTS: Final = 200
"""Made by API: each event is held against all of them."""
MAX_SECRETS: Final = 5
KEPT_SECRET: Final = timedelta(days=1)
MAX_REPLAY: Final = 1_000_000
"""Positions of one replay."""

SOURCE: Final = choice("source", ("config", "api", "callback"), "Only endpoints that come from there.")
STATE: Final = choice("state", STATES, "Only endpoints in this state.")
LIST_QUERY: Final = Parameters(SOURCE, STATE, paged=True)
DELIVERY: Final = choice("state", ("pending", "delivered", "parked"), "Only deliveries in this state.")
ORDER: Final = text("order", "Only those about this order, by its id or number.", longest=40)
EVENT: Final = text("event", "Only those of this event.", longest=40)
SINCE: Final = instant("since", "Only those of events made at this instant or later.")
DELIVERIES_QUERY: Final = Parameters(DELIVERY, ORDER, EVENT, SINCE, paged=True)


def _missing() -> Problem:
    return Problem(ProblemKind.NOT_FOUND, "there is no endpoint of this name")


def _found(connection: Connection, request: web.Request, *, lock: bool = False) -> RowMapping:
    """The endpoint that the path names; Problem 404. `lock`: it is going to be changed."""
    name = request.match_info["webhook"]
    row = endpoints.find(connection, name, lock=lock) if name.isprintable() and len(name) <= 140 else None
    if row is None:
        raise _missing()
    return row


def _hook(house: House, row: RowMapping) -> WebhookSettings | None:
    """Its settings as they are in this transaction; the stages are told after its commit."""
    configured = house.endpoints.configured.get(row["name"])
    if configured is not None or row["settings"] is None:
        return configured
    return from_row(row, house.sealer)


def _own(house: House, row: RowMapping) -> WebhookSettings:
    """The endpoint as it was made here; Problem 409 with the remedy when it was not."""
    _operators(row)
    if _source(house, row) != "api":
        detail = "the endpoint is in the config file, or was; change it there, and start the daemon anew"
        raise Problem(ProblemKind.CONFLICT, detail)
    return from_row(row, house.sealer)


def _operators(row: RowMapping) -> None:
    if row["owner"]:
        raise Problem(ProblemKind.CONFLICT, "callbacks are the callers'; only what they were sent is here")


def _listening(row: RowMapping) -> None:
    if not row["enabled"]:
        raise Problem(ProblemKind.CONFLICT, "nothing is sent there; enable the endpoint first")


def _source(house: House, row: RowMapping) -> str:
    return source_of(row, configured=row["name"] in house.endpoints.configured)


def _document(house: House, connection: Connection, row: RowMapping) -> dict[str, object]:
    return endpoint_document(
        row,
        _hook(house, row),
        source=_source(house, row),
        backlog=deliveries.backlog(connection, row["name"]),
        replaying=replays.waiting_at(connection, row["name"]),
        now=house.clock.now(),
    )


async def list_webhooks(request: web.Request, caller: Caller) -> web.Response:
    """`GET /v1/webhooks`: the operator's endpoints; with `source=callback` the hosts of callers' callback URLs."""
    query = query_of(request)
    source, state = query[SOURCE], query[STATE]
    after, limit = query.cursor or 0, query.limit
    house = services_of(request).house

    def load(connection: Connection) -> tuple[list[dict[str, object]], int | None]:
        rows: list[RowMapping]
        if source == "callback":
            standings = {"failing": ["failing"], "healthy": ["new", "good"], "disabled": []}.get(state or "")
            rows = endpoints.page_of_callbacks(connection, after=after, limit=limit + 1, standings=standings)
        else:
            rows = [
                row
                for row in endpoints.of_operator(connection)
                if row["id"] > after and source in (None, _source(house, row)) and state in (None, state_of(row))
            ][: limit + 1]
        last = rows[limit - 1]["id"] if len(rows) > limit else None
        return [_document(house, connection, row) for row in rows[:limit]], last

    documents, last = await house.database.read(load)
    return json_response(listing("webhooks", documents, query.next_cursor(last) if last is not None else None))


async def get_webhook(request: web.Request, caller: Caller) -> web.Response:
    house = services_of(request).house
    return json_response(await house.database.read(lambda c: _document(house, c, _found(c, request))))


async def create(request: web.Request, caller: Caller) -> web.Response:
    """`POST /v1/webhooks`: 201 with the secret, which is never shown again."""
    services = services_of(request)
    house = services.house
    body = await read_body(request)

    async def work(recording: House) -> None:
        wish = read(EndpointRequest, body)
        _check_services(house, wish.services or ())
        secret = wish.secret or _new_secret()
        services.redact(secret)
        fields = {name: value for name, value in given(wish, "secret").items() if value is not None}
        hook = WebhookSettings.model_validate({**fields, "secret": secret, "enabled": True})
        now = house.clock.now()

        def write(connection: Connection) -> tuple[RowMapping, str]:
            if hook.name in house.endpoints.configured:
                raise Problem(ProblemKind.CONFLICT, "the config has an endpoint of this name; take another", "name")
            if endpoints.count(connection) >= MAX_ENDPOINTS:
                raise Problem(
                    ProblemKind.CONFLICT, f"there are {MAX_ENDPOINTS} endpoints, which is the most; delete some"
                )
            if endpoints.create(connection, hook.name, stored(hook), sealed(hook.secret, house.sealer), now) is None:
                detail = "an endpoint of this name is there, or still being removed; take another"
                raise Problem(ProblemKind.CONFLICT, detail, "name")
            if not wish.enabled:
                endpoints.disable(connection, hook.name, now, _by(caller))
            row = endpoints.find(connection, hook.name)
            assert row is not None
            return row, secret

        await recording.database.write(write)
        await _tell(house, hook.name)
        log.info("webhook_made", endpoint=hook.name, caller=caller.name)

    def render(connection: Connection, made: tuple[RowMapping, str]) -> Answer:
        row, secret = made
        document = {**_document(house, connection, row), "secret": secret}
        return Answer(201, dumps(document), {"Location": f"/v1/webhooks/{row['name']}"})

    return await once(request, house, caller.name, body, work, render, sealed=True)


async def change(request: web.Request, caller: Caller) -> web.Response:
    """`PATCH /v1/webhooks/{name}`: what is named is changed; of the config's endpoints only `enabled` can be."""
    house = services_of(request).house
    body = await read_body(request)

    async def work(recording: House) -> None:
        wish = read(EndpointChange, body)
        fields = given(wish, "enabled")
        if not wish.model_fields_set:
            raise invalid("say what to change", "url")
        _check_services(house, wish.services or ())
        if "url" in fields and wish.url is None:
            raise invalid("is required; name it, or leave it out", "url")
        now = house.clock.now()

        def write(connection: Connection) -> RowMapping:
            row = _found(connection, request, lock=True)
            _operators(row)
            if fields:
                hook = _changed(_own(house, row), fields)
                endpoints.save(connection, row["name"], settings=stored(hook), updated_at=now)
            if wish.enabled is not None:
                _switch(connection, house, row, wish.enabled, caller, now)
            return _found(connection, request)

        row = await recording.database.write(write)
        await _tell(house, row["name"])
        log.info("webhook_changed", endpoint=request.match_info["webhook"], caller=caller.name)
        house.wakeups.wake("delivery")

    return await once(request, house, caller.name, body, work, lambda c, row: _answer(house, c, row))


def _changed(hook: WebhookSettings, fields: dict[str, Any]) -> WebhookSettings:
    kept = {name: value for name, value in stored(hook).items() if name not in fields}
    named = {name: value for name, value in fields.items() if value is not None}
    return WebhookSettings.model_validate({"name": hook.name, "secret": hook.secret, **kept, **named})


async def remove(request: web.Request, caller: Caller) -> web.Response:
    """`DELETE /v1/webhooks/{name}`: nothing is sent there any more; its deliveries go with it, the events stay."""
    house = services_of(request).house
    body = await read_body(request)

    async def work(recording: House) -> None:
        read_optional(EmptyRequest, body)
        now = house.clock.now()

        def write(connection: Connection) -> str:
            row = _found(connection, request, lock=True)
            _operators(row)
            if row["name"] in house.endpoints.configured:
                detail = "the endpoint is in the config file; remove it there, and start the daemon anew"
                raise Problem(ProblemKind.CONFLICT, detail)
            endpoints.remove(connection, row["name"], now)
            return str(row["name"])

        name = await recording.database.write(write)
        await _tell(house, name)
        forget(name)
        log.info("webhook_removed", endpoint=name, caller=caller.name)
        house.wakeups.wake("retention")

    return await once(request, house, caller.name, body, work, lambda _, name: Answer(200, dumps({"deleted": name})))


async def enable(request: web.Request, caller: Caller) -> web.Response:
    """`POST …/enable`: what waits is due now."""
    return await _set_enabled(request, caller, True)


async def disable(request: web.Request, caller: Caller) -> web.Response:
    """`POST …/disable`: what comes waits, as long as `retention.deliveries_days`."""
    return await _set_enabled(request, caller, False)


async def _set_enabled(request: web.Request, caller: Caller, wanted_on: bool) -> web.Response:
    house = services_of(request).house
    body = await read_body(request)

    async def work(recording: House) -> None:
        read_optional(EmptyRequest, body)
        now = house.clock.now()

        def write(connection: Connection) -> RowMapping:
            row = _found(connection, request, lock=True)
            _switch(connection, house, row, wanted_on, caller, now)
            return _found(connection, request)

        row = await recording.database.write(write)
        await _tell(house, row["name"])
        log.info("webhook_enabled" if wanted_on else "webhook_switched_off", endpoint=row["name"], caller=caller.name)
        house.wakeups.wake("delivery", "replaying")

    return await once(request, house, caller.name, body, work, lambda c, row: _answer(house, c, row))


def _switch(
    connection: Connection, house: House, row: RowMapping, wanted_on: bool, caller: Caller, now: datetime
) -> None:
    _operators(row)
    name, configured = row["name"], house.endpoints.configured.get(row["name"])
    if configured is None and row["settings"] is None:
        detail = "the endpoint is not in the config any more; put it back there, or delete what it has left"
        raise Problem(ProblemKind.CONFLICT, detail)
    if not wanted_on:
        if row["disabled_at"] is None:
            endpoints.disable(connection, name, now, _by(caller))
        return
    if configured is not None and not configured.enabled:
        detail = "the config says enabled: false; change it there, and start the daemon anew"
        raise Problem(ProblemKind.CONFLICT, detail)
    if not row["enabled"]:
        endpoints.enable(connection, name, now)
        replays.hasten(connection, name, now)


def _by(caller: Caller) -> str:
    return f"switched off by {caller.name}"


async def rotate(request: web.Request, caller: Caller) -> web.Response:
    """`POST …/secret`: a new secret, shown once; until `until` the old ones sign as well."""
    services = services_of(request)
    house = services.house
    body = await read_body(request)

    async def work(recording: House) -> None:
        wish = read_optional(SecretRequest, body)
        now = house.clock.now()
        until = wish.until or now + KEPT_SECRET
        if until <= now:
            raise invalid("must be in the future; leave it out for a day from now", "until")
        secret = wish.secret or _new_secret()
        services.redact(secret)

        def write(connection: Connection) -> tuple[RowMapping, str]:
            row = _found(connection, request, lock=True)
            hook = _own(house, row)
            old = [
                {"value": one.value, "until": min(one.until or until, until)}
                for one in hook.secrets_at(now)
                if one.value.reveal() != secret
            ]
            most = MAX_SECRETS if wish.until is None else 4 * MAX_SECRETS
            if len(old) >= most:
                detail = f"{most} secrets are good still, which is the most; say `until` to end them, or wait for one"
                raise Problem(ProblemKind.CONFLICT, detail)
            entries = [{"value": secret}, *old]
            hook = WebhookSettings.model_validate({"name": hook.name, "secret": entries, **stored(hook)})
            endpoints.save(connection, hook.name, secrets=sealed(hook.secret, house.sealer), updated_at=now)
            return _found(connection, request), secret

        row, _ = await recording.database.write(write)
        await _tell(house, row["name"])
        log.info("webhook_secret_changed", endpoint=request.match_info["webhook"], caller=caller.name)

    def render(connection: Connection, made: tuple[RowMapping, str]) -> Answer:
        row, secret = made
        return Answer(200, dumps({**_document(house, connection, row), "secret": secret}))

    return await once(request, house, caller.name, body, work, render, sealed=True)


async def test(request: web.Request, caller: Caller) -> web.Response:
    """`POST …/test`: a `webhook.test` event for this endpoint alone; 202 with its id."""
    house = services_of(request).house
    body = await read_body(request)

    async def work(recording: House) -> None:
        read_optional(EmptyRequest, body)
        now = house.clock.now()

        def write(connection: Connection) -> str:
            row = _found(connection, request, lock=True)
            _operators(row)
            _listening(row)
            draft = Draft("webhook.test", {"endpoint": row["name"], "asked_by": caller.name})
            return outbox.append_general(connection, draft, now)

        await recording.database.write(write)
        house.wakeups.wake("sequencing")

    return await once(request, house, caller.name, body, work, lambda _, event: Answer(202, dumps({"event": event})))


async def replay(request: web.Request, caller: Caller) -> web.Response:
    """`POST …/replay`: 202 with how many deliveries come due again, under their events' ids and with their bytes."""
    house = services_of(request).house
    body = await read_body(request)

    async def work(recording: House) -> None:
        ask = _asked(read(ReplayRequest, body))
        now = house.clock.now()

        def look(connection: Connection) -> _Write:
            row = _found(connection, request)
            _listening(row)
            return ask(connection, house, row["name"])

        wish_for = await recording.database.read(look)

        def write(connection: Connection) -> int:
            row = _found(connection, request, lock=True)
            _listening(row)
            return wish_for(connection, row["name"], now)

        count = await recording.database.write(write)
        log.info("replay_asked", endpoint=request.match_info["webhook"], deliveries=count, caller=caller.name)
        house.wakeups.wake("replaying", "delivery")

    return await once(request, house, caller.name, body, work, lambda _, n: Answer(202, dumps({"deliveries": n})))


_Write = Callable[[Connection, str, datetime], int]
_Ask = Callable[[Connection, House, str], _Write]
"""What a replay is of: looked at in a read, which may take long, and wished for by a small write."""


def _asked(wish: ReplayRequest) -> _Ask:
    """What a replay is of; exactly one of its forms."""
    ranged = wish.from_ is not None or wish.to is not None
    if sum((wish.event is not None, ranged, wish.parked is not None, wish.since is not None)) != 1:
        forms = '{"event": "evt_…"}, {"from": 1, "to": 9}, {"parked": true} or {"since": "2026-11-21T18:00:00Z"}'
        raise invalid(f"say what to send again: {forms}", "event")
    if wish.event is not None:
        return _one_event(wish.event)
    if wish.since is not None:
        return _since(wish.since)
    if wish.parked is not None:
        if not wish.parked:
            raise invalid("must be true", "parked")
        return lambda *_: replays.ask_parked
    if wish.from_ is None or wish.to is None:
        raise invalid("is required: a range has both ends", "from" if wish.from_ is None else "to")
    if wish.to < wish.from_:
        raise invalid("must not be less than from", "to")
    first, last = wish.from_, wish.to
    return lambda connection, house, name: _range(connection, house, name, first - 1, last, None)


def _one_event(event_id: str) -> _Ask:
    def write(connection: Connection, name: str, now: datetime) -> int:
        if not replays.event(connection, name, event_id, now):
            raise invalid("there is no such event, or it has no position yet", "event")
        return 1

    return lambda *_: write


def _since(since: datetime) -> _Ask:
    def ask(connection: Connection, house: House, name: str) -> _Write:
        first = replays.position_at(connection, since)
        return _range(connection, house, name, first - 1, reports.feed_head(connection), since)

    return ask


def _range(connection: Connection, house: House, name: str, after: int, until: int, since: datetime | None) -> _Write:
    until = min(until, reports.feed_head(connection))
    if until - after > MAX_REPLAY:
        raise invalid(f"would be more than {MAX_REPLAY} events; ask for them in parts", "since" if since else "to")
    count = replays.count_events(connection, after=after, until=until, since=since, wanted=wanted(house, name))

    def write(connection: Connection, name: str, now: datetime) -> int:
        if count:
            replays.ask_events(connection, name, now, after=after, until=until, since=since)
        return count

    return write


async def list_deliveries(request: web.Request, caller: Caller) -> web.Response:
    """`GET …/deliveries`: what it was sent, the newest event first, with the last try of each."""
    query = query_of(request)
    state, order, event, since = query[DELIVERY], query[ORDER], query[EVENT], query[SINCE]
    before, limit = query.cursor, query.limit
    house = services_of(request).house

    def load(connection: Connection) -> tuple[RowMapping, list[RowMapping]]:
        row, number = _found(connection, request), None
        if order is not None:
            known = order_store.find(connection, order, None) if ORDER_NAME.fullmatch(order) else None
            if known is None:
                raise Problem(ProblemKind.UNKNOWN_ORDER, "there is no such order", "order")
            number = known.number
        rows = deliveries.log_page(
            connection,
            row["name"],
            state=state,
            order_number=number,
            event_id=event,
            since=since,
            before=before,
            limit=limit + 1,
        )
        return row, rows

    row, rows = await house.database.read(load)
    cursor = query.next_cursor(rows[limit - 1]["event_seq"]) if len(rows) > limit else None
    shown = [delivery_document(one, callback=bool(row["owner"])) for one in rows[:limit]]
    return json_response(listing("deliveries", shown, cursor))


def _answer(house: House, connection: Connection, row: RowMapping) -> Answer:
    return Answer(200, dumps(_document(house, connection, row)))


async def _tell(house: House, name: str) -> None:
    """The stages go by what is committed now. Read anew: another request may have changed it since."""
    async with house.endpoints.telling:
        row = await house.database.read(lambda c: endpoints.find(c, name))
        if row is None or row["settings"] is None:
            house.endpoints.drop(name)
        else:
            house.endpoints.put(from_row(row, house.sealer))
        house.endpoints.switch(name, row is None or row["enabled"])


def _check_services(house: House, names: tuple[str, ...]) -> None:
    known = house.settings.services
    for place, name in enumerate(names):
        if name not in known:
            raise invalid(f"there is no service {name!r}{did_you_mean(name, known)}", f"services.{place}")


def _new_secret() -> str:
    return "whsec_" + b64encode(random_source.token_bytes(32)).decode()
