"""The solvers to serve a model version with, as the latest of its audits found them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from store.fence import hold_fence
from store.scope import Scope
from store.tables import solver_choice


@dataclass(frozen=True)
class StoredSolverChoice:
    """What an audit found.

    Attributes:
        version_id: of the model version.
        job_id: of the audit.
        choice: the solvers tried, as ``ode_core.audit.solver_choice`` writes them.
        created_at: when the audit ended.
    """

    version_id: str
    job_id: str
    choice: dict[str, Any]
    created_at: datetime


class SolverChoices:
    """Stores and finds them; a version has one at most."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def replace_for_version(self, version_id: str, job_id: str, attempt: int, choice: Mapping[str, Any]) -> None:
        """Store what a running audit found in the place of what an earlier one did.

        Call it in the transaction that ends the job.

        Raises:
            LeaseLost: the job is no longer this attempt's.
        """
        hold_fence(self._scope, job_id, attempt)
        # The two dialects write it the same way, but have no common class for it.
        statement: Any
        if self._scope.connection.dialect.name == "postgresql":
            statement = postgresql.insert(solver_choice)
        else:
            statement = sqlite.insert(solver_choice)
        found = {"job_id": job_id, "choice": dict(choice), "created_at": self._scope.now()}
        self._scope.connection.execute(
            statement.values(version_id=version_id, **found).on_conflict_do_update(
                index_elements=[solver_choice.c.version_id], set_=found
            )
        )

    def of_version(self, version_id: str) -> StoredSolverChoice | None:
        """Return what the latest finished audit of a version found, or None before the first."""
        query = select(solver_choice).where(solver_choice.c.version_id == version_id)
        row = self._scope.connection.execute(query).mappings().one_or_none()
        return None if row is None else StoredSolverChoice(**row)
