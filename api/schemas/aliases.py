"""Requests and answers about aliases of model versions."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import Field

from api.schemas.answer import Answer
from ode_core.specs import Spec
from store.aliases import Alias, AliasMove, MoveKind

MAX_VERSION = 2**31 - 1


class MoveAlias(Spec):
    """Where an alias is to point."""

    version: int = Field(ge=1, le=MAX_VERSION, description="the version it is to point at")
    expected_version: int | None = Field(
        default=None,
        ge=0,
        le=MAX_VERSION,
        description="where it has to point before, or nothing is moved; 0: there must be no such alias; null: anywhere",
    )


class AliasLinks(Answer):
    """Where to go from an alias."""

    self: str = Field(description="the alias with its history")
    model: str = Field(description="the model with all its versions")
    version: str = Field(description="the version it points at")
    predict: str = Field(description="POST to predict with the version it points at")
    rollback: str = Field(description="POST to put it back")


class AliasAnswer(Answer):
    """A name for a version of a model."""

    model: str = Field(description="name of the model")
    alias: str = Field(description="the name", examples=["production"])
    version: int = Field(description="the version it points at")
    previous_version: int | None = Field(description="where a rollback puts it; null: there is no version before")
    revision: int = Field(description="how often it was moved, removals included")
    moved_at: datetime = Field(description="when it was moved last")
    links: AliasLinks

    @classmethod
    def of(cls, alias: Alias) -> "AliasAnswer":
        """Return the answer about an alias of the store."""
        model = f"/v1/models/{alias.model}"
        own = f"{model}/aliases/{alias.alias}"
        return cls(
            model=alias.model,
            alias=alias.alias,
            version=alias.version,
            previous_version=alias.previous_version,
            revision=alias.revision,
            moved_at=alias.moved_at,
            links=AliasLinks(
                self=own,
                model=model,
                version=f"{model}/versions/{alias.version}",
                predict=f"{own}/predict",
                rollback=f"{own}/rollback",
            ),
        )


class AliasMoveAnswer(Answer):
    """One move of an alias."""

    revision: int = Field(description="number of the move, from 1")
    kind: MoveKind = Field(description="move: to a version that was named; rollback: to the one before; removal")
    version: int | None = Field(description="where it pointed from then on; null: it was removed")
    moved_at: datetime = Field(description="when")


class AliasDetail(AliasAnswer):
    """A name for a version of a model, and where it has pointed."""

    history: list[AliasMoveAnswer] = Field(description="the last moves, the newest first, `limit` of them at most")

    @classmethod
    def with_history(cls, alias: Alias, moves: Sequence[AliasMove]) -> "AliasDetail":
        """Return the answer about an alias of the store and its last moves."""
        history = [
            AliasMoveAnswer(revision=move.revision, kind=move.kind, version=move.version, moved_at=move.moved_at)
            for move in moves
        ]
        return cls(**dict(AliasAnswer.of(alias)), history=history)
