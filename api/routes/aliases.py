"""Aliases: names for a model's versions, moved by one request and put back by another."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from api.idempotency_key import IdempotencyKey
from api.idempotent_requests import Made, answer_once
from api.identifiers import AliasName, ModelName, find_alias, find_version, require_model
from api.openapi import POSTED, Responses, problem_responses
from api.problems import Problem, invalid
from api.query_parameters import After, Limit, refuse_unknown_query
from api.schemas.aliases import MAX_VERSION, AliasAnswer, AliasDetail, MoveAlias
from api.schemas.answer import ListOf
from api.services import ServicesOfApp, StoreOfApp
from ode_core.specs import ALIAS_PATTERN, LATEST
from store.errors import AliasMoved, NotFound, NothingToRollBack
from store.unit_of_work import Transaction

router = APIRouter(prefix="/v1", tags=["models"], dependencies=[Depends(refuse_unknown_query)])

Expected = Annotated[
    int | None,
    Query(alias="expected_version", ge=1, le=MAX_VERSION, description="where it has to point, or nothing is changed"),
]

_MOVED: Responses = {
    200: {"description": "The alias points at the version"},
    201: {
        "description": "The alias is made and points at the version",
        "model": AliasAnswer,
        "headers": {"Location": {"description": "the alias", "schema": {"type": "string"}}},
    },
}


@router.get("/models/{name}/aliases", responses=problem_responses(404), summary="List a model's aliases by name")
def list_aliases(store: StoreOfApp, name: ModelName, limit: Limit = 50, after: After = None) -> ListOf[AliasAnswer]:
    """List where a model's aliases point. `latest` is none of them: it is always the newest version."""
    with store.reading() as tx:
        require_model(tx, name)
        page = tx.aliases.list(name, limit=limit, after=after)
    return ListOf[AliasAnswer](
        data=[AliasAnswer.of(alias) for alias in page.items], has_more=page.has_more, next_cursor=page.next_cursor
    )


@router.get("/models/{name}/aliases/{alias}", responses=problem_responses(404), summary="Read an alias and its history")
def get_alias(store: StoreOfApp, name: ModelName, alias: AliasName, limit: Limit = 50) -> AliasDetail:
    """Read where an alias points, and its last moves."""
    with store.reading() as tx:
        found = find_alias(tx, name, alias)
        moves = tx.aliases.history(name, alias, limit=limit)
    return AliasDetail.with_history(found, moves)


@router.put(
    "/models/{name}/aliases/{alias}",
    responses=_MOVED | problem_responses(404, 409, *POSTED),
    summary="Point an alias at a version",
)
def move_alias(
    store: StoreOfApp, response: Response, name: ModelName, alias: AliasName, move: MoveAlias
) -> AliasAnswer:
    """Point an alias at a version, and make it if there is none.

    Whoever asks for the alias is given the version before or the new one, and nothing between. One that points there
    already stays as it is, so that the request can be repeated.
    """
    _require_changeable(alias)
    with store.transaction() as tx, _refusals():
        find_version(tx, name, move.version)
        made = tx.aliases.hold(name, alias) is None
        moved = AliasAnswer.of(tx.aliases.move(name, alias, move.version, expected=move.expected_version))
    if made:
        response.status_code = 201
        response.headers["Location"] = moved.links.self
    return moved


@router.post(
    "/models/{name}/aliases/{alias}/rollback",
    responses=problem_responses(404, 409),
    summary="Put an alias back to the version before",
)
def roll_back_alias(
    services: ServicesOfApp,
    response: Response,
    name: ModelName,
    alias: AliasName,
    expected_version: Expected = None,
    idempotency_key: IdempotencyKey = None,
) -> AliasAnswer:
    """Put an alias back to where it pointed before its last move; a further rollback goes a further move back."""
    _require_changeable(alias)

    def roll_back(tx: Transaction) -> Made:
        find_alias(tx, name, alias)
        moved = tx.aliases.roll_back(name, alias, expected=expected_version)
        return Made(AliasAnswer.of(moved).model_dump(mode="json"))

    request = ["rollback", name, alias, expected_version]

    with _refusals():
        answer = answer_once(services, request, idempotency_key, status=200, make=roll_back)
    response.headers.update(answer.headers)
    return AliasAnswer.model_validate(answer.body)


@router.delete(
    "/models/{name}/aliases/{alias}",
    status_code=204,
    responses=problem_responses(404, 409),
    summary="Remove an alias",
)
def remove_alias(store: StoreOfApp, name: ModelName, alias: AliasName, expected_version: Expected = None) -> None:
    """Remove an alias; the version it points at stays."""
    _require_changeable(alias)
    with store.transaction() as tx, _refusals():
        find_alias(tx, name, alias)
        tx.aliases.remove(name, alias, expected=expected_version)


def _require_changeable(alias: str) -> None:
    if alias.lower() == LATEST:
        raise invalid(
            "alias",
            f"{LATEST} is always the newest version and cannot be moved: take another name, such as production, and "
            "have your clients name that",
            code="alias_reserved",
        )
    if not re.fullmatch(ALIAS_PATTERN, alias):
        raise invalid(
            "alias", "must begin with a letter and have at most 100 letters, digits, dots, hyphens and underscores"
        )


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn the store's refusals into problems."""
    try:
        yield
    except NotFound as refused:  # removed by another request since it was found
        raise Problem(404, "alias_not_found", f"{refused}: see which there are") from refused
    except AliasMoved as refused:
        raise Problem(
            409, "alias_moved", f"{refused}: see who moved it, and ask again with what is there now"
        ) from refused
    except NothingToRollBack as refused:
        raise Problem(409, "nothing_to_roll_back", f"{refused}: PUT the version that it is to point at") from refused
