"""Runs the migrations on the connection that the program (or a test) hands over; one transaction for all of them."""

from __future__ import annotations

import os

from alembic import context
from alembic.runtime.migration import MigrationInfo
from sqlalchemy import Connection, create_engine

from aggregator.storage.tables import metadata


def _reached(ctx: object, step: MigrationInfo, heads: object, run_args: object) -> None:
    told = context.config.attributes.get("reached")
    if told is not None:
        told(step.up_revision_id)


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transactional_ddl=True,
        render_as_batch=connection.dialect.name == "sqlite",
        on_version_apply=_reached,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    # A developer's `alembic revision --autogenerate`: the scratch database to compare with is named in the environment.
    engine = create_engine(os.environ.get("ALEMBIC_URL", "sqlite:///:memory:"))
    with engine.begin() as own:
        run(own)
