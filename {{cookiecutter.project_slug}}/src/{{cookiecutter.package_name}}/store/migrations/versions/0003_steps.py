"""What each step of a batch run did."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column."""
    op.add_column("runs", sa.Column("steps", sa.Text))


def downgrade() -> None:
    """Take it away."""
    op.drop_column("runs", "steps")
