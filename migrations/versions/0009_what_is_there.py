"""When the copy arrived that a receipt is of, and why a destination fails."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("destinations", sa.Column("failing", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("destinations", "failing")
    op.drop_column("deliveries", "delivered_at")
