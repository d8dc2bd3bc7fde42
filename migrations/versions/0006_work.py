"""Work is found by indexes of its own size, however much history there is.

Revision ID: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision: str | None = "0005"
branch_labels = None
depends_on = None


def _index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    for table in ("orders", "attempts", "numbers", "refills", "cancels", "deliveries"):
        _index(f"ix_{table}_claim", table, ["claimed_until"], "claim_token IS NOT NULL")
    _index("ix_orders_open", "orders", ["provider"], "finished_at IS NULL")
    _index("ix_attempts_sent", "attempts", ["provider", "sent_at"], "sent_at IS NOT NULL")
    _index("ix_refills_asked", "refills", ["sent_at"], "state = 'requested'")
    _index("ix_cancels_asked", "cancels", ["sent_at"], "state = 'requested'")


def downgrade() -> None:
    raise RuntimeError("go back by restoring the backup made before the upgrade")
