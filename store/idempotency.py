"""Idempotency keys: a request sent twice is answered twice and done once."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from store.errors import IdempotencyConflict
from store.scope import Scope
from store.tables import idempotency

# A request that has not been answered by then has crashed.
IN_FLIGHT = timedelta(seconds=60)
KEPT = timedelta(hours=24)


@dataclass(frozen=True)
class StoredAnswer:
    """The answer to the first request with a key."""

    status: int
    body: dict[str, Any]
    job_id: str | None


class IdempotencyKeys:
    """Remembers keys and the answers given.

    Either ``begin``, the work and ``finish`` are one transaction: then a second request waits for
    the first and gets its answer. Or each is its own: then the second is refused meanwhile.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def begin(self, key: str, body_hash: str) -> StoredAnswer | None:
        """Return the answer already given; None: the work is the caller's, who then calls ``finish``.

        Args:
            key: as the client sent it.
            body_hash: SHA-256 of the request's method, path and body, hexadecimal.

        Raises:
            IdempotencyConflict: the key was used with another body, or is in flight.
        """
        now = self._scope.now()
        row: dict[str, Any] = {"key": key, "body_hash": body_hash, "created_at": now}
        connection = self._scope.connection
        dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(idempotency).values(row).on_conflict_do_nothing()
        if connection.execute(statement.returning(idempotency.c.key)).one_or_none() is not None:
            return None
        query = select(idempotency).where(idempotency.c.key == key).with_for_update()
        known = connection.execute(query).mappings().one_or_none()
        if known is None:  # removed since: it had expired
            connection.execute(insert(idempotency).values(row))
            return None
        age = now - known["created_at"]
        if age > KEPT or (known["status"] is None and age > IN_FLIGHT):
            again = row | {"status": None, "body": None, "job_id": None}
            connection.execute(update(idempotency).where(idempotency.c.key == key).values(again))
            return None
        if known["body_hash"] != body_hash:
            raise IdempotencyConflict(
                "this Idempotency-Key was used with another request: use a new key for each request",
                in_flight=False,
            )
        if known["status"] is None:
            raise IdempotencyConflict(
                "the first request with this Idempotency-Key is still being answered: try again in a moment",
                in_flight=True,
            )
        return StoredAnswer(known["status"], known["body"], known["job_id"])

    def finish(
        self, key: str, body_hash: str, *, status: int, body: Mapping[str, Any], job_id: str | None = None
    ) -> None:
        """Store the answer for those who send the request again.

        Args:
            key: as given to ``begin``.
            body_hash: as given to ``begin``; if another request took the key over meanwhile,
                nothing is stored.
            status: HTTP status.
            body: the answer, JSON.
            job_id: of the job or study made, if any.
        """
        self._scope.connection.execute(
            update(idempotency)
            .where(*self._in_flight(key, body_hash))
            .values(status=status, body=dict(body), job_id=job_id)
        )

    def forget(self, key: str, body_hash: str) -> None:
        """Give the key back: the request failed and may be sent again."""
        self._scope.connection.execute(delete(idempotency).where(*self._in_flight(key, body_hash)))

    def remove_expired(self) -> None:
        """Remove the answers given more than a day ago."""
        self._scope.connection.execute(delete(idempotency).where(idempotency.c.created_at <= self._scope.now() - KEPT))

    def _in_flight(self, key: str, body_hash: str) -> tuple[Any, ...]:
        return (
            idempotency.c.key == key,
            idempotency.c.body_hash == body_hash,
            idempotency.c.status.is_(None),
        )
