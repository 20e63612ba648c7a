"""An account may have a delete policy of its own."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("accounts", sa.Column("delete_policy", sa.String(8)))


def downgrade() -> None:
    op.drop_column("accounts", "delete_policy")
