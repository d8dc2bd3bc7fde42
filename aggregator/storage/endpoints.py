"""Endpoints: who is sent deliveries, how they are doing, and when each is looked at next.

One row for each of the operator's endpoints (of the config and made by API), and one for each caller and host of
callback URLs. `next_at` is what finds work among thousands of them: whoever adds or ends a delivery sets it in the same
transaction, with the row locked. Nothing here sends anything or knows a secret in the clear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    Connection,
    RowMapping,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from aggregator.storage import claims
from aggregator.storage.tables import PENDING, URGENT, deliveries, endpoints, replays

REMOVED_AT_ONCE: Final = 500
_T: Final = endpoints.c


def _many(table: Any = endpoints) -> Any:
    return table.c.name.in_(bindparam("names", expanding=True))


_LOCKED: Final = select(endpoints).where(_many()).order_by(_T.name).with_for_update()
_FREE_AT: Final = case((_T.next_probe_at > claims.NOW, _T.next_probe_at), else_=claims.NOW)
_WAKE: Final = (
    update(endpoints)
    .where(_many(), _T.enabled, or_(_T.next_at.is_(None), _T.next_at > _FREE_AT))
    .values(next_at=_FREE_AT)
)
_URGENT_DUE: Final = exists().where(
    deliveries.c.endpoint == _T.name,
    deliveries.c.state == PENDING,
    URGENT,
    deliveries.c.next_at <= claims.NOW,
)
_DUE_OF_OPERATOR: Final = (
    select(endpoints, _URGENT_DUE.label("urgent"))
    .where(_T.owner == "", _T.next_at.is_not(None), _T.next_at <= claims.NOW)
    .order_by(_T.id)
)
_DUE_OF_CALLER: Final = (
    select(endpoints)
    .where(
        _T.owner == bindparam("of_owner"),
        _T.standing == bindparam("of_standing"),
        _T.next_at.is_not(None),
        _T.next_at <= claims.NOW,
        _T.id.not_in(bindparam("busy", expanding=True)),
    )
    .order_by(_T.next_at, _T.id)
    .limit(bindparam("at_most"))
)


_SET_NEXT: Final = (
    update(endpoints)
    .where(_T.name == bindparam("of_name"))
    .values(next_at=bindparam("new_next_at", type_=_T.next_at.type))
)
_SAVED: Final = (
    "standing", "failures", "failing_since", "last_success_at", "last_failure_at", "last_error", "next_probe_at",
    "next_at", "updated_at",
)  # fmt: skip
_SAVE: Final = (
    update(endpoints)
    .where(_T.name == bindparam("of_name"))
    .values({_T[name]: bindparam(f"new_{name}", type_=_T[name].type) for name in _SAVED})
)


def owner_of(name: str) -> str:
    """Whose callbacks an endpoint of this name hears; empty for the operator's (`domain.callbacks.endpoint_name`)."""
    owner, at, _ = name.partition("@")
    return owner if at else ""


def lock(connection: Connection, names: Iterable[str]) -> dict[str, RowMapping]:
    """These endpoints' rows by name; nobody else changes them, or adds a delivery to them, before we commit."""
    return {row["name"]: row for row in connection.execute(_LOCKED, {"names": sorted(set(names))}).mappings()}


def ensure(connection: Connection, names: Iterable[str], now: datetime) -> dict[str, RowMapping]:
    """As `lock`; those that have no row yet get one."""
    known = lock(connection, names)
    missing = sorted(set(names) - known.keys())
    if not missing:
        return known
    for name in missing:
        connection.execute(insert(endpoints).values(name=name, owner=owner_of(name), created_at=now, updated_at=now))
    return {**known, **lock(connection, missing)}


def wake(connection: Connection, names: Iterable[str], now: datetime) -> None:
    """Something is due there: look at it now, or when its pause is over."""
    connection.execute(_WAKE, {"names": sorted(set(names)), "now": now})


def due(connection: Connection, now: datetime) -> list[RowMapping]:
    """The operator's endpoints at which something is due; `urgent`: whether some of it is."""
    return list(connection.execute(_DUE_OF_OPERATOR, {"now": now}).mappings())


def due_callbacks(
    connection: Connection, now: datetime, owner: str, standing: str, *, busy: Sequence[int], limit: int
) -> list[RowMapping]:
    """A caller's hosts of this standing at which something is due, the longest due first, without the `busy` ones."""
    values = {"now": now, "of_owner": owner, "of_standing": standing, "busy": list(busy), "at_most": limit}
    return list(connection.execute(_DUE_OF_CALLER, values).mappings())


def save(connection: Connection, name: str, **values: object) -> None:
    connection.execute(update(endpoints).where(_T.name == name).values(**values))


def save_health(connection: Connection, name: str, **values: object) -> None:
    """How it is doing after some deliveries, and when it is looked at next."""
    connection.execute(_SAVE, {"of_name": name, **{f"new_{column}": values[column] for column in _SAVED}})


def set_next(connection: Connection, name: str, next_at: datetime | None) -> None:
    connection.execute(_SET_NEXT, {"of_name": name, "new_next_at": next_at})


def prepare(connection: Connection, configured: Mapping[str, bool], callers: Iterable[str], now: datetime) -> None:
    """At a start: the operator's endpoints are those of the config (name, whether enabled there) and those made by API,
    callbacks those of `callers`; all that is enabled is looked at, or when its pause is over."""
    _forget_the_rest(connection, now)
    rows = ensure(connection, configured, now)
    for name, enabled in configured.items():
        save(connection, name, deleted_at=None, **_switched(rows[name], enabled, now))
    mine = select(endpoints).where(_T.owner == "", _T.name.not_in(list(configured)))
    for row in connection.execute(mine).mappings().all():
        save(connection, row["name"], **_switched(row, row["settings"] is not None, now))
    theirs, heard = _T.owner != "", _T.owner.in_(list(callers))
    # Without a secret nothing can be signed: what waits is kept as for an endpoint that is switched off.
    connection.execute(update(endpoints).where(theirs, ~heard, _T.enabled).values(enabled=False, next_at=None))
    again = update(endpoints).where(theirs, heard, or_(_T.next_at.is_not(None), ~_T.enabled))
    connection.execute(again.values(enabled=True, next_at=_FREE_AT), {"now": now})


