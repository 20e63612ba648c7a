"""Test files that may have been left behind."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "leftovers",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.String(12), nullable=True),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(64), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_leftovers"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_leftovers_account_id"),
    )
    op.create_index("ix_leftovers_state_due_at", "leftovers", ["state", "due_at"])
    op.create_index("ix_leftovers_account_id_created_at_id", "leftovers", ["account_id", "created_at", "id"])


def downgrade() -> None:
    op.drop_table("leftovers")
