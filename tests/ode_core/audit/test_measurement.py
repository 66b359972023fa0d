import pytest
import torch

from ode_core.audit.measurement import measure
from ode_core.models.predictions import predict
from ode_core.specs import SolverSpec
from tests.ode_core.audit.linear_models import circle, rotation

EULER = SolverSpec(method="euler", steps=3)


def test_predictions_do_not_depend_on_the_size_of_the_batches() -> None:
    model, inputs = rotation(2.0), circle(70)
    for solver in (EULER, SolverSpec(method="dopri5", rtol=1e-4, atol=1e-4)):
        whole = predict(model, inputs, solver)
        in_parts = measure(model, inputs, solver, batch_size=32).predictions
        torch.testing.assert_close(in_parts.logits, whole.logits, rtol=1e-6, atol=1e-6)
        assert torch.equal(in_parts.labels, whole.labels)
        assert torch.equal(in_parts.status, whole.status)
        assert torch.equal(in_parts.evaluations, whole.evaluations)


def test_each_batch_is_announced_with_the_samples_that_are_left() -> None:
    left: list[int] = []
    measurement = measure(rotation(2.0), circle(70), EULER, on_batch=left.append, batch_size=32)
    assert left == [70, 38, 6]
    assert measurement.solver == EULER
    assert measurement.seconds > 0


class Cancelled(Exception):
    """Stands in for a worker's reason to stop."""


def test_an_exception_between_batches_ends_the_measurement() -> None:
    def stop_at_the_second(left: int) -> None:
        if left < 70:
            raise Cancelled

    with pytest.raises(Cancelled):
        measure(rotation(2.0), circle(70), EULER, on_batch=stop_at_the_second, batch_size=32)
