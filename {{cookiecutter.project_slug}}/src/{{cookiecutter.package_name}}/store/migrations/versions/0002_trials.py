"""Shadow and canary: what another version said; and what the gates measured when a model was promoted."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the table and the column."""
    op.create_table(
        "trials",
        sa.Column("prediction_id", sa.String(64), primary_key=True),
        sa.Column("model_version", sa.String(32), primary_key=True),
        sa.Column("role", sa.String(8), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("latency_ms", sa.Float),
        sa.Column("output", sa.Text),
        sa.Column("error", sa.Text),
    )
    op.create_index("trials_by_version", "trials", ["model_version", "time"])
    op.add_column("model_events", sa.Column("detail", sa.Text))


def downgrade() -> None:
    """Take them away."""
    op.drop_column("model_events", "detail")
    op.drop_table("trials")
