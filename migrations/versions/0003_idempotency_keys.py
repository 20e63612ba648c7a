"""The table of idempotency keys, its constraints and its lease under the names that the code has for them."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    _rename("claims", "idempotency_keys", "until", "leased_until")


def downgrade() -> None:
    _rename("idempotency_keys", "claims", "leased_until", "until")


def _rename(old: str, new: str, old_lease: str, new_lease: str) -> None:
    op.rename_table(old, new)
    # SQLite cannot rename a constraint: a batch copies the table there, with its rows, and alters it elsewhere.
    with op.batch_alter_table(new) as table:
        table.drop_index(f"ix_{old}_created_at")
        table.drop_constraint(f"fk_{old}_account_id", type_="foreignkey")
        table.drop_constraint(f"pk_{old}", type_="primary")
        table.alter_column(old_lease, new_column_name=new_lease)
        table.create_primary_key(f"pk_{new}", ["account_id", "key"])
        table.create_foreign_key(f"fk_{new}_account_id", "accounts", ["account_id"], ["id"])
        table.create_index(f"ix_{new}_created_at", ["created_at"])
