"""Classifiers around fields with a known flow: linear ones, and one that explodes."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from ode_core.models.classifier import Classifier, build_classifier
from ode_core.specs import ClassifierSpec, ConcentricSpheresSpec, MlpField

PLANE = ConcentricSpheresSpec(dimension=2)


class LinearField(nn.Module):
    """``f(t, z) = A z`` for states ``(batch, 2)``."""

    def __init__(self, matrix: list[list[float]]) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor(matrix))

    def for_states(self, state_shape: tuple[int, ...]) -> "LinearField":
        return self

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return z @ self.matrix.T


class Counted(LinearField):
    """A linear field that tells of its evaluations."""

    before_evaluation = None

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        if self.before_evaluation is not None:
            self.before_evaluation()
        return super().forward(t, z)


class Explosion(nn.Module):
    """``z' = z^2`` on the first coordinate: it leaves every bound at ``t = 1 / z0``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def for_states(self, state_shape: tuple[int, ...]) -> "Explosion":
        return self

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return self.weight * z**2


def classifier_around(field: nn.Module) -> Classifier:
    """Class 1 where the first coordinate of the final state is positive, else class 0."""
    model = build_classifier(ClassifierSpec(field=MlpField(hidden=(1,))), PLANE)
    model.field = field  # type: ignore[assignment]
    linear = model.head[1]
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
        linear.bias.zero_()
    return model


def rotation(angle: float) -> Classifier:
    """A field whose exact flow turns the plane by ``angle`` over the interval [0, 1]."""
    return classifier_around(LinearField([[0.0, -angle], [angle, 0.0]]))


def circle(samples: int) -> Tensor:
    """Points evenly spread on the unit circle, none of them on an axis."""
    angles = (torch.arange(samples, dtype=torch.float64) + 0.5) * 2 * math.pi / samples
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def euler_angle(angle: float, steps: int) -> float:
    """By how much ``steps`` Euler steps turn the plane: the argument of ``(1 + i angle / steps)^steps``."""
    return steps * math.atan(angle / steps)


def flipped_share(angle: float, steps: int, samples: int) -> float:
    """Share of the circle's points for which the Euler map and the flow end on different sides."""
    angles = (np.arange(samples) + 0.5) * 2 * np.pi / samples
    return float(np.mean((np.cos(angles + angle) > 0) != (np.cos(angles + euler_angle(angle, steps)) > 0)))
