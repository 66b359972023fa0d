"""What every schema of an answer shares, and the envelope of lists."""

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")


class Answer(BaseModel):
    """Base of all answers: exactly the declared fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ListOf(Answer, Generic[T]):
    """One page of a list."""

    data: list[T]
    has_more: bool = Field(description="whether there is another page")
    next_cursor: str | None = Field(description="pass as `after` to get the next page")


class WrongPart(Answer):
    """One wrong part of a request."""

    path: str = Field(description="of the field, dotted", examples=["solver.steps"])
    message: str


class ProblemDocument(Answer):
    """An error (RFC 9457)."""

    type: str = Field(description="urn:odeness:problem:<code>")
    title: str
    status: int
    detail: str = Field(description="what to do about it")
    code: str = Field(description="for programs", examples=["model_not_found"])
    request_id: str
    errors: list[WrongPart]


JsonObject = dict[str, Any]
