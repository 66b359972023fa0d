"""What a process that has one role answers where something is asked of it that processes of another do."""

from collections.abc import Sequence
from typing import Literal

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from api.problems import Problem, answer_problem

Role = Literal["control", "inference"]

_DOES: dict[Role, str] = {"control": "predicts nothing", "inference": "only predicts"}
_OTHER: dict[Role, Role] = {"control": "inference", "inference": "control"}
_LISTED_BY_CONTROL = {"model_not_found", "model_version_not_found", "alias_not_found"}


class RoleProblems:
    """The handler of problems in a process of one role.

    Args:
        role: of the process.
        elsewhere: what processes of the other role have and this one has not.
    """

    def __init__(self, role: Role, elsewhere: Sequence[APIRouter]) -> None:
        self._role = role
        self._elsewhere = elsewhere

    async def answer(self, request: Request, problem: Exception) -> Response:
        """Answer like ``answer_problem``, and say whom to ask."""
        assert isinstance(problem, HTTPException)
        if isinstance(problem, Problem):
            if self._role == "inference" and problem.code in _LISTED_BY_CONTROL:
                detail = (
                    f"{problem.detail}; this process only predicts: ask one of ODENESS_ROLE=control or all for lists"
                )
                problem = Problem(problem.status_code, problem.code, detail, errors=problem.errors)
        elif problem.status_code == 404 and self._is_elsewhere(request):
            detail = (
                f"this process {_DOES[self._role]} (ODENESS_ROLE={self._role}): for {request.url.path} ask one of "
                f"ODENESS_ROLE={_OTHER[self._role]} or all"
            )
            problem = Problem(404, "route_not_found", detail)
        return await answer_problem(request, problem)

    def _is_elsewhere(self, request: Request) -> bool:
        routes = (route for router in self._elsewhere for route in router.routes)
        return any(route.matches(request.scope)[0] is not Match.NONE for route in routes)
