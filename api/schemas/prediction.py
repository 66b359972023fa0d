"""Requests for predictions and their answers.

For the description in OpenAPI only: requests are parsed in ``api.inference.prediction_request`` and
answers written without pydantic, because they are mostly numbers.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.answer import Answer
from api.schemas.solvers import SolverAnswer
from ode_core.specs import SolverSpec


class PredictRequest(BaseModel):
    """Inputs, and the solver to run the model with."""

    model_config = ConfigDict(extra="forbid")

    inputs: list[Any] = Field(
        min_length=1,
        description="a list of inputs, each of the version's input_shape, in the data set's own units",
        examples=[[[[0.1, 0.12]]]],
    )
    solver: SolverSpec | None = Field(default=None, description="null: the solver the version was trained with")


class Prediction(Answer):
    """The answer for one input."""

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


class PredictAnswer(Answer):
    """Predictions in the order of the inputs."""

    model: str
    version: int
    solver: SolverAnswer
    predictions: list[Prediction]
    nfe: float = Field(description="mean of the inputs' evaluations of the vector field")
    accepted: float = Field(description="mean number of accepted steps")
    rejected: float = Field(description="mean number of rejected steps")
    failures: int = Field(description="inputs whose solve failed")
