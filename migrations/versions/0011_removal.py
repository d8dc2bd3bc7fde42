"""Finished orders can be removed: the books outlive them, and of what they bought the providers' ids stay known. Which
keys sealed what is stored is known, so that one of them can be changed.

Revision ID: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aggregator.storage import types

revision = "0011"
down_revision: str | None = "0010"
branch_labels = None
depends_on = None

_AT_REST = (
    "finished_at IS NOT NULL AND parent IS NULL AND next_poll_at IS NULL AND next_refill_at IS NULL"
    " AND next_count_at IS NULL AND next_remainder_at IS NULL AND next_sum_at IS NULL"
)


def upgrade() -> None:
    with op.batch_alter_table("ledger") as batch:
        batch.drop_constraint(op.f("fk_ledger_order_number"), type_="foreignkey")
        batch.drop_constraint(op.f("fk_ledger_number_id"), type_="foreignkey")
    op.create_table(
        "removed_purchases",
        sa.Column("provider", sa.String(length=100), nullable=False),
        sa.Column("provider_order", sa.String(length=128), nullable=False),
        sa.Column("order_number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("provider", "provider_order", name=op.f("pk_removed_purchases")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "sealing_keys",
        sa.Column("fingerprint", sa.String(length=32), nullable=False),
        sa.Column("seals", sa.Boolean(), nullable=False),
        sa.Column("since", types.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_sealing_keys")),
    )
    _index("ix_orders_rest", "orders", ["finished_at", "number"], _AT_REST)
    _index("ix_events_of_no_order", "events", ["seq"], "order_number IS NULL")


def _index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    raise RuntimeError("go back by restoring the backup made before the upgrade")
