"""Idempotency keys and the answers that they were given."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "claims",
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("destination", sa.String(12), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "key", name="pk_claims"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_claims_account_id"),
    )
    op.create_index("ix_claims_created_at", "claims", ["created_at"])


def downgrade() -> None:
    op.drop_table("claims")
