"""What can go wrong in the store. None of the messages shows a statement or a connection string."""


class StoreError(Exception):
    """Base of all the store's own errors."""


class NotFound(StoreError):
    """No row has this id or name."""


class LeaseLost(StoreError):
    """The job is no longer this attempt's: another worker may be running it. Stop at once."""


class IllegalTransition(StoreError):
    """The job's status does not allow the change asked for."""


class AliasMoved(StoreError):
    """An alias does not point where the caller expected.

    Attributes:
        version: where it points; None: there is no such alias.
    """

    def __init__(self, message: str, version: int | None) -> None:
        super().__init__(message)
        self.version = version


class NothingToRollBack(StoreError):
    """An alias has pointed at no other version before."""


class InvalidCursor(StoreError, ValueError):
    """A pagination cursor is malformed, or belongs to another list or sort order."""


class InvalidSort(StoreError, ValueError):
    """A list cannot be sorted by this column; the message names those it can."""


class BlobCorrupt(StoreError):
    """Stored bytes are incomplete or do not match their SHA-256."""


class IdempotencyConflict(StoreError):
    """An idempotency key cannot be used for this request.

    Attributes:
        in_flight: True if the first request with this key has not been answered yet; False if the
            key was used with another body.
    """

    def __init__(self, message: str, *, in_flight: bool) -> None:
        super().__init__(message)
        self.in_flight = in_flight


class SchemaNotAtHead(StoreError):
    """The database's schema is not the one this version of the program needs."""
