"""What the store said when it refused a delivery, and an index of the destinations that fail."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("refusal", sa.JSON(), nullable=True))
    failing = sa.text("failing_since IS NOT NULL")
    op.create_index(
        "ix_destinations_failing", "destinations", ["failing_since", "id"],
        postgresql_where=failing, sqlite_where=failing,
    )  # fmt: skip


def downgrade() -> None:
    op.drop_index("ix_destinations_failing", "destinations")
    op.drop_column("deliveries", "refusal")
