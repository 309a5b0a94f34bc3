"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "predictions",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("time", TIME, nullable=False),
        sa.Column("model_version", sa.String(32), nullable=False),
        sa.Column("source", sa.String(8), nullable=False),
        sa.Column("run_id", sa.String(32)),
        sa.Column("row", sa.BigInteger),
        sa.Column("latency_ms", sa.Float),
        sa.Column("inputs", sa.Text, nullable=False),
        sa.Column("output", sa.Text, nullable=False),
    )
    op.create_index("predictions_by_time", "predictions", ["time"])
    op.create_table(
        "feedback",
        sa.Column("prediction_id", sa.String(64), primary_key=True),
        sa.Column("time", TIME, nullable=False),
        sa.Column("actual", sa.Text, nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("started", TIME, nullable=False),
        sa.Column("finished", TIME),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("output", sa.Text, nullable=False),
        sa.Column("model_version", sa.String(32), nullable=False),
        sa.Column("rows_in", sa.BigInteger, nullable=False),
        sa.Column("rows_published", sa.BigInteger, nullable=False),
        sa.Column("rows_quarantined", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Float),
        sa.Column("error", sa.Text),
    )
    op.create_index("runs_by_start", "runs", ["started"])
    op.create_table(
        "quarantine",
        sa.Column("run_id", sa.String(32), primary_key=True),
        sa.Column("reason", sa.String(255), primary_key=True),
        sa.Column("rows", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "model_events",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("time", TIME, nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("alias", sa.String(32)),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("previous", sa.String(32)),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "traffic",
        sa.Column("minute", TIME, primary_key=True),
        sa.Column("route", sa.String(64), primary_key=True),
        sa.Column("status", sa.Integer, primary_key=True),
        sa.Column("bucket", sa.Float, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "checks",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("time", TIME, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("value", sa.Float),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("checks_by_kind", "checks", ["kind", "time"])


def downgrade() -> None:
    """Drop every table."""
    for table in ("checks", "traffic", "model_events", "quarantine", "runs", "feedback", "predictions"):
        op.drop_table(table)
