"""Conflicts of idempotency keys, as problems."""

from api.problems import Problem
from store.errors import IdempotencyConflict


def conflicting_key(conflict: IdempotencyConflict) -> Problem:
    """Return the problem of a key that cannot be used for this request."""
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
