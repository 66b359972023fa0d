"""Query parameters: what all lists share, and the refusal of unknown ones."""

from typing import Annotated

from fastapi import Query, Request

from api.problems import Problem
from ode_core.specs import NAME_PATTERN

Limit = Annotated[int, Query(ge=1, le=1000, description="most rows to return")]
After = Annotated[str | None, Query(max_length=2000, description="the previous page's `next_cursor`")]
StudyFilter = Annotated[str | None, Query(max_length=36, description="id of the study they belong to")]
NameFilter = Annotated[str | None, Query(pattern=NAME_PATTERN)]


async def refuse_unknown_query(request: Request) -> None:
    """Refuse query parameters the route does not declare: a misspelt filter must not list everything."""
    known = sorted(field.alias for field in request.scope["route"].dependant.query_params)
    unknown = sorted(set(request.query_params) - set(known))
    if not unknown:
        return
    remedy = f"use {', '.join(known)}" if known else "there are none here"
    raise Problem(
        422,
        "invalid_request",
        f"unknown query parameter {', '.join(unknown)[:200]}: {remedy}",
        errors=[{"path": name[:200], "message": f"there is no such parameter: {remedy}"} for name in unknown[:50]],
    )
