"""What is due at the same instant is found in its order without sorting: thousands may be, after an outage.

Revision ID: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision: str | None = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, table, columns, condition in (
        ("ix_orders_route", "orders", ["next_route_at", "number"], "state = 'accepted'"),
        (
            "ix_orders_poll",
            "orders",
            ["provider", "next_poll_at", "number"],
            "next_poll_at IS NOT NULL AND finished_at IS NULL",
        ),
        (
            "ix_orders_reread",
            "orders",
            ["provider", "next_poll_at", "number"],
            "next_poll_at IS NOT NULL AND finished_at IS NOT NULL",
        ),
        (
            "ix_orders_alone",
            "orders",
            ["provider", "next_poll_at", "number"],
            "next_poll_at IS NOT NULL AND alone_since IS NOT NULL",
        ),
        # By the state: as an index over all that is not finished, PostgreSQL would take it for what is due, too.
        (
            "ix_orders_open",
            "orders",
            ["provider"],
            "state IN ('placing', 'unclear', 'pending', 'processing', 'in_progress')",
        ),
        ("ix_deliveries_due", "deliveries", ["endpoint", "next_at", "id"], "state = 'pending'"),
    ):
        op.drop_index(name, table)
        where = sa.text(condition)
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    raise RuntimeError("go back by restoring the backup made before the upgrade")
