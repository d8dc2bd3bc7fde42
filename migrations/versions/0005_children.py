"""Parents, runs and remainders; cancels that are asked for; orders with runs count the pieces of all of them.

Revision ID: 0005
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from alembic import op

from aggregator.storage import types

revision = "0005"
down_revision: str | None = "0004"
branch_labels = None
depends_on = None

BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_CHANGED: Final = {
    "routed_while_accepted": "(state = 'accepted' AND role <> 'parent') = (next_route_at IS NOT NULL)",
    "followed_has_id": "state NOT IN ('pending', 'processing', 'in_progress') OR provider_order IS NOT NULL"
    " OR role = 'parent'",
    "live_has_attempt": "state NOT IN ('placing', 'unclear', 'pending', 'processing', 'in_progress')"
    " OR attempt IS NOT NULL OR role = 'parent'",
}
_NEW: Final = {
    "role": "role IN ('order', 'parent', 'run', 'remainder')",
    "parent_buys_nothing": "role <> 'parent' OR (attempt IS NULL AND provider IS NULL AND provider_order IS NULL"
    " AND next_poll_at IS NULL AND next_remainder_at IS NULL)",
    "only_parents_run": "role = 'parent' OR (next_run_at IS NULL AND next_sum_at IS NULL)",
    "runs_while_open": "next_run_at IS NULL OR finished_at IS NULL",
    "child_has_parent": "(role IN ('run', 'remainder')) = (parent IS NOT NULL)"
    " AND (parent IS NULL) = (ordinal IS NULL)",
}


def _columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("role", sa.String(length=10), server_default="order", nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=True),
        sa.Column("provider_children", types.JsonText(), nullable=True),
        sa.Column("next_run_at", types.Instant(), nullable=True),
        sa.Column("next_sum_at", types.Instant(), nullable=True),
        sa.Column("next_remainder_at", types.Instant(), nullable=True),
    )


def upgrade() -> None:
    connection = op.get_bind()
    op.drop_index("ix_orders_parent", "orders")
    # Nothing has made children so far; whatever somebody wrote there by hand cannot be told apart as a run.
    connection.execute(sa.text("UPDATE orders SET parent = NULL WHERE parent IS NOT NULL"))
    with (
        _numbers_kept(connection),
        op.batch_alter_table("orders", table_kwargs={"sqlite_autoincrement": True}) as batch,
    ):
        for column in _columns():
            batch.add_column(column)
        for name in _CHANGED:
            batch.drop_constraint(op.f(f"ck_orders_{name}"), type_="check")
        for name, condition in {**_CHANGED, **_NEW}.items():
            batch.create_check_constraint(op.f(f"ck_orders_{name}"), condition)
    _index("uq_orders_child", "orders", ["parent", "role", "ordinal"], "parent IS NOT NULL", unique=True)
    _index("ix_orders_run", "orders", ["next_run_at"], "next_run_at IS NOT NULL")
    _index("ix_orders_sum", "orders", ["next_sum_at"], "next_sum_at IS NOT NULL")
    _index("ix_orders_remainder", "orders", ["next_remainder_at"], "next_remainder_at IS NOT NULL")
    _count_all_runs(connection)
    op.create_table(
        "cancels",
        sa.Column("number", BIG_KEY, nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("order_number", BIG_KEY, nullable=False),
        sa.Column("provider", sa.String(length=100), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("outcome", sa.String(length=32), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("exchange", types.JsonText(), nullable=True),
        sa.Column("requested_at", types.Instant(), nullable=False),
        sa.Column("sent_at", types.Instant(), nullable=True),
        sa.Column("finished_at", types.Instant(), nullable=True),
        sa.Column("next_at", types.Instant(), nullable=True),
        sa.Column("polls", sa.Integer(), server_default="0", nullable=False),
        sa.Column("claim_token", sa.String(length=40), nullable=True),
        sa.Column("claimed_until", types.Instant(), nullable=True),
        sa.CheckConstraint("state IN ('requested', 'unclear', 'asked', 'refused')", name=op.f("ck_cancels_state")),
        sa.CheckConstraint(
            "state <> 'requested' OR (finished_at IS NULL AND next_at IS NOT NULL)",
            name=op.f("ck_cancels_due_while_requested"),
        ),
        sa.CheckConstraint("state NOT IN ('asked', 'refused') OR finished_at IS NOT NULL", name=op.f("ck_cancels_end")),
        sa.CheckConstraint("state NOT IN ('unclear', 'asked') OR sent_at IS NOT NULL", name=op.f("ck_cancels_sent")),
        sa.ForeignKeyConstraint(["order_number"], ["orders.number"], name=op.f("fk_cancels_order_number")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_cancels")),
        sa.UniqueConstraint("id", name=op.f("uq_cancels_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_cancels_order_number", "cancels", ["order_number"])
    _index("uq_cancels_open", "cancels", ["order_number"], "finished_at IS NULL", unique=True)
    _index("ix_cancels_due", "cancels", ["provider", "next_at"], "next_at IS NOT NULL")


@contextmanager
def _numbers_kept(connection: sa.Connection) -> Iterator[None]:
    """SQLite builds a table anew to change its constraints, and forgets which numbers it has given."""
    if connection.dialect.name != "sqlite":
        yield
        return
    highest = connection.execute(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'orders'")).scalar()
    yield
    if highest is not None:
        connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = 'orders'"))
        connection.execute(sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES ('orders', :seq)"), {"seq": highest})


def _index(name: str, table: str, columns: list[str], condition: str, *, unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, unique=unique, sqlite_where=where, postgresql_where=where)


def _count_all_runs(connection: sa.Connection) -> None:
    """The quantity of an order with runs was that of one run; now it is that of all, as its provider counts it."""
    found = connection.execute(sa.text("SELECT number, params FROM orders WHERE params LIKE '%\"runs\"%'"))
    for number, params in found.all():
        text = str(json.loads(params).get("runs", ""))
        if text.isascii() and text.isdigit() and int(text) > 1:
            connection.execute(
                sa.text("UPDATE orders SET quantity = quantity * :runs WHERE number = :number"),
                {"runs": int(text), "number": number},
            )


def downgrade() -> None:
    raise RuntimeError("go back by restoring the backup made before the upgrade")
