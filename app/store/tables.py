"""The tables."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    and_,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.domain.delivery import ETAG_MOST, REQUEST_ID_MOST, VERSION_MOST


class UtcDateTime(TypeDecorator[datetime]):
    """A time in UTC, also in a database that stores no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


# Sorted by code points on every database, so that a page is the same on each.
Sortable = Text().with_variant(Text(collation="C"), "postgresql")


class Table(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )


class AccountRow(Table):
    """A customer of the platform. `used` counts its destinations, so that a limit costs the same for any number; the
    limits and `delete_policy` are null where they are as the settings say. One that was deleted stays, without a key,
    for what happened to it: its jobs, deliveries and leftovers name it."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    used: Mapped[int] = mapped_column(default=0)
    delete_policy: Mapped[str | None] = mapped_column(String(8))
    destination_limit: Mapped[int | None]
    verification_limit: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class KeyRow(Table):
    """An API key, of which only the SHA-256 is stored."""

    __tablename__ = "keys"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    name: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


_WHERE_FAILING: dict[str, Any] = dict.fromkeys(("postgresql_where", "sqlite_where"), text("failing_since IS NOT NULL"))


class DestinationRow(Table):
    """`sealed` has the credentials; `folded` is the name as it is searched and sorted, in any case; `failing_since` is
    when a delivery or a check first failed in a way that its customer must mend, since it last passed a verification;
    `failing` has the `code` and the `message` of that; `checked_at` is when a scheduled check of it was last begun."""

    __tablename__ = "destinations"
    __table_args__ = (
        Index(None, "account_id", "created_at", "id"),
        Index(None, "account_id", "folded", "id"),
        Index(None, "account_id", "type", "id"),
        # Of those that fail, which are few among many.
        Index("ix_destinations_failing", "failing_since", "id", **_WHERE_FAILING),
    )

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    name: Mapped[str] = mapped_column(String(255))
    folded: Mapped[str] = mapped_column(Sortable)
    type: Mapped[str] = mapped_column(String(16))
    enabled: Mapped[bool]
    parameters: Mapped[dict[str, str]] = mapped_column(JSON)
    sealed: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    verified_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    verification: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    failing_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    failing: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    checked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class IdempotencyRow(Table):
    """An Idempotency-Key, of which only the SHA-256 is stored, and what became of its request.

    `fingerprint` is a keyed hash of the request. While there is no answer, one process works on it until
    `leased_until`; after that it has died, and another may. `destination` is the id that a create gives, in every
    attempt.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "created_at"),)

    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    destination: Mapped[str] = mapped_column(String(12))
    leased_until: Mapped[datetime] = mapped_column(UtcDateTime)
    status: Mapped[int | None]
    answer: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class CollectionRow(Table):
    """A collection of the platform's, under the platform's own id."""

    __tablename__ = "collections"
    __table_args__ = (Index(None, "account_id", "created_at", "id"),)

    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    folded: Mapped[str] = mapped_column(Sortable)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class CollectionDestinationRow(Table):
    """That a collection uses a destination; while it does, the destination cannot be deleted."""

    __tablename__ = "collection_destinations"
    __table_args__ = (
        ForeignKeyConstraint(
            ["account_id", "collection_id"], ["collections.account_id", "collections.id"], ondelete="CASCADE"
        ),
        Index(None, "destination_id"),
    )

    account_id: Mapped[int] = mapped_column(primary_key=True)
    collection_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    destination_id: Mapped[str] = mapped_column(ForeignKey("destinations.id"), primary_key=True)


class ResultSetRow(Table):
    """A result set that was announced. It outlives its collection, since what was announced is delivered."""

    __tablename__ = "result_sets"
    __table_args__ = (Index(None, "created_at"),)

    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    collection_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    fingerprint: Mapped[str] = mapped_column(String(64))
    collection_name: Mapped[str] = mapped_column(String(255))
    files: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ResultFileRow(Table):
    """A file of a result set, by its number there."""

    __tablename__ = "result_files"
    __table_args__ = (
        ForeignKeyConstraint(
            ["account_id", "collection_id", "result_set_id"],
            ["result_sets.account_id", "result_sets.collection_id", "result_sets.id"],
        ),
    )

    account_id: Mapped[int] = mapped_column(primary_key=True)
    collection_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    result_set_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(255))
    source: Mapped[str] = mapped_column(String(1024))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    content_type: Mapped[str] = mapped_column(String(255))


