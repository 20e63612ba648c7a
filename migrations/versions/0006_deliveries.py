"""Collections, their result sets, and the outbox of deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_FOLDED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_NUMBERED = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for name in ("failing_since", "checked_at"):
        op.add_column("destinations", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "collections",
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("folded", _FOLDED, nullable=False),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("account_id", "id", name="pk_collections"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_collections_account_id"),
    )
    op.create_index("ix_collections_account_id_created_at_id", "collections", ["account_id", "created_at", "id"])
    op.create_table(
        "collection_destinations",
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("collection_id", sa.String(64), nullable=False),
        sa.Column("destination_id", sa.String(12), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "collection_id", "destination_id", name="pk_collection_destinations"),
        sa.ForeignKeyConstraint(
            ["account_id", "collection_id"], ["collections.account_id", "collections.id"],
            name="fk_collection_destinations_account_id", ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["destination_id"], ["destinations.id"], name="fk_collection_destinations_destination_id"
        ),
    )  # fmt: skip
    op.create_index("ix_collection_destinations_destination_id", "collection_destinations", ["destination_id"])
    op.create_table(
        "result_sets",
        *_of_set("id"),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("collection_name", sa.String(255), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        _time("started_at"),
        _time("ended_at"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("account_id", "collection_id", "id", name="pk_result_sets"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_result_sets_account_id"),
    )
    _create_files()
    _create_deliveries()
    op.create_table(
        "delivery_log",
        sa.Column("id", _NUMBERED, nullable=False),
        *_of_set(),
        sa.Column("destination_id", sa.String(12), nullable=False),
        _time("at"),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_delivery_log"),
    )
    names = ["account_id", "collection_id", "result_set_id", "destination_id", "id"]
    op.create_index("ix_delivery_log_set", "delivery_log", names)


def downgrade() -> None:
    for name in ("delivery_log", "deliveries", "result_files", "result_sets", "collection_destinations", "collections"):
        op.drop_table(name)
    for name in ("failing_since", "checked_at"):
        op.drop_column("destinations", name)


def _time(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _of_set(identity: str = "result_set_id") -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("collection_id", sa.String(64), nullable=False),
        sa.Column(identity, sa.BigInteger(), nullable=False),
    )


def _create_files() -> None:
    keys = ["account_id", "collection_id", "result_set_id"]
    op.create_table(
        "result_files",
        *_of_set(),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("source", sa.String(1024), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("content_type", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint(*keys, "number", name="pk_result_files"),
        sa.ForeignKeyConstraint(
            keys, ["result_sets.account_id", "result_sets.collection_id", "result_sets.id"],
            name="fk_result_files_account_id",
        ),
    )  # fmt: skip


def _create_deliveries() -> None:
    keys = ["account_id", "collection_id", "result_set_id", "number"]
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(16), nullable=False),
        *_of_set(),
        sa.Column("destination_id", sa.String(12), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("sent", sa.BigInteger(), nullable=False),
        _time("created_at"),
        _time("changed_at"),
        _time("due_at"),
        _time("began_at", nullable=True),
        _time("ended_at", nullable=True),
        sa.Column("lease", sa.String(36), nullable=True),
        _time("leased_until", nullable=True),
        sa.Column("worker", sa.String(255), nullable=True),
        sa.Column("fault", sa.String(64), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("key", sa.String(1024), nullable=True),
        sa.Column("etag", sa.String(255), nullable=True),
        sa.Column("version", sa.String(1024), nullable=True),
        sa.Column("request_id", sa.String(128), nullable=True),
        sa.Column("upload", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.ForeignKeyConstraint(keys, [f"result_files.{name}" for name in keys], name="fk_deliveries_account_id"),
    )
    indexes = {
        "set": ["account_id", "collection_id", "result_set_id", "destination_id"],
        "due": ["state", "destination_id", "due_at", "id"],
        "destination": ["destination_id", "created_at", "id"],
        "account": ["account_id", "created_at", "id"],
        "created": ["created_at", "id"],
    }
    for name, columns in indexes.items():
        op.create_index(f"ix_deliveries_{name}", "deliveries", columns)
