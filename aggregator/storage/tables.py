"""Every table, with the constraints that make wrong states hard to hold; alembic's target.

Amounts are BIGINT counts of 10^-8 units beside a currency. Due times (`next_*_at`) and claims (`claim_token`,
`claimed_until`) are columns, so a stage's work is a query and a crash loses none of it. History stays behind partial
indexes.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)

from aggregator.domain.numbers import NumberState
from aggregator.domain.orders import OrderState, Role
from aggregator.storage.types import Instant, JsonText

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# `sqlite_autoincrement` keeps a number that was once given from being given again after its row is gone.
# SQLite numbers rows by itself only in a column that is INTEGER to the letter.
BigKey: Final = BigInteger().with_variant(Integer, "sqlite")


def one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


ORDER_STATES: Final = tuple(str(state) for state in OrderState)
ATTEMPT_STATES: Final = (
    "no_offer",  # nobody could take the order; kept for its reasons
    "planned",  # chosen, nothing sent
    "placing",  # committed before the first byte leaves
    "placed",
    "refused",
    "not_sent",
    "unclear",
    "not_placed",  # was unclear; proved or declared not to have bought
    "dropped",  # was planned; its order ended or the plan went stale before anything was sent
)
LIVE_ATTEMPT: Final = "state IN ('planned', 'placing', 'placed', 'unclear')"
ORDER_ROLES: Final = tuple(str(role) for role in Role)
CANCEL_STATES: Final = ("requested", "unclear", "asked", "refused")
OPEN_ORDER: Final = "state IN ('placing', 'unclear', 'pending', 'processing', 'in_progress')"
WORK_ATTEMPT: Final = "state IN ('planned', 'placing', 'unclear')"
CLAIM: Final = "claim_token IS NOT NULL"
AT_REST: Final = (
    "finished_at IS NOT NULL AND parent IS NULL AND next_poll_at IS NULL AND next_refill_at IS NULL"
    " AND next_count_at IS NULL AND next_remainder_at IS NULL AND next_sum_at IS NULL"
)
"""Orders that nobody looks after any more, children aside: they go with their parent."""
REFILL_STATES: Final = ("requested", "unclear", "pending", "in_progress", "completed", "rejected")
OPEN_REFILL: Final = "state IN ('requested', 'unclear', 'pending', 'in_progress')"
DELIVERY_STATES: Final = ("pending", "delivered", "parked")
ENDPOINT_STANDINGS: Final = (
    "new",  # never heard of
    "good",  # its last answer was a success
    "failing",
)
REPLAY_KINDS: Final = ("events", "parked", "waiting")
LEDGER_KINDS: Final = ("reading", "charge", "refund", "top_up", "unexplained")


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index over the rows that still matter, the same on both databases."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


def claim_columns() -> tuple[Column[object], ...]:
    return (Column("claim_token", String(40)), Column("claimed_until", Instant))


providers = Table(
    "providers",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("down_since", Instant),
    Column("down_reason", Text),
    Column("open_until", Instant),
    Column("balance_units", BigInteger),
    Column("balance_currency", String(8)),
    Column("balance_at", Instant),
    Column("balance_low", Boolean, nullable=False, server_default=text("false")),
    Column("next_balance_at", Instant),
    Column("catalogue_at", Instant),
    Column("catalogue_rows", Integer),
    Column("catalogue_error", Text),
    Column("next_catalogue_at", Instant),
    # Syncs in a row that have shown less than half of the known services, and of the known numbers.
    Column("services_shrunk", Integer, nullable=False, server_default="0"),
    Column("numbers_shrunk", Integer, nullable=False, server_default="0"),
    # How statuses are asked for in batches, as was found out: which form, how many at once, since when.
    Column("batch_mode", String(16)),
    Column("batch_limit", Integer),
    Column("batch_at", Instant),
    Column("updated_at", Instant, nullable=False),
    # The books: the ledger's row of the last reading, and of the last one that everything explained.
    Column("reading_id", BigInteger),
    Column("anchor_id", BigInteger),
    Column("anchor_units", BigInteger),
    Column("difference_units", BigInteger),
    Column("difference_seen", Integer, nullable=False, server_default="0"),
    Column("debits_seen", Integer, nullable=False, server_default="0"),
    Column("next_evidence_at", Instant),
    # How refunds were seen to be told: in the charge (net), or by the balance alone (gross).
    Column("net_refunds", Integer, nullable=False, server_default="0"),
    Column("gross_refunds", Integer, nullable=False, server_default="0"),
    CheckConstraint("failures >= 0", name="failures"),
)

provider_services = Table(
    "provider_services",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("provider", String(100), nullable=False),
    Column("service", String(128), nullable=False),
    Column("country", String(32), nullable=False, server_default=""),
    Column("kind", String(8), nullable=False),
    Column("name", Text, nullable=False),
    Column("type", String(100), nullable=False),
    Column("category", Text, nullable=False),
    Column("subcategory", Text, nullable=False, server_default=""),
    Column("description", Text, nullable=False, server_default=""),
    Column("rate_units", BigInteger),
    Column("currency", String(8), nullable=False),
    Column("minimum", BigInteger, nullable=False),
    Column("maximum", BigInteger, nullable=False),
    Column("refill", Boolean, nullable=False),
    Column("cancel", Boolean, nullable=False),
    Column("has_stock", Boolean, nullable=False),
    Column("stock", BigInteger),
    Column("stock_at", Instant),
    Column("auto_delivery", Boolean, nullable=False),
    Column("problem", Text),
    Column("missing", Integer, nullable=False, server_default="0"),
    Column("first_seen_at", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),
    # What real charges taught: the newest ones, how many pieces the rate buys, and the rate that is really charged.
    Column("charges", JsonText),
    Column("learned_per", Integer),
    Column("charged_rate_units", BigInteger),
    # What was last believed of a row that is in quarantine (name, type, rate), and how many syncs have shown the new.
    Column("accepted", JsonText),
    Column("doubts", Integer, nullable=False, server_default="0"),
    UniqueConstraint("provider", "service", "country"),
    CheckConstraint(one_of("kind", ("smm", "product", "sms")), name="kind"),
    CheckConstraint("rate_units IS NULL OR rate_units >= 0", name="rate"),
    CheckConstraint("missing >= 0", name="missing"),
)

prices = Table(
    "prices",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("provider_service", ForeignKey("provider_services.id", ondelete="CASCADE"), nullable=False),
    Column("rate_units", BigInteger),
    Column("stock", BigInteger),
    Column("at", Instant, nullable=False),
    Index("ix_prices_provider_service_at", "provider_service", "at"),
)

offer_history = Table(
    "offer_history",
    metadata,
    Column("provider", String(100), primary_key=True),
    Column("service", String(128), primary_key=True),
    Column("completed", Integer, nullable=False, server_default="0"),
    Column("partial", Integer, nullable=False, server_default="0"),
    Column("canceled", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("ordered", BigInteger, nullable=False, server_default="0"),
    Column("delivered", BigInteger, nullable=False, server_default="0"),
    # A moving average, from the purchase to the provider's word that it is completed.
    Column("duration_s", Integer),
    Column("updated_at", Instant, nullable=False),
)

unknown_words = Table(
    "unknown_words",
    metadata,
    Column("provider", String(100), primary_key=True),
    Column("word", String(100), primary_key=True),
    Column("seen", BigInteger, nullable=False),
    Column("order_number", BigInteger),
    Column("first_at", Instant, nullable=False),
    Column("last_at", Instant, nullable=False),
)

orders = Table(
    "orders",
    metadata,
    Column("number", BigKey, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("owner", String(100), nullable=False),
    Column("service", String(100), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("state", String(16), nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("link", Text),
    Column("params", JsonText, nullable=False),
    Column("reference", String(255)),
    Column("metadata", JsonText, nullable=False),
    Column("max_cost_units", BigInteger),
    Column("max_cost_currency", String(8)),
    Column("pinned_provider", String(100)),
    Column("callback_url", Text),
    Column("role", String(10), nullable=False, server_default="order"),
    Column("parent", ForeignKey("orders.id")),
    Column("ordinal", Integer),
    Column("provider", String(100)),
    Column("provider_service", String(128)),
    Column("provider_order", String(128)),
    Column("attempt", String(40)),
    Column("expected_units", BigInteger),
    Column("expected_currency", String(8)),
    Column("charge_units", BigInteger),
    Column("charge_currency", String(8)),
    Column("start_count", BigInteger),
    Column("remains", BigInteger),
    Column("provider_children", JsonText),
    Column("cancel_state", String(16)),
    Column("cancel_at", Instant),
    Column("error_type", String(64)),
    Column("error_detail", Text),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("finished_at", Instant),
    Column("sequence", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("round", Integer, nullable=False, server_default="0"),
    Column("next_route_at", Instant),
    Column("give_up_at", Instant),
    Column("next_poll_at", Instant),
    Column("polls", Integer, nullable=False, server_default="0"),
    Column("next_refill_at", Instant),
    Column("placed_at", Instant),
    Column("stuck_at", Instant),
    # Asked for by calls of its own: together with others it spoils the answer for all of them.
    Column("alone_since", Instant),
    # Since then it is to be asked for, whatever the pace, until it is answered for: a refund that nobody told could
    # hide a purchase.
    Column("asked_at", Instant),
    # The count that somebody else than the provider saw at the link: a caller, or the config's `count_source`.
    Column("count", BigInteger),
    Column("count_at", Instant),
    Column("next_count_at", Instant),
    # Of a parent: when its next run is made, and when its figures are added up anew.
    Column("next_run_at", Instant),
    Column("next_sum_at", Instant),
    # Of an order that its provider did not finish: when its refund is looked for again, to buy the rest elsewhere.
    Column("next_remainder_at", Instant),
    *claim_columns(),
    CheckConstraint(one_of("state", ORDER_STATES), name="state"),
    CheckConstraint(one_of("kind", ("smm", "product", "sms")), name="kind"),
    CheckConstraint("quantity > 0", name="quantity"),
    CheckConstraint("sequence >= 1", name="sequence"),
    CheckConstraint(one_of("role", ORDER_ROLES), name="role"),
    CheckConstraint(
        "(state = 'accepted' AND role <> 'parent') = (next_route_at IS NOT NULL)", name="routed_while_accepted"
    ),
    CheckConstraint(
        "state NOT IN ('pending', 'processing', 'in_progress') OR provider_order IS NOT NULL OR role = 'parent'",
        name="followed_has_id",
    ),
    CheckConstraint(
        "state NOT IN ('placing', 'unclear', 'pending', 'processing', 'in_progress') OR attempt IS NOT NULL"
        " OR role = 'parent'",
        name="live_has_attempt",
    ),
    CheckConstraint(
        "role <> 'parent' OR (attempt IS NULL AND provider IS NULL AND provider_order IS NULL"
        " AND next_poll_at IS NULL AND next_remainder_at IS NULL)",
        name="parent_buys_nothing",
    ),
    CheckConstraint("role = 'parent' OR (next_run_at IS NULL AND next_sum_at IS NULL)", name="only_parents_run"),
    CheckConstraint("next_run_at IS NULL OR finished_at IS NULL", name="runs_while_open"),
    CheckConstraint(
        "(role IN ('run', 'remainder')) = (parent IS NOT NULL) AND (parent IS NULL) = (ordinal IS NULL)",
        name="child_has_parent",
    ),
    CheckConstraint(
        "(finished_at IS NOT NULL) = (state IN ('completed', 'partial', 'canceled', 'failed'))", name="end"
    ),
    CheckConstraint("(max_cost_units IS NULL) = (max_cost_currency IS NULL)", name="max_cost"),
    CheckConstraint("(expected_units IS NULL) = (expected_currency IS NULL)", name="expected"),
    CheckConstraint("(charge_units IS NULL) = (charge_currency IS NULL)", name="charge"),
    partial_index("ix_orders_route", "next_route_at", "number", where="state = 'accepted'"),
    partial_index(
        "ix_orders_poll",
        "provider",
        "next_poll_at",
        "number",
        where="next_poll_at IS NOT NULL AND finished_at IS NULL",
    ),
    partial_index(
        "ix_orders_reread",
        "provider",
        "next_poll_at",
        "number",
        where="next_poll_at IS NOT NULL AND finished_at IS NOT NULL",
    ),
    partial_index(
        "ix_orders_alone",
        "provider",
        "next_poll_at",
        "number",
        where="next_poll_at IS NOT NULL AND alone_since IS NOT NULL",
    ),
    partial_index("ix_orders_over", "provider", "updated_at", where="finished_at IS NOT NULL"),
    partial_index("ix_orders_asked", "provider", where="asked_at IS NOT NULL"),
    partial_index("ix_orders_refill", "next_refill_at", where="next_refill_at IS NOT NULL"),
    # Links are longer than a B-tree of PostgreSQL takes.
    Index("ix_orders_link", "link", postgresql_using="hash"),
    partial_index("ix_orders_count", "next_count_at", where="next_count_at IS NOT NULL"),
    partial_index("ix_orders_stuck", "stuck_at", where="stuck_at IS NOT NULL"),
    partial_index("ix_orders_unclear", "number", where="state IN ('placing', 'unclear')"),
    Index("ix_orders_owner", "owner", "number"),
    Index("ix_orders_created", "created_at"),
    partial_index("ix_orders_open", "provider", where=OPEN_ORDER),
    partial_index("ix_orders_claim", "claimed_until", where=CLAIM),
    partial_index("ix_orders_owner_open", "owner", where="finished_at IS NULL"),
    Index("ix_orders_state", "state", "number"),
    Index("ix_orders_service", "service", "number"),
    partial_index("ix_orders_reference", "reference", where="reference IS NOT NULL"),
    Index("ix_orders_provider_order", "provider", "provider_order"),
    # Each run of a parent is made once, and one remainder of an order at most.
    partial_index("uq_orders_child", "parent", "role", "ordinal", where="parent IS NOT NULL", unique=True),
    partial_index("ix_orders_run", "next_run_at", where="next_run_at IS NOT NULL"),
    partial_index("ix_orders_sum", "next_sum_at", where="next_sum_at IS NOT NULL"),
    partial_index("ix_orders_remainder", "next_remainder_at", where="next_remainder_at IS NOT NULL"),
    partial_index("ix_orders_rest", "finished_at", "number", where=AT_REST),
    sqlite_autoincrement=True,
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("order_number", ForeignKey("orders.number"), nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("round", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("provider", String(100)),
    Column("service", String(128)),
    Column("country", String(32)),
    Column("expected_units", BigInteger),
    Column("expected_currency", String(8)),
    Column("cost_units", BigInteger),
    Column("cost_currency", String(8)),
    Column("candidates", JsonText, nullable=False),
    Column("seen", Integer, nullable=False, server_default="1"),
    Column("outcome", String(32)),
    Column("detail", Text),
    Column("consequence", String(16)),
    Column("provider_order", String(128)),
    Column("exchange", JsonText),
    Column("evidence", JsonText),
    Column("created_at", Instant, nullable=False),
    Column("sent_at", Instant),
    Column("finished_at", Instant),
    Column("resends", Integer, nullable=False, server_default="0"),
    Column("next_resend_at", Instant),
    Column("rate_units", BigInteger),
    *claim_columns(),
    UniqueConstraint("order_number", "ordinal"),
    CheckConstraint(one_of("state", ATTEMPT_STATES), name="state"),
    CheckConstraint("(state = 'no_offer') = (provider IS NULL)", name="provider"),
    CheckConstraint("state NOT IN ('placing', 'unclear', 'placed', 'refused') OR sent_at IS NOT NULL", name="sent"),
    CheckConstraint("state <> 'placed' OR provider_order IS NOT NULL", name="placed_has_id"),
    # Invariant 2 of the design: an order has at most one live purchase.
    partial_index("uq_attempts_live", "order_number", where=LIVE_ATTEMPT, unique=True),
    partial_index("ix_attempts_work", "provider", "order_number", where=WORK_ATTEMPT),
    partial_index("ix_attempts_sent", "provider", "sent_at", where="sent_at IS NOT NULL"),
    partial_index("ix_attempts_claim", "claimed_until", where=CLAIM),
)

numbers = Table(
    "numbers",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("order_number", ForeignKey("orders.number"), nullable=False),
    Column("provider", String(100), nullable=False),
    Column("provider_order", String(128), nullable=False),
    Column("phone", String(64), nullable=False),
    Column("country", String(32), nullable=False, server_default=""),
    Column("state", String(16), nullable=False),
    Column("codes", JsonText, nullable=False),
    Column("charge_units", BigInteger),
    Column("charge_currency", String(8)),
    Column("expires_at", Instant),
    Column("created_at", Instant, nullable=False),
    Column("next_check_at", Instant),
    Column("checks", Integer, nullable=False, server_default="0"),
    # As with orders: to be asked for since then, until answered.
    Column("asked_at", Instant),
    *claim_columns(),
    CheckConstraint(one_of("state", tuple(str(state) for state in NumberState)), name="state"),
    Index("ix_numbers_provider_order", "provider", "provider_order"),
    Index("ix_numbers_order_number", "order_number"),
    Index("ix_numbers_created", "provider", "created_at"),
    partial_index("ix_numbers_check", "provider", "next_check_at", where="next_check_at IS NOT NULL"),
    partial_index("ix_numbers_asked", "provider", where="asked_at IS NOT NULL"),
    partial_index("ix_numbers_claim", "claimed_until", where=CLAIM),
    sqlite_autoincrement=True,
)

# Ids of rented numbers that were given before the numbers were: an order's first number has the order's own number, the
# others have these. All of them are numbers that no order has, because callers of the panel door know both as ids.
number_ids = Table(
    "number_ids",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("order_number", ForeignKey("orders.number"), nullable=False),
    Index("ix_number_ids_order_number", "order_number"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("order_number", ForeignKey("orders.number"), primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("delivered_at", Instant, nullable=False),
)

refills = Table(
    "refills",
    metadata,
    Column("number", BigKey, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("order_number", ForeignKey("orders.number"), nullable=False),
    Column("provider", String(100), nullable=False),
    Column("state", String(16), nullable=False),
    Column("provider_refill", String(128)),
    Column("dropped", BigInteger),
    Column("outcome", String(32)),
    Column("detail", Text),
    Column("exchange", JsonText),
    Column("requested_at", Instant, nullable=False),
    Column("sent_at", Instant),
    Column("finished_at", Instant),
    Column("next_poll_at", Instant),
    Column("polls", Integer, nullable=False, server_default="0"),
    *claim_columns(),
    CheckConstraint(one_of("state", REFILL_STATES), name="state"),
    CheckConstraint("(finished_at IS NOT NULL) = (state IN ('completed', 'rejected'))", name="end"),
    Index("ix_refills_order_number", "order_number"),
    partial_index("uq_refills_open", "order_number", where=OPEN_REFILL, unique=True),
    partial_index("ix_refills_poll", "provider", "next_poll_at", where="next_poll_at IS NOT NULL"),
    partial_index("ix_refills_asked", "sent_at", where="state = 'requested'"),
    partial_index("ix_refills_claim", "claimed_until", where=CLAIM),
    sqlite_autoincrement=True,
)

cancels = Table(
    "cancels",
    metadata,
    Column("number", BigKey, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("order_number", ForeignKey("orders.number"), nullable=False),
    Column("provider", String(100), nullable=False),
    Column("state", String(16), nullable=False),
    Column("outcome", String(32)),
    Column("detail", Text),
    Column("exchange", JsonText),
    Column("requested_at", Instant, nullable=False),
    Column("sent_at", Instant),
    Column("finished_at", Instant),
    Column("next_at", Instant),
    # How often the order had been polled when nobody knew how this ended: whether its status was looked at since.
    Column("polls", Integer, nullable=False, server_default="0"),
    *claim_columns(),
    CheckConstraint(one_of("state", CANCEL_STATES), name="state"),
    CheckConstraint(
        "state <> 'requested' OR (finished_at IS NULL AND next_at IS NOT NULL)", name="due_while_requested"
    ),
    CheckConstraint("state NOT IN ('asked', 'refused') OR finished_at IS NOT NULL", name="end"),
    CheckConstraint("state NOT IN ('unclear', 'asked') OR sent_at IS NOT NULL", name="sent"),
    Index("ix_cancels_order_number", "order_number"),
    partial_index("uq_cancels_open", "order_number", where="finished_at IS NULL", unique=True),
    partial_index("ix_cancels_due", "provider", "next_at", where="next_at IS NOT NULL"),
    partial_index("ix_cancels_asked", "sent_at", where="state = 'requested'"),
    partial_index("ix_cancels_claim", "claimed_until", where=CLAIM),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("seq", BigKey, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("position", BigInteger, unique=True),
    Column("order_number", ForeignKey("orders.number")),
    Column("sequence", Integer),
    Column("type", String(40), nullable=False),
    Column("lane", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    UniqueConstraint("order_number", "sequence"),
    CheckConstraint("(order_number IS NULL) = (sequence IS NULL)", name="sequence"),
    partial_index("ix_events_unsequenced", "seq", where="position IS NULL"),
    partial_index("ix_events_of_no_order", "seq", where="order_number IS NULL"),
    sqlite_autoincrement=True,
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("event_seq", ForeignKey("events.seq"), nullable=False),
    Column("endpoint", String(140), nullable=False),
    Column("lane", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("next_at", Instant),
    Column("hold_until", Instant),
    Column("last_status", Integer),
    Column("last_error", Text),
    Column("last_ms", Integer),
    Column("last_at", Instant),
    # The first bytes of the last answer, without secrets.
    Column("last_excerpt", Text),
    # Goes before what else is due at its endpoint: codes are worth something for minutes.
    Column("urgent", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", Instant, nullable=False),
    Column("finished_at", Instant),
    *claim_columns(),
    UniqueConstraint("endpoint", "event_seq"),
    CheckConstraint(one_of("state", DELIVERY_STATES), name="state"),
    CheckConstraint("(state = 'pending') = (next_at IS NOT NULL)", name="due_while_pending"),
    partial_index("ix_deliveries_due", "endpoint", "next_at", "id", where="state = 'pending'"),
    partial_index("ix_deliveries_claim", "claimed_until", where=CLAIM),
    partial_index("ix_deliveries_urgent", "endpoint", "next_at", "id", where="state = 'pending' AND urgent"),
    # By the event and not by the delivery: a replay may make the delivery of an earlier event later.
    partial_index("ix_deliveries_lane", "endpoint", "lane", "event_seq", where="state = 'pending'"),
    partial_index("ix_deliveries_parked", "endpoint", "event_seq", where="state = 'parked'"),
    # A delivery is looked for by its event when that is replayed, shown or removed.
    Index("ix_deliveries_event_seq", "event_seq"),
    sqlite_autoincrement=True,
)

# Whoever is sent deliveries: the operator's endpoints, and for each caller the hosts of its callback URLs (`owner`).
endpoints = Table(
    "endpoints",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("name", String(140), nullable=False, unique=True),
    Column("owner", String(100), nullable=False, server_default=""),
    # What was made by API; NULL for what the config or a caller's order names.
    Column("settings", JsonText),
    Column("secrets", LargeBinary),
    # Whether anything is sent: it is in the config or was made by API, and nobody and nothing has disabled it.
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("disabled_at", Instant),
    Column("disabled_reason", Text),
    Column("standing", String(8), nullable=False, server_default="new"),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("failing_since", Instant),
    Column("last_success_at", Instant),
    Column("last_failure_at", Instant),
    Column("last_error", Text),
    # When the next of its deliveries is due, or this is to be found out; NULL: nothing waits, or it is not enabled.
    Column("next_at", Instant),
    # While it fails it is left alone until then, and tried with one delivery.
    Column("next_probe_at", Instant),
    Column("deleted_at", Instant),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    CheckConstraint(one_of("standing", ENDPOINT_STANDINGS), name="standing"),
    CheckConstraint("enabled OR next_at IS NULL", name="left_alone"),
    CheckConstraint("deleted_at IS NULL OR NOT enabled", name="deleted"),
    CheckConstraint("(failing_since IS NOT NULL) = (standing = 'failing')", name="failing"),
    partial_index("ix_endpoints_due", "owner", "standing", "next_at", "id", where="next_at IS NOT NULL"),
    partial_index("ix_endpoints_deleted", "deleted_at", where="deleted_at IS NOT NULL"),
    Index("ix_endpoints_owner", "owner", "id"),
    sqlite_autoincrement=True,
)

# Deliveries that are to come due again, many of them: done in steps, so that no transaction grows with their number.
replays = Table(
    "replays",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("endpoint", String(140), nullable=False),
    Column("kind", String(8), nullable=False),
    # The last position or delivery that was done, and the last that is to be.
    Column("after", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),
    # Of `events`: none made before; of `waiting`: only what was held back then or later, and never what failed since.
    Column("since", Instant),
    Column("created_at", Instant, nullable=False),
    CheckConstraint(one_of("kind", REPLAY_KINDS), name="kind"),
    Index("ix_replays_endpoint", "endpoint"),
    sqlite_autoincrement=True,
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    # 128 bits of a hash over the caller's name and the key; keys are of any length and in no order.
    Column("digest", LargeBinary, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    # The answer. Without one it is made again of the order, as that was when it was accepted.
    Column("status", Integer),
    Column("body", Text),
    # No foreign key: PostgreSQL would look the order up and lock its row, which the same transaction has just written.
    Column("order_number", BigInteger),
    Column("created_at", Instant, nullable=False),
    CheckConstraint("(status IS NULL) = (body IS NULL)", name="whole_answer"),
    CheckConstraint("body IS NOT NULL OR order_number IS NOT NULL", name="can_be_answered"),
    # A key goes with its order; one without an order by its age.
    partial_index("ix_idempotency_keys_order_number", "order_number", where="order_number IS NOT NULL"),
    partial_index("ix_idempotency_keys_created_at", "created_at", where="order_number IS NULL"),
    sqlite_with_rowid=False,
)

ledger = Table(
    "ledger",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("provider", String(100), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("currency", String(8), nullable=False),
    # No foreign keys: the books outlive the orders that they tell of.
    Column("order_number", BigKey),
    Column("number_id", BigKey),
    Column("note", Text),
    Column("at", Instant, nullable=False),
    CheckConstraint(one_of("kind", LEDGER_KINDS), name="kind"),
    Index("ix_ledger_provider_id", "provider", "id"),
    partial_index("ix_ledger_order_number", "order_number", where="order_number IS NOT NULL"),
)

# What is left of orders that were removed: the providers' ids of what they bought, each number of an SMS order its own.
# An id that was ours once is no proof of another purchase.
removed_purchases = Table(
    "removed_purchases",
    metadata,
    Column("provider", String(100), primary_key=True),
    Column("provider_order", String(128), primary_key=True),
    Column("order_number", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# By the first half of its SHA-256 each key that something stored may be sealed with; one of them seals.
sealing_keys = Table(
    "sealing_keys",
    metadata,
    Column("fingerprint", String(32), primary_key=True),
    Column("seals", Boolean, nullable=False),
    Column("since", Instant, nullable=False),
)

sequences = Table(
    "sequences",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

CLAIMED: Final = (orders, attempts, numbers, refills, cancels, deliveries)
"""The tables whose rows are claimed."""

# SQLite takes a partial index only where the query says its condition to the letter; a bound value proves nothing.
AT_WORK: Final[ColumnElement[bool]] = literal_column("attempts.state IN ('planned', 'placing', 'unclear')")
TO_ROUTE: Final[ColumnElement[bool]] = literal_column("orders.state = 'accepted'")
REFILL_ASKED: Final[ColumnElement[bool]] = literal_column("refills.state = 'requested'")
CANCEL_ASKED: Final[ColumnElement[bool]] = literal_column("cancels.state = 'requested'")
PENDING: Final[ColumnElement[str]] = literal_column("'pending'")
PARKED: Final[ColumnElement[str]] = literal_column("'parked'")
URGENT: Final[ColumnElement[bool]] = literal_column("deliveries.urgent")
OPEN_AT_PROVIDER: Final[ColumnElement[bool]] = literal_column(f"orders.{OPEN_ORDER}")
