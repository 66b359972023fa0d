"""Within a graph, states of a few numbers as that many vectors.

A compiler that keeps ``(batch, 2)`` runs over pairs of numbers, and writes every slope to memory where the field puts
it together from its components. With two vectors ``(batch,)`` instead, all that is computed for a sample is one loop
over the samples. The operations and their order stay the same.
"""

import importlib
import operator
from collections.abc import Callable, Sequence
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg

MOST_COLUMNS = 8

_aten = torch.ops.aten


@cache
def by_columns() -> Any:
    """Return ``split_into_columns`` as a pass of torch's compiler, with an identity for its cache."""
    passes = importlib.import_module("torch._inductor.custom_graph_pass")

    class ByColumns(passes.CustomGraphPass):  # type: ignore[misc, name-defined]
        def __call__(self, graph: Graph) -> None:
            split_into_columns(graph)

        def uuid(self) -> Any:
            return passes.get_hash_for_files((__file__,))

    return ByColumns()


def split_into_columns(graph: Graph) -> None:
    """Rewrite what is computed pointwise on ``(batch, n)`` with small ``n``, or over a sample, column by column."""
    splitting = _Splitting(graph)
    for node in list(graph.nodes):
        with graph.inserting_before(node):
            if not splitting.split(node):
                splitting.keep(node)
    graph.eliminate_dead_code()


