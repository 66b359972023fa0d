"""Answers that are given once for an idempotency key, whose work and record are one transaction."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from api.idempotency_problems import conflicting_key
from store.errors import IdempotencyConflict
from store.unit_of_work import Store, Transaction


@dataclass(frozen=True)
class GivenAnswer:
    """The body of the answer, and whether it is an earlier request's."""

    body: dict[str, Any]
    replayed: bool

    @property
    def headers(self) -> dict[str, str]:
        """Those that tell a replayed answer."""
        return {"Idempotency-Replayed": "true"} if self.replayed else {}


def answer_once(
    store: Store, request: Any, key: str | None, status: int, work: Callable[[Transaction], dict[str, Any]]
) -> GivenAnswer:
    """Do the work of a request in one transaction and return its answer; with a key, once for the same ``request``.

    Args:
        store: the database.
        request: JSON that says what is asked for.
        key: the request's ``Idempotency-Key``.
        status: of the answer.
        work: returns the answer's body; what it raises undoes everything.

    Raises:
        Problem: the key belongs to another request.
    """
    fingerprint = hashlib.sha256(orjson.dumps(request, option=orjson.OPT_SORT_KEYS)).hexdigest()
    try:
        with store.transaction() as tx:
            if key is not None:
                earlier = tx.idempotency.begin(key, fingerprint)
                if earlier is not None:
                    return GivenAnswer(earlier.body, replayed=True)
            body = work(tx)
            if key is not None:
                tx.idempotency.finish(key, fingerprint, status=status, body=body)
    except IdempotencyConflict as conflict:
        raise conflicting_key(conflict) from conflict
    return GivenAnswer(body, replayed=False)
