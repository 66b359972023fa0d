"""Writes a classifier with a solver as a file, checks the file against the classifier, and describes it."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version as installed_version
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ode_core.export.agreement import Agreement, require_agreement
from ode_core.export.fixed_step_classifier import FixedStepClassifier
from ode_core.models.classifier import Classifier
from ode_core.specs.evaluation import ExportFormat
from ode_core.specs.solver import SolverSpec

OnPart = Callable[[str], None]
"""Called before each part with its name; an exception it raises ends the export."""

INPUT, OUTPUTS = "inputs", ("probabilities", "logits")
# Traced with 0 or 1 samples, the graph would hold for that size only.
_TRACED_BATCH = 3


class ExportUnavailable(Exception):
    """This installation cannot export to the format; the message says what to install."""


@dataclass(frozen=True)
class Exported:
    """A file that was checked.

    Attributes:
        data: its bytes.
        description: what is written inside the file: solver, input, outputs and versions, as JSON.
        agreement: how near its answers are to the model's.
        runtime: what ran it for that, with its version.
    """

    data: bytes
    description: dict[str, Any]
    agreement: Agreement
    runtime: str


def export_classifier(
    model: Classifier,
    solver: SolverSpec,
    samples: Tensor,
    format: ExportFormat,
    *,
    about: dict[str, Any] | None = None,
    on_part: OnPart = lambda part: None,
) -> Exported:
    """Return the classifier with ``solver`` as a file in ``format``, run and found to give the classifier's answers.

    Args:
        model: a classifier, repaired or not; it stays as it is, and its device is of no importance.
        solver: an explicit method with equal steps, as ``export_solver`` returns it.
        samples: ``(n, *sample_shape)``, the inputs that are compared; 32 are as many as are used.
        format: ``onnx`` or ``torch``.
        about: what else to write into the file, as JSON.
        on_part: called as the export gets on.

    Raises:
        ExportUnavailable: a package for the format is not installed.
        ExportFailed: the file cannot be run, or its answers are not the model's.
    """
    module = _format_module(format)
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    description = {**(about or {}), **_describe(model, solver), **module.versions()}
    on_part("tracing the model")
    program = traced(model, solver)
    on_part(f"writing the {format} file")
    data: bytes = module.write(program, description)
    on_part("comparing its answers with the model's")
    agreement = require_agreement(model, solver, samples.cpu(), module.load(data))
    return Exported(data, description, agreement, module.runtime())


def traced(model: Classifier, solver: SolverSpec) -> ExportedProgram:
    """Return the classifier with its solver as a graph of torch's operators, for batches of any size.

    It holds no trace of where it was made: neither file names nor lines of code.
    """
    example = torch.zeros(_TRACED_BATCH, *model.input_shape, dtype=model.dtype)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of its own names
        program = torch.export.export(
            FixedStepClassifier(model, solver).eval(),
            (example,),
            dynamic_shapes={INPUT: {0: Dim("batch")}},
            strict=False,
        )
    for part in program.graph_module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in part.graph.nodes:
                for trace in ("stack_trace", "nn_module_stack", "source_fn_stack"):
                    node.meta.pop(trace, None)
    return program


def _format_module(format: ExportFormat) -> Any:
    try:
        return import_module(f"ode_core.export.{format}_file")
    except ModuleNotFoundError as error:
        raise ExportUnavailable(
            f"the worker cannot write {format} files, as {error.name} is not installed there: install odeness[export]"
        ) from error


def _describe(model: Classifier, solver: SolverSpec) -> dict[str, Any]:
    classes = cast(nn.Linear, model.head[1]).out_features
    precision = str(model.dtype).removeprefix("torch.")
    return {
        "solver": solver.document(),
        "steps": solver.fixed_steps(0.0, model.end_time),
        "end_time": model.end_time,
        "input": {"name": INPUT, "shape": ["batch", *model.input_shape], "type": precision},
        "outputs": [{"name": name, "shape": ["batch", classes], "type": precision} for name in OUTPUTS],
        "odeness": installed_version("odeness"),
        "torch": torch.__version__,
    }
