"""What an audit needs of a model: a head after an ordinary differential equation after, perhaps, a stem."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, Self

import torch
from torch import Tensor

from ode_core.fields.model_field import ModelField
from ode_core.models.classifier import ClassifierOutput
from ode_core.specs.solver import SolverSpec


class AuditedModel(Protocol):
    """A classifier that can be solved under any solver; ``Classifier`` is one, and ``ForeignClassifier``.

    ``copy.deepcopy`` makes an independent one, and ``double`` turns a model into float64, in place.
    """

    @property
    def end_time(self) -> float:
        """The ODE runs over ``[0, end_time]``."""

    @property
    def evaluations_in_field(self) -> int:
        """How often the trained field is called in one evaluation of ``field``: once, if it is not a modified one."""

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of the ODE's state for one sample."""

    @property
    def dtype(self) -> torch.dtype:
        """The precision the model computes in."""

    @property
    def device(self) -> torch.device:
        """Where the model computes."""

    @property
    def field(self) -> ModelField:
        """The vector field."""

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        """From final states ``(batch, *state_shape)`` to logits ``(batch, classes)``."""

    def double(self) -> Self:
        """Turn the model into float64 and return it."""

    def uncompiled(self) -> Self:
        """Return the same model, its weights shared, whose steps are never compiled."""

    def initial_state(self, inputs: Tensor) -> Tensor:
        """Return the ODE's start ``(batch, *state_shape)`` for ``inputs`` on the model's device."""

    def float32_products(self) -> AbstractContextManager[None]:
        """Return the setting in which the field's products are what the model asks for."""

    def run_together(
        self, inputs: Tensor, solvers: Sequence[SolverSpec], *, max_evaluations: int | None = None
    ) -> list[ClassifierOutput]:
        """Return logits and solution for ``inputs`` under each of ``solvers``, without gradients."""
