"""Answers about the predictions of a whole data set."""

from typing import Literal

from pydantic import Field

from api.schemas.answer import Answer
from api.schemas.prediction import PredictedRow
from api.schemas.solvers import SolverAnswer
from ode_core.specs import DatasetSpec, Split


class SamplePrediction(PredictedRow):
    """The stored prediction of one sample; `logits` are null, too, where the job stored none."""

    sample: int = Field(description="its place in the split, from 0")
    truth: int = Field(description="the data set's label")


class PredictResult(Answer):
    """What the predictions of a data set come to."""

    model: str
    version: int
    solver: SolverAnswer = Field(description="that the model was run with")
    solver_reason: str | None = Field(default=None, description="why that solver, where it was to be chosen (auto)")
    dataset: DatasetSpec = Field(description="that was predicted")
    split: Split
    classes: int = Field(description="of the model: probabilities of a sample")
    logits: bool = Field(description="whether logits are stored")
    samples: int = Field(description="that were predicted")
    accuracy: float = Field(description="share of right labels; a failed solve counts as wrong")
    failures: int = Field(description="samples whose solve failed")
    failure_reasons: dict[str, int] = Field(description="how many of them ended with which status")
    nfe: float = Field(description="mean evaluations of the vector field for one sample")
    seconds: float = Field(description="that the solves took, in all attempts that stored any")
    device: str = Field(description="what they were computed on: cpu or cuda")
    precision: Literal["float32", "float64"] = Field(description="what they were computed in")
