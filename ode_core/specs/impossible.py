"""What a job asks that its model cannot do; known before anything is computed."""

from typing import ClassVar


class Impossible(ValueError):
    """A model cannot do what a job asks of it; the message says why, and what to change.

    Attributes:
        code: of the problem, for programs; each kind of job has its own.
        part: the part of the spec that is to be changed.
    """

    code: ClassVar[str]

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part
