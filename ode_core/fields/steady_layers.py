"""Layers that compute a sample alike, bit for bit, whatever batch it is in and wherever it stands there. On a CPU.

Libraries choose their code by the size of a product, and sum up in another order at the edges of a block. Measured in
float32 and float64 with torch 2.13 (MKL, oneDNN) on a processor with AVX-512, for 1 to 512 rows in random places:
products of whole blocks of 16 rows and 16 columns give a row the same bits, smaller ones do not; oneDNN's convolution
always does, but torch takes it for some sizes only. Elementwise functions differ where less than two vectors are left.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from ode_core.solvers.solution import is_plain

BLOCK = 16
"""Rows and columns that a product is to have a multiple of."""
LANES = 32
"""Numbers that an elementwise function computes at once: in a rest that is smaller it may round otherwise."""


def whole_blocks(size: int) -> int:
    """Return the least multiple of ``BLOCK`` that is not below ``size``."""
    return -(-size // BLOCK) * BLOCK


class SteadyLinear(nn.Module):
    """A linear layer from ``(batch, in)`` to ``(batch, out)`` as a product of whole blocks; its weights are copied."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.features = layer.out_features
        more = whole_blocks(self.features) - self.features
        bias = layer.weight.new_zeros(self.features) if layer.bias is None else layer.bias.detach()
        self.register_buffer("weight", functional.pad(layer.weight.detach().T, (0, more)).contiguous())
        self.register_buffer("bias", functional.pad(bias, (0, more)))

    def forward(self, values: Tensor) -> Tensor:
        """Return the layer's result."""
        rows = len(values)
        if missing := whole_blocks(rows) - rows:
            values = functional.pad(values, (0, 0, 0, missing))
        return torch.addmm(self.bias, values, self.weight)[:rows, : self.features]


class _SteadyConvolution(nn.modules.conv._ConvNd):
    """A convolution by oneDNN for every size; where it cannot be, as torch does it."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.dtype != torch.float32 or input.device.type != "cpu" or torch.is_grad_enabled() or not is_plain(input):
            result: Tensor = super()._conv_forward(input, weight, bias)
            return result
        product: Tensor = torch.ops.aten.mkldnn_convolution(
            input, weight, bias, self.padding, self.stride, self.dilation, self.groups
        )
        return product


class SteadyConv1d(_SteadyConvolution, nn.Conv1d):
    """A convolution over a signal."""


class SteadyConv2d(_SteadyConvolution, nn.Conv2d):
    """A convolution over an image."""


_CONVOLUTIONS: dict[type[nn.Module], type[nn.Module]] = {nn.Conv1d: SteadyConv1d, nn.Conv2d: SteadyConv2d}


def steady(module: nn.Module) -> nn.Module:
    """Return a copy of a layer or of a sequence of layers with steady ones in their place; others stay as they are."""
    if isinstance(module, nn.Sequential):
        return nn.Sequential(*map(steady, module))
    if type(module) is nn.Linear:
        return SteadyLinear(module)
    kind = _CONVOLUTIONS.get(type(module))
    if kind is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return module
    changed = copy.copy(module)
    changed.__class__ = kind
    return changed
