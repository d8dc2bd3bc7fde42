"""What a provider's balance proves: the anchor of its books, and the retries of purchases that may be repeated.

Revision ID: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aggregator.storage import types

revision = "0002"
down_revision: str | None = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("reading_id", sa.BigInteger(), nullable=True),
        sa.Column("anchor_id", sa.BigInteger(), nullable=True),
        sa.Column("anchor_units", sa.BigInteger(), nullable=True),
        sa.Column("difference_units", sa.BigInteger(), nullable=True),
        sa.Column("difference_seen", sa.Integer(), server_default="0", nullable=False),
        sa.Column("debits_seen", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_evidence_at", types.Instant(), nullable=True),
    ):
        op.add_column("providers", column)
    op.add_column("attempts", sa.Column("resends", sa.Integer(), server_default="0", nullable=False))
    op.add_column("attempts", sa.Column("next_resend_at", types.Instant(), nullable=True))


def downgrade() -> None:
    raise RuntimeError("go back by restoring the backup made before the upgrade")