class DeliveryRow(Table):
    """The outbox: one file and one destination. The row is the truth about it; a message or a worker is not.

    A PENDING one is dispatched from `due_at` on. An UPLOADING one belongs to the dispatch `lease` until `leased_until`,
    which that worker's progress renews; after that the worker is taken for dead. `attempts` counts dispatches since it
    was announced or last asked for. `key` is chosen by the first of them and kept, so that no file is there twice.
    `upload` is, sealed, the id of an upload in parts that was begun and of which something may be left.
    `delivered_at` is, of one that was made again, when the copy arrived that `etag`, `version` and `request_id` are of;
    of others that is `ended_at`. `refusal` is what the store said of the failure that `fault` and `message` tell of, if
    it was the store's. There is no reference to the destination, which may be deleted before it.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        ForeignKeyConstraint(
            ["account_id", "collection_id", "result_set_id", "number"],
            [
                "result_files.account_id",
                "result_files.collection_id",
                "result_files.result_set_id",
                "result_files.number",
            ],
            name="fk_deliveries_account_id",
        ),
        Index("ix_deliveries_set", "account_id", "collection_id", "result_set_id", "state"),
        Index("ix_deliveries_due", "state", "destination_id", "due_at", "id"),
        Index("ix_deliveries_destination", "destination_id", "created_at", "id"),
        Index("ix_deliveries_account", "account_id", "created_at", "id"),
        Index("ix_deliveries_created", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    account_id: Mapped[int]
    destination_id: Mapped[str] = mapped_column(String(12))
    collection_id: Mapped[str] = mapped_column(String(64))
    result_set_id: Mapped[int] = mapped_column(BigInteger)
    number: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(default=0)
    sent: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
    began_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    lease: Mapped[str | None] = mapped_column(String(36))
    leased_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    worker: Mapped[str | None] = mapped_column(String(255))
    fault: Mapped[str | None] = mapped_column(String(64))
    message: Mapped[str | None] = mapped_column(Text)
    refusal: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    key: Mapped[str | None] = mapped_column(String(1024))
    etag: Mapped[str | None] = mapped_column(String(ETAG_MOST))
    version: Mapped[str | None] = mapped_column(String(VERSION_MOST))
    request_id: Mapped[str | None] = mapped_column(String(REQUEST_ID_MOST))
    delivered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    upload: Mapped[str | None] = mapped_column(Text)


class DeliveryLogRow(Table):
    """One line of what happened to a result set at a destination."""

    __tablename__ = "delivery_log"
    __table_args__ = (
        Index("ix_delivery_log_set", "account_id", "collection_id", "result_set_id", "destination_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    account_id: Mapped[int]
    collection_id: Mapped[str] = mapped_column(String(64))
    result_set_id: Mapped[int] = mapped_column(BigInteger)
    destination_id: Mapped[str] = mapped_column(String(12))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    text: Mapped[str] = mapped_column(Text)


class AuditRow(Table):
    """One thing that was done, written in the transaction that did it. It refers to nothing, since it outlives what it
    is about. Nothing is deleted here by us; whoever does leaves the last one, so that no id is given twice."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "account", "id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    action: Mapped[str] = mapped_column(String(32))
    account_id: Mapped[int]
    account: Mapped[str] = mapped_column(String(255))
    object: Mapped[str | None] = mapped_column(String(64))
    author: Mapped[str] = mapped_column(String(16))
    author_key: Mapped[str | None] = mapped_column(String(12))
    request: Mapped[str | None] = mapped_column(String(36))
    details: Mapped[dict[str, Any]] = mapped_column(JSON)


class NotificationRow(Table):
    """An event that the platform is to be told of, in the words in which it is told. It is stored with the change that
    it tells of, and removed when it was taken.

    A WAITING one is due at `due_at`, which is when whoever sends it now is taken for dead. `attempts` counts since
    `created_at`, and tells one sender from the next. `destinations` are those that it is about.
    """

    __tablename__ = "notifications"
    __table_args__ = (Index(None, "state", "due_at"),)

    number: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    id: Mapped[str] = mapped_column(String(36), unique=True)
    type: Mapped[str] = mapped_column(String(32))
    account_id: Mapped[int]
    destinations: Mapped[list[str]] = mapped_column(JSON)
    payload: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int]
    reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)


class NotificationDestinationRow(Table):
    """That a notification waits which is about a destination: those of one destination are sent by their numbers."""

    __tablename__ = "notification_destinations"
    __table_args__ = (Index(None, "number"),)

    destination_id: Mapped[str] = mapped_column(String(12), primary_key=True)
    number: Mapped[int] = mapped_column(ForeignKey("notifications.number", ondelete="CASCADE"), primary_key=True)


FILE_OF_DELIVERY = and_(
    ResultFileRow.account_id == DeliveryRow.account_id,
    ResultFileRow.collection_id == DeliveryRow.collection_id,
    ResultFileRow.result_set_id == DeliveryRow.result_set_id,
    ResultFileRow.number == DeliveryRow.number,
)
SET_OF_DELIVERY = and_(
    ResultSetRow.account_id == DeliveryRow.account_id,
    ResultSetRow.collection_id == DeliveryRow.collection_id,
    ResultSetRow.id == DeliveryRow.result_set_id,
)


class LeftoverRow(Table):
    """A test file that may have been left behind. `sealed` has the job that left it, with its credentials."""

    __tablename__ = "leftovers"
    __table_args__ = (Index(None, "state", "due_at"), Index(None, "account_id", "created_at", "id"))

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    destination: Mapped[str | None] = mapped_column(String(12))
    type: Mapped[str] = mapped_column(String(16))
    parameters: Mapped[dict[str, str]] = mapped_column(JSON)
    object: Mapped[str] = mapped_column(Text)
    sealed: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(String(64))
    message: Mapped[str | None] = mapped_column(Text)
    tries: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
