"""Answers about test results."""

from datetime import datetime

from pydantic import Field

from api.schemas.answer import Answer
from api.schemas.solvers import SolverAnswer
from ode_core.specs import DatasetSpec
from store.results import Result


class ResultRow(Answer):
    """One model version tested under one solver."""

    id: str
    job_id: str
    model: str
    version: int
    dataset: DatasetSpec
    train_solver: SolverAnswer
    train_method: str
    train_steps: int | None
    test_solver: SolverAnswer
    test_method: str
    test_steps: int | None
    nfe: float = Field(description="mean evaluations of the vector field for one sample")
    accuracy: float | None
    flip_rate: float | None = Field(description="share of predictions that differ from those under the train solver")
    samples: int
    failures: int = Field(description="samples whose solve failed; they count as wrong")
    seconds: float
    study: str | None = Field(description="id of the study that trained the model, if one did")
    seed: int | None = Field(description="that the study trained the model with")
    created_at: datetime

    @classmethod
    def of(cls, result: Result) -> "ResultRow":
        """Return the row of a result of the store."""
        values = vars(result) | {"study": result.study_id}
        return cls.model_validate({name: values[name] for name in cls.model_fields})
