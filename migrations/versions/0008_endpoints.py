"""Endpoints have a state of their own, callers' hosts among them; deliveries keep what was answered; replays by steps.

Revision ID: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aggregator.storage import types

revision = "0008"
down_revision: str | None = "0007"
branch_labels = None
depends_on = None

BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("last_at", types.Instant(), nullable=True))
    op.add_column("deliveries", sa.Column("last_excerpt", sa.Text(), nullable=True))
    op.add_column("deliveries", sa.Column("urgent", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.drop_index("ix_deliveries_lane", "deliveries")
    for name, columns, condition in (
        ("ix_deliveries_urgent", ["endpoint", "next_at", "id"], "state = 'pending' AND urgent"),
        ("ix_deliveries_lane", ["endpoint", "lane", "event_seq"], "state = 'pending'"),
        ("ix_deliveries_parked", ["endpoint", "event_seq"], "state = 'parked'"),
    ):
        _index(name, "deliveries", columns, condition)
    op.create_index("ix_deliveries_event_seq", "deliveries", ["event_seq"])
    op.create_table(
        "endpoints",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("name", sa.String(length=140), nullable=False),
        sa.Column("owner", sa.String(length=100), server_default="", nullable=False),
        sa.Column("settings", types.JsonText(), nullable=True),
        sa.Column("secrets", sa.LargeBinary(), nullable=True),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("disabled_at", types.Instant(), nullable=True),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("standing", sa.String(length=8), server_default="new", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failing_since", types.Instant(), nullable=True),
        sa.Column("last_success_at", types.Instant(), nullable=True),
        sa.Column("last_failure_at", types.Instant(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("next_at", types.Instant(), nullable=True),
        sa.Column("next_probe_at", types.Instant(), nullable=True),
        sa.Column("deleted_at", types.Instant(), nullable=True),
        sa.Column("created_at", types.Instant(), nullable=False),
        sa.Column("updated_at", types.Instant(), nullable=False),
        sa.CheckConstraint("standing IN ('new', 'good', 'failing')", name=op.f("ck_endpoints_standing")),
        sa.CheckConstraint("enabled OR next_at IS NULL", name=op.f("ck_endpoints_left_alone")),
        sa.CheckConstraint("deleted_at IS NULL OR NOT enabled", name=op.f("ck_endpoints_deleted")),
        sa.CheckConstraint("(failing_since IS NOT NULL) = (standing = 'failing')", name=op.f("ck_endpoints_failing")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoints")),
        sa.UniqueConstraint("name", name=op.f("uq_endpoints_name")),
        sqlite_autoincrement=True,
    )
    _index("ix_endpoints_due", "endpoints", ["owner", "standing", "next_at", "id"], "next_at IS NOT NULL")
    _index("ix_endpoints_deleted", "endpoints", ["deleted_at"], "deleted_at IS NOT NULL")
    op.create_index("ix_endpoints_owner", "endpoints", ["owner", "id"])
    op.create_table(
        "replays",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("endpoint", sa.String(length=140), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("after", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("since", types.Instant(), nullable=True),
        sa.Column("created_at", types.Instant(), nullable=False),
        sa.CheckConstraint("kind IN ('events', 'parked', 'waiting')", name=op.f("ck_replays_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replays")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_replays_endpoint", "replays", ["endpoint"])


def _index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    raise RuntimeError("go back by restoring the backup made before the upgrade")
