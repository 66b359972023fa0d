"""Requests for predictions and their answers.

For the description in OpenAPI only: requests are parsed in ``api.inference.prediction_request`` and
answers written without pydantic, because they are mostly numbers.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from api.inference.prediction_call import LONGEST_SECONDS, MOST_TIMES
from api.schemas.answer import Answer
from api.schemas.solvers import SolverAnswer
from ode_core.audit.solver_choice import DEFAULT_AGREEMENT
from ode_core.specs import By, Evidence, Otherwise, SolverSpec


class PredictRequest(BaseModel):
    """Inputs, and the solver to run the model with."""

    model_config = ConfigDict(extra="forbid")

    inputs: list[Any] = Field(
        min_length=1,
        description="a list of inputs, each of the version's input_shape, in the data set's own units",
        examples=[[[[0.1, 0.12]]]],
    )
    solver: SolverSpec | Literal["auto"] | None = Field(
        default=None,
        description="null: the solver the version was trained with; auto: the cheapest that an audit found to agree",
    )
    agreement: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description=f"for auto: on which share of the audited samples it has to agree; null: {DEFAULT_AGREEMENT:g}",
    )
    evidence: Evidence | None = Field(
        default=None,
        description="for auto: what has to reach the agreement: the estimate (null), or its 95 % interval's lower end",
    )
    by: By | None = Field(
        default=None,
        description="for auto: what is to be the least: evaluations of the field (null), or the measured time",
    )
    otherwise: Otherwise | None = Field(
        default=None,
        description="for auto, where no solver is known to agree: refuse (null) with 409, or training_solver",
    )
    certify: StrictBool | None = Field(
        default=None, description="whether to solve again with twice the steps, and say whether each prediction holds"
    )
    times: list[float] | None = Field(
        default=None,
        min_length=1,
        max_length=MOST_TIMES,
        description="ascending, within the model's interval: the states then are in each prediction's trajectory",
    )
    deadline_seconds: float | None = Field(
        default=None, gt=0, le=LONGEST_SECONDS, description="how long the answer is of use; null: the longest time"
    )


class PredictionCertificate(Answer):
    """Whether a prediction depends on its solver, as far as a finer one tells."""

    holds: bool = Field(description="the finer solver says the same, and the margin is above twice logit_error")
    flips: bool | None = Field(description="whether the finer solver says something else; null: one of them failed")
    logit_error: float | None = Field(
        description="largest error of a logit, estimated from the difference to the finer solver's; null: one failed"
    )
    margin: float | None = Field(description="by how much the largest logit leads; null when the solve failed")
    status: str = Field(description="how the finer solve ended, as a prediction's status says it of its own")
    remedy: str | None = Field(description="what to do about a failed check")


class CertificateSummary(Answer):
    """What the certificates of a request took."""

    solver: SolverAnswer = Field(description="the finer one: twice the steps, or a tenth of the tolerances")
    nfe: float = Field(description="mean evaluations of the vector field it took, besides the prediction's own")
    held: int = Field(description="predictions that hold")


class PredictedRow(Answer):
    """What is predicted for one input."""

    label: int | None = Field(description="null when the solve failed")
    probabilities: list[float] | None = Field(description="one a class; null when the solve failed")
    logits: list[float] | None
    status: str = Field(
        description="success, max_steps_reached, step_underflow, non_finite, budget_exceeded or newton_diverged"
    )
    remedy: str | None = Field(description="what to do about a failed solve")
    nfe: int = Field(description="evaluations of the vector field for this input")
    accepted: int = Field(description="accepted steps")
    rejected: int = Field(description="rejected steps")


class Prediction(PredictedRow):
    """The answer for one input."""

    certificate: PredictionCertificate | None = Field(default=None, description="only where certify was asked for")
    trajectory: list[Any] | None = Field(
        default=None, description="only where times were given: the state at each, null where the solve had failed"
    )


class PredictAnswer(Answer):
    """Predictions in the order of the inputs."""

    model: str
    version: int
    solver: SolverAnswer
    solver_reason: str | None = Field(default=None, description="only with auto: why that solver")
    certificate: CertificateSummary | None = Field(default=None, description="only where certify was asked for")
    predictions: list[Prediction]
    nfe: float = Field(description="mean of the inputs' evaluations of the vector field")
    accepted: float = Field(description="mean number of accepted steps")
    rejected: float = Field(description="mean number of rejected steps")
    failures: int = Field(description="inputs whose solve failed")
