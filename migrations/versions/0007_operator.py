"""Accounts have limits of their own and can be deleted, keys have names, and what is done is in an audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    for name in ("destination_limit", "verification_limit"):
        op.add_column("accounts", sa.Column(name, sa.Integer(), nullable=True))
    op.add_column("accounts", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("keys", sa.Column("name", sa.String(255), nullable=True))
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("account", sa.String(255), nullable=False),
        sa.Column("object", sa.String(64), nullable=True),
        sa.Column("author", sa.String(16), nullable=False),
        sa.Column("author_key", sa.String(12), nullable=True),
        sa.Column("request", sa.String(36), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_account_id", "audit", ["account", "id"])


def downgrade() -> None:
    op.drop_table("audit")
    op.drop_column("keys", "name")
    for name in ("deleted_at", "verification_limit", "destination_limit"):
        op.drop_column("accounts", name)
