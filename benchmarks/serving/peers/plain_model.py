"""Sphere2 as one writes it with torch alone: two points of a signal, a small convolutional field, rk4 with 16 steps."""

import os

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

STEPS = 16
WEIGHTS = "SPHERE2_WEIGHTS"


class Sphere2(nn.Module):
    """Probabilities of a classifier whose middle is an ordinary differential equation over [0, 1].

    The names of its parts are those of the tensors in the file of weights.
    """

    def __init__(self, channels: int = 32, classes: int = 2) -> None:
        super().__init__()
        self.field = nn.Module()
        self.field.network = nn.Sequential(
            nn.Conv1d(1, channels, 1),
            nn.ReLU(),
            nn.Conv1d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(channels, 1, 1),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(2, classes))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return probabilities ``(n, classes)`` for inputs ``(n, 2)``."""
        f, h = self.field.network, 1.0 / STEPS
        z = inputs.reshape(-1, 1, 2)
        for _ in range(STEPS):
            k1 = f(z)
            k2 = f(z + h / 2 * k1)
            k3 = f(z + h / 2 * k2)
            k4 = f(z + h * k3)
            z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return self.head(z).softmax(-1)


def load_model() -> Sphere2:
    """Return the model with the weights of the file that the environment names, for one thread."""
    torch.set_num_threads(1)
    model = Sphere2()
    model.load_state_dict(load_file(os.environ[WEIGHTS]))
    return model.eval().requires_grad_(False)
