"""Measures what rules ask, on the model in training."""

import copy

import torch
from torch import Tensor

from ode_core.audit.reference import Reference, converged_reference
from ode_core.models.classifier import Classifier
from ode_core.models.predictions import Predictions, predict
from ode_core.specs.solver import SolverSpec
from ode_core.training.adaptation.first_step import first_step
from ode_core.training.adaptation.rule import Flips, Measured


class ModelProbe:
    """The model as it is at one check, on the current batch and on the audit batch.

    Args:
        model: the model in training.
        inputs: ``(batch, *sample_shape)`` of the current batch.
        labels: ``(batch,)``.
        audit_inputs: ``(samples, *sample_shape)``, or None where no rule asks for flips.
        max_evaluations: bound on the evaluations of the field for one sample in a solve on the audit batch, or None;
            a sample beyond it counts as one that flips, or whose reference is not settled.
    """

    def __init__(
        self,
        model: Classifier,
        inputs: Tensor,
        labels: Tensor,
        audit_inputs: Tensor | None,
        max_evaluations: int | None,
    ) -> None:
        self._model, self._inputs, self._labels = model, inputs, labels
        self._audit_inputs, self._max_evaluations = audit_inputs, max_evaluations
        self._exact: Classifier | None = None
        self._reference: Reference | None = None

    def accuracy(self, solver: SolverSpec, *, exact: bool = False) -> Measured:
        """Return the accuracy on the current batch; see ``Probe``."""
        model = self._in_float64() if exact else self._model
        output = model.predict(self._inputs, solver)
        # A failed solve is wrong, whatever class argmax makes of its NaN.
        right = (output.logits.argmax(dim=1) == self._labels) & torch.isfinite(output.logits).all(dim=1)
        return Measured(float(right.double().mean()), float(output.solution.evaluations.double().mean()))

    @torch.no_grad()
    def first_step(self, order: int, max_steps: int) -> float:
        """Return the relative step to begin with; see ``Probe``."""
        start = self._model.initial_state(self._inputs)
        return first_step(self._model.field, start, order=order, end_time=self._model.end_time, max_steps=max_steps)

    def flips(self, solver: SolverSpec) -> Flips:
        """Return the flips on the audit batch; see ``Probe``."""
        reference = self._converged()
        predictions = self._audited(solver)
        flipped = predictions.flips(reference.predictions)
        return Flips(
            fewest=int((flipped & reference.settled).sum()),
            most=int((flipped | ~reference.settled).sum()),
            samples=len(flipped),
            evaluations=predictions.mean_evaluations,
        )

    @property
    def reference_evaluations(self) -> float:
        """Evaluations of the reference; see ``Probe``."""
        return 0.0 if self._reference is None else self._reference.evaluations

    def _audited(self, solver: SolverSpec) -> Predictions:
        assert self._audit_inputs is not None
        return predict(self._model, self._audit_inputs, solver, max_evaluations=self._max_evaluations)

    def _converged(self) -> Reference:
        assert self._audit_inputs is not None
        if self._reference is None:
            self._reference = converged_reference(
                self._model, self._audit_inputs, max_evaluations=self._max_evaluations
            )
        return self._reference

    def _in_float64(self) -> Classifier:
        if self._exact is None:
            self._exact = copy.deepcopy(self._model).double()
        return self._exact
