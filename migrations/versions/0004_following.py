"""Orders followed to their end: histories of offers, words nobody knows, counts, cancels, quarantine.

Revision ID: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aggregator.storage import types

revision = "0004"
down_revision: str | None = "0003"
branch_labels = None
depends_on = None

BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for column in (
        sa.Column("placed_at", types.Instant(), nullable=True),
        sa.Column("stuck_at", types.Instant(), nullable=True),
        sa.Column("alone_since", types.Instant(), nullable=True),
        sa.Column("count", sa.BigInteger(), nullable=True),
        sa.Column("count_at", types.Instant(), nullable=True),
        sa.Column("next_count_at", types.Instant(), nullable=True),
    ):
        op.add_column("orders", column)
    op.create_index("ix_orders_link", "orders", ["link"], postgresql_using="hash")
    op.drop_index("ix_orders_poll", "orders")
    for name, columns, condition in (
        ("ix_orders_poll", ["provider", "next_poll_at"], "next_poll_at IS NOT NULL AND finished_at IS NULL"),
        ("ix_orders_reread", ["provider", "next_poll_at"], "next_poll_at IS NOT NULL AND finished_at IS NOT NULL"),
        ("ix_orders_alone", ["provider", "next_poll_at"], "next_poll_at IS NOT NULL AND alone_since IS NOT NULL"),
        ("ix_orders_count", ["next_count_at"], "next_count_at IS NOT NULL"),
        ("ix_orders_stuck", ["stuck_at"], "stuck_at IS NOT NULL"),
    ):
        where = sa.text(condition)
        op.create_index(name, "orders", columns, sqlite_where=where, postgresql_where=where)
    op.add_column("providers", sa.Column("batch_limit", sa.Integer(), nullable=True))
    op.add_column("providers", sa.Column("batch_at", types.Instant(), nullable=True))
    for shrunk in ("services_shrunk", "numbers_shrunk"):
        op.add_column("providers", sa.Column(shrunk, sa.Integer(), server_default="0", nullable=False))
    for column in (
        sa.Column("accepted", types.JsonText(), nullable=True),
        sa.Column("doubts", sa.Integer(), server_default="0", nullable=False),
    ):
        op.add_column("provider_services", column)
    op.create_table(
        "offer_history",
        sa.Column("provider", sa.String(length=100), nullable=False),
        sa.Column("service", sa.String(length=128), nullable=False),
        sa.Column("completed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("partial", sa.Integer(), server_default="0", nullable=False),
        sa.Column("canceled", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("ordered", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("delivered", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("duration_s", sa.Integer(), nullable=True),
        sa.Column("updated_at", types.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("provider", "service", name=op.f("pk_offer_history")),
    )
    op.create_table(
        "unknown_words",
        sa.Column("provider", sa.String(length=100), nullable=False),
        sa.Column("word", sa.String(length=100), nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.Column("order_number", sa.BigInteger(), nullable=True),
        sa.Column("first_at", types.Instant(), nullable=False),
        sa.Column("last_at", types.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("provider", "word", name=op.f("pk_unknown_words")),
    )


def downgrade() -> None:
    raise RuntimeError("go back by restoring the backup made before the upgrade")
