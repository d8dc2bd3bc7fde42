"""Ids of rented numbers are given when the order is taken, from the numbers of orders: the panel door names them before
anything is rented, and knows orders and numbers by one kind of id.

Revision ID: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision: str | None = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "number_ids",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("order_number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(["order_number"], ["orders.number"], name="fk_number_ids_order_number"),
        sa.PrimaryKeyConstraint("id", name="pk_number_ids"),
    )
    op.create_index("ix_number_ids_order_number", "number_ids", ["order_number"])


def downgrade() -> None:
    raise RuntimeError("go back by restoring the backup made before the upgrade")
