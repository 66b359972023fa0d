"""A classifier with its solver inside, as a graph whose size does not grow with the number of steps."""

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from ode_core.fields.modified_field import ModifiedField
from ode_core.models.classifier import Classifier
from ode_core.solvers.explicit_methods import TABLEAUS
from ode_core.specs.solver import SolverSpec


class FixedStepClassifier(nn.Module):
    """``inputs -> (probabilities, logits)`` by an explicit method with equal steps, without a branch on a value.

    The steps are a loop (``scan``) over the times of their stages. A row of NaN is what a failed solve gives: its
    state, or a logit, is not finite.

    Args:
        model: the weights are shared with it.
        solver: an explicit method with equal steps, as ``export_solver`` returns it.
    """

    times: Tensor

    def __init__(self, model: Classifier, solver: SolverSpec) -> None:
        super().__init__()
        self.stem, self.field, self.head = model.stem, model.field, model.head
        self.input_scale = model.input_scale
        steps = solver.fixed_steps(0.0, model.end_time)
        h = model.end_time / steps
        tableau = TABLEAUS[solver.method]
        self._rows = [[h * float(w) for w in row] for row in tableau.grid_rows]
        self._b = [h * float(w) for w in tableau.b]
        k = torch.arange(steps, dtype=torch.float64).unsqueeze(1)
        c = torch.tensor([float(c) for c in tableau.c[: len(self._rows)]], dtype=torch.float64)
        times = (model.end_time * (k + c) / steps).clamp(0.0, model.end_time)
        self.register_buffer("times", times.to(model.device, model.dtype))
        if isinstance(model.field, ModifiedField):
            # Known before tracing: the cached property behind it takes a lock, which cannot be traced.
            _ = TABLEAUS[model.field.spec.solver.method].grid_rows

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities and logits ``(batch, classes)`` of ``(batch, *input_shape)`` in the data set's units."""
        z = inputs if self.input_scale == 1.0 else inputs * self.input_scale
        if self.stem is not None:
            z = self.stem(z)
        # What a scan collects beside the state is of no use here: nothing of it is kept.
        z, _ = scan(lambda state, times: (self._step(state, times), times[:0].clone()), z, self.times)
        logits = self.head(z)
        finite = torch.isfinite(z.flatten(1)).all(1, keepdim=True) & torch.isfinite(logits).all(1, keepdim=True)
        logits = torch.where(finite, logits, torch.nan)
        return torch.softmax(logits, 1), logits

    def _step(self, z: Tensor, times: Tensor) -> Tensor:
        slopes: list[Tensor] = []
        for t, row in zip(times.unbind(), self._rows, strict=True):
            slopes.append(self.field(t, _advance(z, slopes, row)))
        return _advance(z, slopes, self._b)


def _advance(z: Tensor, slopes: list[Tensor], weights: list[float]) -> Tensor:
    for weight, slope in zip(weights, slopes, strict=False):  # of b, a last stage that no step evaluates is left out
        if weight:
            z = z + weight * slope
    return z
