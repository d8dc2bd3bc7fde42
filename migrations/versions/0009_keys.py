"""Idempotency keys by their hash, a few bytes each; the answer to one order is made again of the order.

Answers that were stored stay as they were given.

Revision ID: 0009
"""

from __future__ import annotations

import hashlib
from typing import Any

import sqlalchemy as sa
from alembic import op

from aggregator.storage.types import Instant

revision = "0009"
down_revision: str | None = "0008"
branch_labels = None
depends_on = None

_AT_ONCE = 1000


def upgrade() -> None:
    op.rename_table("idempotency_keys", "old_keys")
    if op.get_bind().dialect.name == "postgresql":
        # Its constraints would keep the names that those of the new one take.
        op.execute("ALTER TABLE old_keys DROP CONSTRAINT pk_idempotency_keys")
        for column in ("fingerprint", "created_at"):
            op.execute(f"ALTER TABLE old_keys ALTER COLUMN {column} DROP NOT NULL")
    made = op.create_table(
        "idempotency_keys",
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("body", sa.Text),
        sa.Column("order_number", sa.BigInteger),
        sa.Column("created_at", Instant, nullable=False),
        sa.CheckConstraint("(status IS NULL) = (body IS NULL)", name=op.f("ck_idempotency_keys_whole_answer")),
        sa.CheckConstraint(
            "body IS NOT NULL OR order_number IS NOT NULL", name=op.f("ck_idempotency_keys_can_be_answered")
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_idempotency_keys")),
        sqlite_with_rowid=False,
    )
    for name, column, condition in (
        ("ix_idempotency_keys_order_number", "order_number", "order_number IS NOT NULL"),
        ("ix_idempotency_keys_created_at", "created_at", "order_number IS NULL"),
    ):
        where = sa.text(condition)
        op.create_index(name, "idempotency_keys", [column], sqlite_where=where, postgresql_where=where)
    _take_over(op.get_bind(), made)
    op.drop_table("old_keys")


def _take_over(connection: sa.Connection, made: sa.Table) -> None:
    old = sa.table(
        "old_keys",
        sa.column("owner", sa.String),
        sa.column("key", sa.String),
        sa.column("fingerprint", sa.String),
        sa.column("status", sa.Integer),
        sa.column("body", sa.Text),
        sa.column("order_number", sa.BigInteger),
        sa.column("created_at", Instant),
    )
    place = sa.tuple_(old.c.owner, old.c.key)
    after: tuple[str, str] | None = None
    while True:
        query = sa.select(old).order_by(old.c.owner, old.c.key).limit(_AT_ONCE)
        if after is not None:
            query = query.where(place > after)
        rows = connection.execute(query).all()
        if not rows:
            return
        connection.execute(sa.insert(made), [_row(row) for row in rows])
        after = rows[-1].owner, rows[-1].key


def _row(row: Any) -> dict[str, Any]:
    """As aggregator/storage/idempotency.py writes them."""
    name = hashlib.sha256(row.owner.encode() + b"\0" + row.key.encode()).digest()
    return {
        "digest": name[:16],
        "fingerprint": bytes.fromhex(row.fingerprint)[:16],
        "status": row.status,
        "body": row.body,
        "order_number": row.order_number,
        "created_at": row.created_at,
    }


def downgrade() -> None:
    raise RuntimeError("go back by restoring the backup made before the upgrade")
