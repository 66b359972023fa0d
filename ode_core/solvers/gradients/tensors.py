"""The tensors a solve has gradients for besides its start, and the sums of their gradients."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ode_core.solvers.solution import Field
from ode_core.specs.gradient import GradientMode


def gradient_tensors(field: Field, parameters: Iterable[Tensor] | None, mode: GradientMode) -> tuple[Tensor, ...]:
    """Return the tensors that gradients are wanted for: those of ``parameters``, else the field's own.

    Raises:
        ValueError: the field is a plain function, which does not tell what it uses.
    """
    if parameters is None:
        parameters = field.parameters() if isinstance(field, nn.Module) else getattr(field, "tensors", None)
        if parameters is None:
            raise ValueError(
                f"gradient {mode} must know the tensors that the field uses: pass parameters=[...] "
                f"(an empty list when it uses none), or a field that is an nn.Module"
            )
    # A tensor that two layers share comes twice, and would get its gradient twice.
    return tuple({id(tensor): tensor for tensor in parameters if tensor.requires_grad}.values())


class GradientSums:
    """Sums of gradients, one for each tensor; None where nothing was added.

    Attributes:
        tensors: whose gradients they are.
        values: the sums.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tuple(tensors)
        self.values: list[Tensor | None] = [None] * len(self.tensors)
        self._checked = False

    @torch.no_grad()
    def add(self, gradients: Sequence[Tensor | None], *, factor: float = 1.0) -> None:
        """Add ``factor`` times one gradient, or None, for each tensor."""
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            total = self.values[i]
            self.values[i] = factor * gradient if total is None else total.add_(gradient, alpha=factor)

    def pull_back(self, results: Sequence[Tensor], cotangents: Sequence[Tensor], state: Tensor) -> Tensor:
        """Add what the tensors get from the results; return what ``state`` gets.

        Args:
            results: computed from ``state`` and the tensors, with a graph.
            cotangents: the gradients of the loss by the results.
            state: a leaf that requires a gradient.

        Raises:
            ValueError: the results also come from another tensor that requires a gradient.
        """
        if not self._checked:
            require_only(results, (state, *self.tensors))
            self._checked = True
        if not any(result.requires_grad for result in results):
            return torch.zeros_like(state)
        first, *others = torch.autograd.grad(results, (state, *self.tensors), cotangents, allow_unused=True)
        self.add(others)
        return torch.zeros_like(state) if first is None else first


def require_only(results: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Raise ``ValueError`` when the graph of the results has a leaf that is none of the tensors."""
    known = {id(tensor) for tensor in tensors}
    seen = {tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None}
    nodes = [result.grad_fn for result in results]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            raise ValueError(
                f"the field uses a tensor of shape {tuple(leaf.shape)} that requires a gradient and is not among the "
                f"parameters, so it would get none: add it to parameters, or detach it"
            )
        nodes += [source for source, _ in node.next_functions]