def _forget_the_rest(connection: Connection, now: datetime) -> None:
    """The time since an endpoint last failed is no time in which it failed: nobody asked it."""
    query = select(_T.name, _T.failing_since, _T.last_failure_at).where(_T.failing_since.is_not(None))
    for name, since, last in connection.execute(query).all():
        if last is not None and since <= last <= now:
            save(connection, name, failing_since=now - (last - since))


def _switched(row: RowMapping, wanted: bool, now: datetime) -> dict[str, object]:
    enabled = wanted and row["disabled_at"] is None and (row["deleted_at"] is None or row["settings"] is None)
    pause = row["next_probe_at"]
    return {"enabled": enabled, "next_at": (pause if pause is not None and pause > now else now) if enabled else None}


def create(
    connection: Connection, name: str, settings: Mapping[str, object], secrets: bytes, now: datetime
) -> RowMapping | None:
    """A new endpoint by API; None when the name is taken, be it by one that is still being removed."""
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    values = {"name": name, "settings": settings, "secrets": secrets, "created_at": now, "updated_at": now}
    made = dialect.insert(endpoints).values(**values).on_conflict_do_nothing(index_elements=["name"])
    return find(connection, name) if connection.execute(made).rowcount else None


def find(connection: Connection, name: str, *, lock: bool = False) -> RowMapping | None:
    """The endpoint of this name that is not deleted; `lock`: nobody else changes it before we commit."""
    query = select(endpoints).where(_T.name == name, _T.deleted_at.is_(None))
    return connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()


def made_by_api(connection: Connection) -> list[RowMapping]:
    """The operator's endpoints that live here, not in the config."""
    query = select(endpoints).where(_T.owner == "", _T.settings.is_not(None), _T.deleted_at.is_(None)).order_by(_T.id)
    return list(connection.execute(query).mappings())


def of_operator(connection: Connection) -> list[RowMapping]:
    query = select(endpoints).where(_T.owner == "", _T.deleted_at.is_(None)).order_by(_T.id)
    return list(connection.execute(query).mappings())


def page_of_callbacks(
    connection: Connection, *, after: int, limit: int, standings: Sequence[str] | None = None
) -> list[RowMapping]:
    """Hosts of callbacks, in the order in which they were first heard of."""
    query = select(endpoints).where(_T.owner != "", _T.id > after).order_by(_T.id).limit(limit)
    if standings is not None:
        query = query.where(_T.standing.in_(standings))
    return list(connection.execute(query).mappings())


def enable(connection: Connection, name: str, now: datetime) -> None:
    """Send again, from what waits now on."""
    save(
        connection,
        name,
        enabled=True,
        next_at=now,
        next_probe_at=None,
        disabled_at=None,
        disabled_reason=None,
        failures=0,
        failing_since=None,
        standing="new",
        updated_at=now,
    )


def disable(connection: Connection, name: str, now: datetime, reason: str) -> None:
    """Send nothing more; what comes from now on waits."""
    save(connection, name, enabled=False, next_at=None, disabled_at=now, disabled_reason=reason[:500], updated_at=now)


def remove(connection: Connection, name: str, now: datetime) -> None:
    """It is gone for everybody; its deliveries are removed by and by (`remove_some`), and then its name is free."""
    connection.execute(delete(replays).where(replays.c.endpoint == name))
    save(connection, name, enabled=False, next_at=None, settings=None, secrets=None, deleted_at=now, updated_at=now)


def some_deleted(connection: Connection) -> str | None:
    """A deleted endpoint of which something is left."""
    query = select(_T.name).where(_T.deleted_at.is_not(None)).order_by(_T.deleted_at).limit(1)
    name: str | None = connection.execute(query).scalar()
    return name


def remove_some(connection: Connection, name: str) -> int:
    """Remove some of what a deleted endpoint has left; with the last of it goes its row."""
    some = select(deliveries.c.id).where(deliveries.c.endpoint == name).limit(REMOVED_AT_ONCE)
    removed = connection.execute(delete(deliveries).where(deliveries.c.id.in_(some.scalar_subquery()))).rowcount
    if removed < REMOVED_AT_ONCE:
        removed += connection.execute(delete(endpoints).where(_T.name == name)).rowcount
    return removed


def forget_hosts(connection: Connection, before: datetime, limit: int) -> int:
    """Remove hosts of callbacks that nothing was sent to since and no delivery is left of."""
    idle = (
        select(_T.id)
        .where(
            _T.owner != "",
            _T.next_at.is_(None),
            _T.updated_at < before,
            ~select(deliveries.c.id).where(deliveries.c.endpoint == _T.name).exists(),
        )
        .limit(limit)
    )
    return connection.execute(delete(endpoints).where(_T.id.in_(idle.scalar_subquery()))).rowcount


def count(connection: Connection) -> int:
    query = select(func.count()).select_from(endpoints).where(_T.owner == "", _T.settings.is_not(None))
    return int(connection.execute(query).scalar_one())


def callbacks_by_standing(connection: Connection) -> dict[str, int]:
    """How many hosts of callbacks there are, by how they are doing."""
    query = select(_T.standing, func.count()).where(_T.owner != "").group_by(_T.standing)
    return {row[0]: row[1] for row in connection.execute(query)}
