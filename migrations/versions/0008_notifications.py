"""What the platform is told, and what finds the result sets that are old."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_NUMBERED = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_SET = ["account_id", "collection_id", "result_set_id"]


def upgrade() -> None:
    op.create_table(
        "notifications",
        sa.Column("number", _NUMBERED, nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("destinations", sa.JSON(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_notifications"),
        sa.UniqueConstraint("id", name="uq_notifications_id"),
    )
    op.create_index("ix_notifications_state_due_at", "notifications", ["state", "due_at"])
    op.create_table(
        "notification_destinations",
        sa.Column("destination_id", sa.String(12), nullable=False),
        sa.Column("number", _NUMBERED, nullable=False),
        sa.PrimaryKeyConstraint("destination_id", "number", name="pk_notification_destinations"),
        sa.ForeignKeyConstraint(
            ["number"], ["notifications.number"], name="fk_notification_destinations_number", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_notification_destinations_number", "notification_destinations", ["number"])
    op.create_index("ix_result_sets_created_at", "result_sets", ["created_at"])
    # What is asked of a set is whether all of it has ended.
    op.drop_index("ix_deliveries_set", "deliveries")
    op.create_index("ix_deliveries_set", "deliveries", [*_SET, "state"])


def downgrade() -> None:
    op.drop_index("ix_deliveries_set", "deliveries")
    op.create_index("ix_deliveries_set", "deliveries", [*_SET, "destination_id"])
    op.drop_index("ix_result_sets_created_at", "result_sets")
    op.drop_table("notification_destinations")
    op.drop_table("notifications")
