"""What charges and refunds teach: real prices per offer, how a provider reports a refund; orders found in the ledger.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aggregator.storage import types

revision = "0003"
down_revision: str | None = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("rate_units", sa.BigInteger(), nullable=True))
    for column in (
        sa.Column("charges", types.JsonText(), nullable=True),
        sa.Column("learned_per", sa.Integer(), nullable=True),
        sa.Column("charged_rate_units", sa.BigInteger(), nullable=True),
    ):
        op.add_column("provider_services", column)
    op.add_column("providers", sa.Column("net_refunds", sa.Integer(), server_default="0", nullable=False))
    op.add_column("providers", sa.Column("gross_refunds", sa.Integer(), server_default="0", nullable=False))
    op.create_index(
        "ix_ledger_order_number",
        "ledger",
        ["order_number"],
        sqlite_where=sa.text("order_number IS NOT NULL"),
        postgresql_where=sa.text("order_number IS NOT NULL"),
    )


def downgrade() -> None:
    raise RuntimeError("go back by restoring the backup made before the upgrade")
