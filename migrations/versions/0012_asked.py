"""Who was asked for the sake of an unclear purchase, and has not been answered for yet; orders that ended lately.

Revision ID: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aggregator.storage import types

revision = "0012"
down_revision: str | None = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    where = sa.text("asked_at IS NOT NULL")
    for table in ("orders", "numbers"):
        op.add_column(table, sa.Column("asked_at", types.Instant(), nullable=True))
        op.create_index(f"ix_{table}_asked", table, ["provider"], sqlite_where=where, postgresql_where=where)
    op.create_index("ix_numbers_created", "numbers", ["provider", "created_at"])
    over = sa.text("finished_at IS NOT NULL")
    op.create_index("ix_orders_over", "orders", ["provider", "updated_at"], sqlite_where=over, postgresql_where=over)


def downgrade() -> None:
    raise RuntimeError("go back by restoring the backup made before the upgrade")
