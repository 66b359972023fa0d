"""Models as users of other libraries write them: fields ``func(t, z)`` for torchdiffeq and torchdyn, stem and head."""

import math
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn


class TimeField(nn.Module):
    """The usual field for torchdiffeq: the 0-d time as a further feature."""

    def __init__(self, size: int = 2, hidden: int = 24) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(size + 1, hidden), nn.Tanh(), nn.Linear(hidden, size))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return self.net(torch.cat([z, t * torch.ones_like(z[:, :1])], dim=1))


class Rotation(nn.Module):
    """``z' = w A z``: its flow turns the plane by ``w`` in a unit of time."""

    def __init__(self, angle: float) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[0.0, -angle], [angle, 0.0]], dtype=torch.float64))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return z @ self.matrix.T


class SpeedingRotation(nn.Module):
    """A rotation at the speed ``1 + t/2``."""

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return (1 + t / 2) * torch.stack([-z[:, 1], z[:, 0]], dim=1)


class ODEBlock(nn.Module):
    """A whole model with torchdiffeq inside, as its tutorials have it."""

    def __init__(self, odefunc: nn.Module, head: nn.Module, step: float) -> None:
        super().__init__()
        self.odefunc, self.head, self.step = odefunc, head, step

    def forward(self, x: Tensor) -> Tensor:
        times = torch.tensor([0.0, 1.0], dtype=x.dtype)
        options = {"step_size": self.step}
        end: Tensor = self.head(torchdiffeq.odeint(self.odefunc, x, times, method="euler", options=options)[-1])
        return end


class WithTime(nn.Module):
    """What torchdyn puts around a field, by its signature: ``forward(t, x, args={})``, and a count of calls."""

    def __init__(self, vf: nn.Module) -> None:
        super().__init__()
        self.vf, self.nfe, self.integral_loss = vf, 0.0, None

    def forward(self, t: Tensor, x: Tensor, args: Any = {}) -> Tensor:  # noqa: B006
        self.nfe += 1
        result: Tensor = self.vf(t, x)
        return result


class StandInForNeuralODE(nn.Module):
    """What is looked for in torchdyn's ``NeuralODE``, by name and signature; torchdyn itself is too heavy for these
    tests, and brings another torch."""

    def __init__(self, vector_field: nn.Module) -> None:
        super().__init__()
        self.vf = WithTime(vector_field)
        # Kept from its making, with a graph: it cannot be copied, and need not.
        self.vf_params = torch.cat([p.flatten() for p in vector_field.parameters()])

    def forward(self, x: Tensor, t_span: Tensor | None = None, save_at: Any = (), args: Any = {}) -> Tensor:  # noqa: B006
        raise AssertionError("the audit makes the steps itself")


def first_coordinate(z: Tensor) -> Tensor:
    """Class 1 where the first coordinate is positive."""
    return torch.stack([-z[:, 0], z[:, 0]], dim=1)


def circle(samples: int) -> Tensor:
    """Points evenly on the unit circle, in float64, none on an axis."""
    angles = 2 * math.pi * (torch.arange(samples, dtype=torch.float64) + 0.25) / samples
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def spheres(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """A disc within a ring, in float32, with their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 2
    angle, share = torch.rand(2, samples, generator=generator)
    radius = labels + 0.5 * share
    return torch.stack([radius * (6.2832 * angle).cos(), radius * (6.2832 * angle).sin()], dim=1), labels


def trained_block(steps: int, iterations: int = 300) -> ODEBlock:
    """A model trained through torchdiffeq's Euler steps on a disc within a ring."""
    torch.manual_seed(0)
    block = ODEBlock(TimeField(), nn.Linear(2, 2), 1 / steps)
    optimizer = torch.optim.Adam(block.parameters(), lr=1e-2)
    inputs, labels = spheres(256, seed=0)
    for _ in range(iterations):
        loss = nn.functional.cross_entropy(block(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return block
