"""The schema of the first release.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aggregator.storage import types

revision = "0001"
down_revision: str | None = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sequences",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sequences")),
    )
    op.create_table(
        "orders",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.String(length=100), nullable=False),
        sa.Column("service", sa.String(length=100), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("link", sa.Text(), nullable=True),
        sa.Column("params", types.JsonText(), nullable=False),
        sa.Column("reference", sa.String(length=255), nullable=True),
        sa.Column("metadata", types.JsonText(), nullable=False),
        sa.Column("max_cost_units", sa.BigInteger(), nullable=True),
        sa.Column("max_cost_currency", sa.String(length=8), nullable=True),
        sa.Column("pinned_provider", sa.String(length=100), nullable=True),
        sa.Column("callback_url", sa.Text(), nullable=True),
        sa.Column("parent", sa.String(length=40), nullable=True),
        sa.Column("provider", sa.String(length=100), nullable=True),
        sa.Column("provider_service", sa.String(length=128), nullable=True),
        sa.Column("provider_order", sa.String(length=128), nullable=True),
        sa.Column("attempt", sa.String(length=40), nullable=True),
        sa.Column("expected_units", sa.BigInteger(), nullable=True),
        sa.Column("expected_currency", sa.String(length=8), nullable=True),
        sa.Column("charge_units", sa.BigInteger(), nullable=True),
        sa.Column("charge_currency", sa.String(length=8), nullable=True),
        sa.Column("start_count", sa.BigInteger(), nullable=True),
        sa.Column("remains", sa.BigInteger(), nullable=True),
        sa.Column("cancel_state", sa.String(length=16), nullable=True),
        sa.Column("cancel_at", types.Instant(), nullable=True),
        sa.Column("error_type", sa.String(length=64), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("created_at", types.Instant(), nullable=False),
        sa.Column("updated_at", types.Instant(), nullable=False),
        sa.Column("finished_at", types.Instant(), nullable=True),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_route_at", types.Instant(), nullable=True),
        sa.Column("give_up_at", types.Instant(), nullable=True),
        sa.Column("next_poll_at", types.Instant(), nullable=True),
        sa.Column("polls", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_refill_at", types.Instant(), nullable=True),
        sa.Column("claim_token", sa.String(length=40), nullable=True),
        sa.Column("claimed_until", types.Instant(), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('completed', 'partial', 'canceled', 'failed'))",
            name=op.f("ck_orders_end"),
        ),
        sa.CheckConstraint(
            "(state = 'accepted') = (next_route_at IS NOT NULL)", name=op.f("ck_orders_routed_while_accepted")
        ),
        sa.CheckConstraint("kind IN ('smm', 'product', 'sms')", name=op.f("ck_orders_kind")),
        sa.CheckConstraint(
            "state IN ('accepted', 'placing', 'unclear', 'pending', 'processing', 'in_progress', 'completed', "
            "'partial', 'canceled', 'failed')",
            name=op.f("ck_orders_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('pending', 'processing', 'in_progress') OR provider_order IS NOT NULL",
            name=op.f("ck_orders_followed_has_id"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('placing', 'unclear', 'pending', 'processing', 'in_progress') OR attempt IS NOT NULL",
            name=op.f("ck_orders_live_has_attempt"),
        ),
        sa.CheckConstraint("(charge_units IS NULL) = (charge_currency IS NULL)", name=op.f("ck_orders_charge")),
        sa.CheckConstraint("(expected_units IS NULL) = (expected_currency IS NULL)", name=op.f("ck_orders_expected")),
        sa.CheckConstraint("(max_cost_units IS NULL) = (max_cost_currency IS NULL)", name=op.f("ck_orders_max_cost")),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_orders_quantity")),
        sa.CheckConstraint("sequence >= 1", name=op.f("ck_orders_sequence")),
        sa.ForeignKeyConstraint(["parent"], ["orders.id"], name=op.f("fk_orders_parent")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_orders")),
        sa.UniqueConstraint("id", name=op.f("uq_orders_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_orders_created", "orders", ["created_at"], unique=False)
    op.create_index("ix_orders_owner", "orders", ["owner", "number"], unique=False)
    op.create_index(
        "ix_orders_owner_open",
        "orders",
        ["owner"],
        unique=False,
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_index(
        "ix_orders_parent",
        "orders",
        ["parent"],
        unique=False,
        sqlite_where=sa.text("parent IS NOT NULL"),
        postgresql_where=sa.text("parent IS NOT NULL"),
    )
    op.create_index(
        "ix_orders_poll",
        "orders",
        ["provider", "next_poll_at"],
        unique=False,
        sqlite_where=sa.text("next_poll_at IS NOT NULL"),
        postgresql_where=sa.text("next_poll_at IS NOT NULL"),
    )
    op.create_index("ix_orders_provider_order", "orders", ["provider", "provider_order"], unique=False)
    op.create_index(
        "ix_orders_reference",
        "orders",
        ["reference"],
        unique=False,
        sqlite_where=sa.text("reference IS NOT NULL"),
        postgresql_where=sa.text("reference IS NOT NULL"),
    )
    op.create_index(
        "ix_orders_refill",
        "orders",
        ["next_refill_at"],
        unique=False,
        sqlite_where=sa.text("next_refill_at IS NOT NULL"),
        postgresql_where=sa.text("next_refill_at IS NOT NULL"),
    )
    op.create_index(
        "ix_orders_route",
        "orders",
        ["next_route_at"],
        unique=False,
        sqlite_where=sa.text("state = 'accepted'"),
        postgresql_where=sa.text("state = 'accepted'"),
    )
    op.create_index("ix_orders_service", "orders", ["service", "number"], unique=False)
    op.create_index("ix_orders_state", "orders", ["state", "number"], unique=False)
    op.create_index(
        "ix_orders_unclear",
        "orders",
        ["number"],
        unique=False,
        sqlite_where=sa.text("state IN ('placing', 'unclear')"),
        postgresql_where=sa.text("state IN ('placing', 'unclear')"),
    )
    op.create_table(
        "provider_services",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("provider", sa.String(length=100), nullable=False),
        sa.Column("service", sa.String(length=128), nullable=False),
        sa.Column("country", sa.String(length=32), server_default="", nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("type", sa.String(length=100), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("subcategory", sa.Text(), server_default="", nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("rate_units", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.String(length=8), nullable=False),
        sa.Column("minimum", sa.BigInteger(), nullable=False),
        sa.Column("maximum", sa.BigInteger(), nullable=False),
        sa.Column("refill", sa.Boolean(), nullable=False),
        sa.Column("cancel", sa.Boolean(), nullable=False),
        sa.Column("has_stock", sa.Boolean(), nullable=False),
        sa.Column("stock", sa.BigInteger(), nullable=True),
        sa.Column("stock_at", types.Instant(), nullable=True),
        sa.Column("auto_delivery", sa.Boolean(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("missing", sa.Integer(), server_default="0", nullable=False),
        sa.Column("first_seen_at", types.Instant(), nullable=False),
        sa.Column("seen_at", types.Instant(), nullable=False),
        sa.CheckConstraint("kind IN ('smm', 'product', 'sms')", name=op.f("ck_provider_services_kind")),
        sa.CheckConstraint("missing >= 0", name=op.f("ck_provider_services_missing")),
        sa.CheckConstraint("rate_units IS NULL OR rate_units >= 0", name=op.f("ck_provider_services_rate")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_provider_services")),
        sa.UniqueConstraint(
            "provider", "service", "country", name=op.f("uq_provider_services_provider_service_country")
        ),
    )
    op.create_table(
        "providers",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("down_since", types.Instant(), nullable=True),
        sa.Column("down_reason", sa.Text(), nullable=True),
        sa.Column("open_until", types.Instant(), nullable=True),
        sa.Column("balance_units", sa.BigInteger(), nullable=True),
        sa.Column("balance_currency", sa.String(length=8), nullable=True),
        sa.Column("balance_at", types.Instant(), nullable=True),
        sa.Column("balance_low", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("next_balance_at", types.Instant(), nullable=True),
        sa.Column("catalogue_at", types.Instant(), nullable=True),
        sa.Column("catalogue_rows", sa.Integer(), nullable=True),
        sa.Column("catalogue_error", sa.Text(), nullable=True),
        sa.Column("next_catalogue_at", types.Instant(), nullable=True),
        sa.Column("batch_mode", sa.String(length=16), nullable=True),
        sa.Column("updated_at", types.Instant(), nullable=False),
        sa.CheckConstraint("failures >= 0", name=op.f("ck_providers_failures")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_providers")),
    )
    op.create_table(
        "accounts",
        sa.Column("order_number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("delivered_at", types.Instant(), nullable=False),
        sa.ForeignKeyConstraint(["order_number"], ["orders.number"], name=op.f("fk_accounts_order_number")),
        sa.PrimaryKeyConstraint("order_number", "ordinal", name=op.f("pk_accounts")),
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("order_number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("provider", sa.String(length=100), nullable=True),
        sa.Column("service", sa.String(length=128), nullable=True),
        sa.Column("country", sa.String(length=32), nullable=True),
        sa.Column("expected_units", sa.BigInteger(), nullable=True),
        sa.Column("expected_currency", sa.String(length=8), nullable=True),
        sa.Column("cost_units", sa.BigInteger(), nullable=True),
        sa.Column("cost_currency", sa.String(length=8), nullable=True),
        sa.Column("candidates", types.JsonText(), nullable=False),
        sa.Column("seen", sa.Integer(), server_default="1", nullable=False),
        sa.Column("outcome", sa.String(length=32), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("consequence", sa.String(length=16), nullable=True),
        sa.Column("provider_order", sa.String(length=128), nullable=True),
        sa.Column("exchange", types.JsonText(), nullable=True),
        sa.Column("evidence", types.JsonText(), nullable=True),
        sa.Column("created_at", types.Instant(), nullable=False),
        sa.Column("sent_at", types.Instant(), nullable=True),
        sa.Column("finished_at", types.Instant(), nullable=True),
        sa.Column("claim_token", sa.String(length=40), nullable=True),
        sa.Column("claimed_until", types.Instant(), nullable=True),
        sa.CheckConstraint("(state = 'no_offer') = (provider IS NULL)", name=op.f("ck_attempts_provider")),
        sa.CheckConstraint("state <> 'placed' OR provider_order IS NOT NULL", name=op.f("ck_attempts_placed_has_id")),
        sa.CheckConstraint(
            "state IN ('no_offer', 'planned', 'placing', 'placed', 'refused', 'not_sent', 'unclear', "
            "'not_placed', 'dropped')",
            name=op.f("ck_attempts_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('placing', 'unclear', 'placed', 'refused') OR sent_at IS NOT NULL",
            name=op.f("ck_attempts_sent"),
        ),
        sa.ForeignKeyConstraint(["order_number"], ["orders.number"], name=op.f("fk_attempts_order_number")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
        sa.UniqueConstraint("order_number", "ordinal", name=op.f("uq_attempts_order_number_ordinal")),
    )
    op.create_index(
        "ix_attempts_work",
        "attempts",
        ["provider", "order_number"],
        unique=False,
        sqlite_where=sa.text("state IN ('planned', 'placing', 'unclear')"),
        postgresql_where=sa.text("state IN ('planned', 'placing', 'unclear')"),
    )
    op.create_index(
        "uq_attempts_live",
        "attempts",
        ["order_number"],
        unique=True,
        sqlite_where=sa.text("state IN ('planned', 'placing', 'placed', 'unclear')"),
        postgresql_where=sa.text("state IN ('planned', 'placing', 'placed', 'unclear')"),
    )
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=True),
        sa.Column("order_number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("sequence", sa.Integer(), nullable=True),
        sa.Column("type", sa.String(length=40), nullable=False),
        sa.Column("lane", sa.String(length=64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", types.Instant(), nullable=False),
        sa.CheckConstraint("(order_number IS NULL) = (sequence IS NULL)", name=op.f("ck_events_sequence")),
        sa.ForeignKeyConstraint(["order_number"], ["orders.number"], name=op.f("fk_events_order_number")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_events")),
        sa.UniqueConstraint("id", name=op.f("uq_events_id")),
        sa.UniqueConstraint("order_number", "sequence", name=op.f("uq_events_order_number_sequence")),
        sa.UniqueConstraint("position", name=op.f("uq_events_position")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_events_unsequenced",
        "events",
        ["seq"],
        unique=False,
        sqlite_where=sa.text("position IS NULL"),
        postgresql_where=sa.text("position IS NULL"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.String(length=100), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", types.JsonText(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("order_number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("created_at", types.Instant(), nullable=False),
        sa.ForeignKeyConstraint(["order_number"], ["orders.number"], name=op.f("fk_idempotency_keys_order_number")),
        sa.PrimaryKeyConstraint("owner", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_table(
        "numbers",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("order_number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("provider", sa.String(length=100), nullable=False),
        sa.Column("provider_order", sa.String(length=128), nullable=False),
        sa.Column("phone", sa.String(length=64), nullable=False),
        sa.Column("country", sa.String(length=32), server_default="", nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("codes", types.JsonText(), nullable=False),
        sa.Column("charge_units", sa.BigInteger(), nullable=True),
        sa.Column("charge_currency", sa.String(length=8), nullable=True),
        sa.Column("expires_at", types.Instant(), nullable=True),
        sa.Column("created_at", types.Instant(), nullable=False),
        sa.Column("next_check_at", types.Instant(), nullable=True),
        sa.Column("checks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("claim_token", sa.String(length=40), nullable=True),
        sa.Column("claimed_until", types.Instant(), nullable=True),
        sa.CheckConstraint("state IN ('waiting', 'received', 'expired', 'canceled')", name=op.f("ck_numbers_state")),
        sa.ForeignKeyConstraint(["order_number"], ["orders.number"], name=op.f("fk_numbers_order_number")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_numbers")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_numbers_check",
        "numbers",
        ["provider", "next_check_at"],
        unique=False,
        sqlite_where=sa.text("next_check_at IS NOT NULL"),
        postgresql_where=sa.text("next_check_at IS NOT NULL"),
    )
    op.create_index("ix_numbers_order_number", "numbers", ["order_number"], unique=False)
    op.create_index("ix_numbers_provider_order", "numbers", ["provider", "provider_order"], unique=False)
    op.create_table(
        "prices",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("provider_service", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("rate_units", sa.BigInteger(), nullable=True),
        sa.Column("stock", sa.BigInteger(), nullable=True),
        sa.Column("at", types.Instant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["provider_service"], ["provider_services.id"], name=op.f("fk_prices_provider_service"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prices")),
    )
    op.create_index("ix_prices_provider_service_at", "prices", ["provider_service", "at"], unique=False)
    op.create_table(
        "refills",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("order_number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("provider", sa.String(length=100), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("provider_refill", sa.String(length=128), nullable=True),
        sa.Column("dropped", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.String(length=32), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("exchange", types.JsonText(), nullable=True),
        sa.Column("requested_at", types.Instant(), nullable=False),
        sa.Column("sent_at", types.Instant(), nullable=True),
        sa.Column("finished_at", types.Instant(), nullable=True),
        sa.Column("next_poll_at", types.Instant(), nullable=True),
        sa.Column("polls", sa.Integer(), server_default="0", nullable=False),
        sa.Column("claim_token", sa.String(length=40), nullable=True),
        sa.Column("claimed_until", types.Instant(), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('completed', 'rejected'))", name=op.f("ck_refills_end")
        ),
        sa.CheckConstraint(
            "state IN ('requested', 'unclear', 'pending', 'in_progress', 'completed', 'rejected')",
            name=op.f("ck_refills_state"),
        ),
        sa.ForeignKeyConstraint(["order_number"], ["orders.number"], name=op.f("fk_refills_order_number")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_refills")),
        sa.UniqueConstraint("id", name=op.f("uq_refills_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_refills_order_number", "refills", ["order_number"], unique=False)
    op.create_index(
        "ix_refills_poll",
        "refills",
        ["provider", "next_poll_at"],
        unique=False,
        sqlite_where=sa.text("next_poll_at IS NOT NULL"),
        postgresql_where=sa.text("next_poll_at IS NOT NULL"),
    )
    op.create_index(
        "uq_refills_open",
        "refills",
        ["order_number"],
        unique=True,
        sqlite_where=sa.text("state IN ('requested', 'unclear', 'pending', 'in_progress')"),
        postgresql_where=sa.text("state IN ('requested', 'unclear', 'pending', 'in_progress')"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event_seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("endpoint", sa.String(length=140), nullable=False),
        sa.Column("lane", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", types.Instant(), nullable=True),
        sa.Column("hold_until", types.Instant(), nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("last_ms", sa.Integer(), nullable=True),
        sa.Column("created_at", types.Instant(), nullable=False),
        sa.Column("finished_at", types.Instant(), nullable=True),
        sa.Column("claim_token", sa.String(length=40), nullable=True),
        sa.Column("claimed_until", types.Instant(), nullable=True),
        sa.CheckConstraint("(state = 'pending') = (next_at IS NOT NULL)", name=op.f("ck_deliveries_due_while_pending")),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'parked')", name=op.f("ck_deliveries_state")),
        sa.ForeignKeyConstraint(["event_seq"], ["events.seq"], name=op.f("fk_deliveries_event_seq")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("endpoint", "event_seq", name=op.f("uq_deliveries_endpoint_event_seq")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_deliveries_due",
        "deliveries",
        ["endpoint", "next_at"],
        unique=False,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "ix_deliveries_lane",
        "deliveries",
        ["endpoint", "lane", "id"],
        unique=False,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "ledger",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("provider", sa.String(length=100), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=8), nullable=False),
        sa.Column("order_number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("number_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("at", types.Instant(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('reading', 'charge', 'refund', 'top_up', 'unexplained')", name=op.f("ck_ledger_kind")
        ),
        sa.ForeignKeyConstraint(["number_id"], ["numbers.id"], name=op.f("fk_ledger_number_id")),
        sa.ForeignKeyConstraint(["order_number"], ["orders.number"], name=op.f("fk_ledger_order_number")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
    )
    op.create_index("ix_ledger_provider_id", "ledger", ["provider", "id"], unique=False)


def downgrade() -> None:
    raise RuntimeError("go back by restoring the backup made before the upgrade")
