"""What predicting a whole data set asks of it, and how much is stored; known before anything is computed."""

import math

from ode_core.specs.dataset import DatasetSpec
from ode_core.specs.evaluation import PredictJobSpec
from ode_core.specs.impossible import Impossible
from ode_core.specs.training import TrainingJobSpec

# Of one sample: two labels and three counts of 4 bytes, and a status of one.
_FIXED_BYTES, _NUMBER_BYTES = 21, 4


class PredictionImpossible(Impossible):
    """The model cannot predict this data set; the message says why."""

    code = "prediction_impossible"


def samples_to_predict(spec: PredictJobSpec, trained: TrainingJobSpec, dataset: DatasetSpec) -> int:
    """Return how many samples a job predicts.

    Args:
        spec: the job.
        trained: the training job of the model version.
        dataset: what is predicted; of an uploaded one with its facts.

    Raises:
        PredictionImpossible: the data set's inputs have another shape than the model's.
    """
    expected, given = trained.dataset.input_shape, dataset.input_shape
    if given != expected:
        raise PredictionImpossible(
            "dataset",
            f"an input of the data set has shape {list(given)}, the model was trained on inputs of shape "
            f"{list(expected)}: {_remedy(expected, given)}",
        )
    there = dataset.train_samples if spec.split == "train" else dataset.test_samples
    assert there is not None  # nothing but an uploaded data set without facts has none, and that has no shape either
    return there if spec.samples is None else min(spec.samples, there)


def _remedy(expected: tuple[int, ...], given: tuple[int, ...]) -> str:
    if math.prod(given) != math.prod(expected):
        return "name a data set of that shape, or leave dataset out"
    shape = ", ".join(map(str, expected))
    return f"they are as many numbers, arranged otherwise; upload the set with inputs reshaped to [n, {shape}]"


def prediction_bytes(classes: int, *, logits: bool) -> int:
    """Return how many bytes the stored prediction of one sample takes."""
    return _FIXED_BYTES + _NUMBER_BYTES * classes * (2 if logits else 1)
