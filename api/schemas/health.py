"""Answers about the server's own state."""

from typing import Literal

from api.schemas.answer import Answer


class Alive(Answer):
    """The process answers."""

    status: Literal["ok"]
    version: str


class Ready(Answer):
    """The server can do its work; with the broker away, work starts later, and who only predicts needs none."""

    status: Literal["ready"]
    database: Literal["ok"]
    broker: Literal["ok", "degraded", "unused"]