class _Splitting:
    """One run over a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        # Of values (batch, n): the columns of one that was split, and a column of one that was not.
        self._columns: dict[Node, list[Node]] = {}
        self._selected: dict[tuple[Node, int], Node] = {}
        # Which node to take for another: a vector that is a column, or columns put together again.
        self._instead: dict[Node, Node] = {}

    def split(self, node: Node) -> bool:
        """Compute a node by columns; return whether that can be done."""
        if node.op != "call_function":
            return False
        rule = _RULES.get(node.target)
        if rule is not None:
            return rule(self, node, *node.args)
        return _is_pointwise(node) and _is_narrow(node) and self._by_columns(node)

    def keep(self, node: Node) -> None:
        """Let a node that stays as it is have whole what was split before it."""
        for operand in node.all_input_nodes:
            if operand in self._columns and operand not in self._instead:
                self._instead[operand] = self._joined(self._columns[operand], 1)
            if operand in self._instead:
                node.replace_input_with(operand, self._instead[operand])

    def _by_columns(self, node: Node) -> bool:
        options = {name: value for name, value in node.kwargs.items() if name != "memory_format"}

        def at(i: int) -> Node:
            arguments = map_arg(node.args, lambda operand: self._column(operand, i))
            return self._call(node.target, *arguments, **options)

        self._columns[node] = [at(i) for i in range(_shape(node)[1])]
        return True

    def _column(self, operand: Node, i: int) -> Node:
        """Return what stands for an operand, broadcast or not, in the operation on column ``i``."""
        if operand in self._columns:
            columns = self._columns[operand]
            return columns[i if len(columns) > 1 else 0]
        shape, operand = _shape(operand), self._instead.get(operand, operand)
        if shape in ((), (1,)):
            return operand
        place = (operand, i if shape[-1] > 1 else 0)
        if place not in self._selected:
            if len(shape) == 2:
                self._selected[place] = self._call(_aten.select.int, operand, 1, place[1])
            else:
                self._selected[place] = self._call(_aten.slice.Tensor, operand, 0, i, i + 1)
        return self._selected[place]

    def _joined(self, vectors: Sequence[Node], dim: int) -> Node:
        parts = [self._call(_aten.unsqueeze.default, vector, dim) for vector in vectors]
        return parts[0] if len(parts) == 1 else self._call(_aten.cat.default, parts, dim)

    def _call(self, target: Any, *arguments: Any, **options: Any) -> Node:
        node = self._graph.call_function(target, arguments, options)
        node.meta["val"] = target(*map_arg(arguments, lambda operand: operand.meta["val"]), **options)
        return node

    # Rules for what is not pointwise; each says whether it applied.

    def reshape(self, node: Node, source: Node, *how: Any) -> bool:
        """Add or drop a dimension of size 1 at the end, or none."""
        before, after = _shape(source), _shape(node)
        if after == (*before, 1) and len(before) == 1:
            self._columns[node] = [self._instead.get(source, source)]
        elif source not in self._columns:
            return False
        elif before == (*after, 1):
            self._instead[node] = self._columns[source][0]
        elif before == after:
            self._columns[node] = self._columns[source]
        else:
            return False
        return True

    def expand(self, node: Node, source: Node, size: Sequence[int]) -> bool:
        """Repeat the only column."""
        if source not in self._columns or not _is_narrow(node):
            return False
        self._columns[node] = [self._column(source, i) for i in range(_shape(node)[1])]
        return True

    def concatenate(self, node: Node, parts: Sequence[Node], dim: int = 0) -> bool:
        """Put columns side by side."""
        if not _is_narrow(node) or dim not in (1, -1):
            return False
        self._columns[node] = [self._column(part, i) for part in parts for i in range(_shape(part)[1])]
        return True

    def select(self, node: Node, source: Node, dim: int, index: int) -> bool:
        """Take a column."""
        if source not in self._columns or dim not in (1, -1):
            return False
        self._instead[node] = self._columns[source][index]
        return True

    def slice(
        self,
        node: Node,
        source: Node,
        dim: int = 0,
        start: int | None = None,
        end: int | None = None,
        step: int = 1,
    ) -> bool:
        """Take some of the columns."""
        if source not in self._columns or dim not in (1, -1):
            return False
        self._columns[node] = self._columns[source][start:end:step]
        return True

    def unbind(self, node: Node, source: Node, dim: int = 0) -> bool:
        """Take all columns."""
        if source not in self._columns or dim not in (1, -1):
            return False
        for item in node.users:
            index = item.args[1]
            assert isinstance(index, int)
            self._instead[item] = self._columns[source][index]
        return True

    def item(self, node: Node, source: Node, index: int) -> bool:
        """Take what ``unbind`` has found."""
        return node in self._instead

    def transpose(self, node: Node, source: Node, order: Sequence[int]) -> bool:
        """Make rows of columns, or columns of rows."""
        if list(order) != [1, 0]:
            return False
        if source in self._columns:
            self._instead[node] = self._joined(self._columns[source], 0)
        elif _is_narrow(node):
            rows = self._instead.get(source, source)
            self._columns[node] = [self._call(_aten.select.int, rows, 0, i) for i in range(_shape(node)[1])]
        else:
            return False
        return True

    def reduce(self, node: Node, source: Node, dim: Any = None, keepdim: bool = False) -> bool:
        """Reduce over the columns, from the first to the last."""
        dims = list(dim) if isinstance(dim, Sequence) else [dim]
        if source not in self._columns or dims not in ([1], [-1]) or node.kwargs:
            return False
        columns = self._columns[source]
        value = reduce(lambda one, other: self._call(_REDUCTIONS[node.target], one, other), columns)
        if node.target is _aten.mean.dim:
            value = self._call(_aten.div.Tensor, value, len(columns))
        if value.meta["val"].dtype != node.meta["val"].dtype:
            return False
        if keepdim:
            self._columns[node] = [value]
        else:
            self._instead[node] = value
        return True


_REDUCTIONS: dict[Any, Any] = {
    _aten.sum.dim_IntList: _aten.add.Tensor,
    _aten.mean.dim: _aten.add.Tensor,
    _aten.any.dim: _aten.logical_or.default,
    _aten.all.dim: _aten.logical_and.default,
}

_RULES: dict[Any, Callable[..., bool]] = {
    _aten.reshape.default: _Splitting.reshape,
    _aten.view.default: _Splitting.reshape,
    _aten.unsqueeze.default: _Splitting.reshape,
    _aten.squeeze.dim: _Splitting.reshape,
    _aten.expand.default: _Splitting.expand,
    _aten.cat.default: _Splitting.concatenate,
    _aten.select.int: _Splitting.select,
    _aten.slice.Tensor: _Splitting.slice,
    _aten.unbind.int: _Splitting.unbind,
    operator.getitem: _Splitting.item,
    _aten.permute.default: _Splitting.transpose,
    **dict.fromkeys(_REDUCTIONS, _Splitting.reduce),
}


def _shape(node: Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _is_narrow(node: Node) -> bool:
    shape = _shape(node)
    return len(shape) == 2 and 1 <= shape[1] <= MOST_COLUMNS and shape[1] < shape[0]


def _is_pointwise(node: Node) -> bool:
    target = node.target
    return (
        isinstance(target, torch._ops.OpOverload)
        and torch.Tag.pointwise in target.tags
        and torch.Tag.nondeterministic_seeded not in target.tags
        and not target._schema.is_mutable
        and all(len(_shape(operand)) <= 2 for operand in node.all_input_nodes)
    )
