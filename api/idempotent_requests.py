"""Requests with an ``Idempotency-Key``: sent twice, they are answered twice and done once."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from api.problems import Problem
from api.services import Services
from store.errors import IdempotencyConflict
from store.unit_of_work import Transaction


@dataclass(frozen=True)
class Made:
    """What a request's transaction made.

    Attributes:
        body: of the answer.
        id: of the job or study; None for anything else.
        job_ids: the jobs to ring for.
    """

    body: dict[str, Any]
    id: str | None = None
    job_ids: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """The body of an answer, and whether it is an earlier request's."""

    body: dict[str, Any]
    replayed: bool

    @property
    def headers(self) -> dict[str, str]:
        """What tells a repeated answer from the first."""
        return {"Idempotency-Replayed": "true"} if self.replayed else {}


def answer_once(
    services: Services, request: Any, key: str | None, *, status: int, make: Callable[[Transaction], Made]
) -> Answer:
    """Make what a request asks for and ring for its jobs; with an idempotency key, once.

    A repeated request gets the first one's answer. The key, what is made and the answer are written in one
    transaction: a refused request leaves no trace, and of two at the same time one waits for the other.

    Args:
        services: of the application.
        request: what the request asks for, as JSON values: tells it from others.
        key: the client's; None: it will not repeat the request.
        status: the HTTP status of the answer.
        make: writes in the transaction.

    Raises:
        Problem: ``make`` refused, or the key belongs to another request.
    """
    fingerprint = hashlib.sha256(orjson.dumps(request, option=orjson.OPT_SORT_KEYS)).hexdigest()
    try:
        with services.store.transaction() as tx:
            if key is not None:
                earlier = tx.idempotency.begin(key, fingerprint)
                if earlier is not None:
                    return Answer(earlier.body, replayed=True)
            made = make(tx)
            if key is not None:
                tx.idempotency.finish(key, fingerprint, status=status, body=made.body, job_id=made.id)
    except IdempotencyConflict as conflict:
        raise _conflicting_key(conflict) from conflict
    for job_id in made.job_ids:
        services.doorbell.ring(job_id)
    return Answer(made.body, replayed=False)


def _conflicting_key(conflict: IdempotencyConflict) -> Problem:
    if conflict.in_flight:
        return Problem(
            409,
            "idempotency_key_in_flight",
            "a request with this Idempotency-Key is being answered: try again in a moment",
            headers={"Retry-After": "1"},
        )
    return Problem(
        422,
        "idempotency_key_reused",
        "this Idempotency-Key was used for another request: choose a new key for a new request",
        errors=[{"path": "Idempotency-Key", "message": "was used with another body"}],
    )
