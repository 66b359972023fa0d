"""A training run, one iteration at a time, that can stop anywhere and go on bit for bit."""

import copy
import dataclasses
import hashlib
import json
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ode_core.audit.measurement import Measurement, measure
from ode_core.datasets.load import Dataset
from ode_core.models.classifier import Classifier, ClassifierOutput, build_model
from ode_core.models.predictions import OnBatch, predict
from ode_core.models.weights import load_weights, weights_to_bytes
from ode_core.solvers.gradients.reversible import ReconstructionWarning
from ode_core.solvers.solution import Execution, SolveFailed
from ode_core.solvers.status import SolveStatus
from ode_core.specs.adaptation import CertifiedAdaptation
from ode_core.specs.gradient import GradientMode
from ode_core.specs.solver import SolverSpec
from ode_core.specs.spec import Spec
from ode_core.specs.training import TrainingJobSpec
from ode_core.training.adaptation.audit_batch import hold_out_audit_batch
from ode_core.training.adaptation.build_rule import build_rule
from ode_core.training.adaptation.model_probe import ModelProbe
from ode_core.training.adaptation.running_adaptation import RunningAdaptation
from ode_core.training.checkpoint import Checkpoint
from ode_core.training.local_error import run_with_local_error
from ode_core.training.optimizers import build_optimizer
from ode_core.training.sampling import BatchSampler
from ode_core.training.step_jitter import jittered


class TrainingDiverged(RuntimeError):
    """The loss or its gradient is not a number any more; the message says when, what happened and what to try.

    Attributes:
        iteration: the iteration that could not be done, counted from 1.
        what: what happened in it, and what to try.
    """

    def __init__(self, iteration: int, iterations: int, what: str) -> None:
        super().__init__(f"in iteration {iteration} of {iterations} {what}")
        self.iteration = iteration
        self.what = what


@dataclass(frozen=True)
class TrainedModel:
    """What a finished run leaves: weights, the solver they belong to, and facts about them.

    Attributes:
        weights: a safetensors file: those of the end of the training or, with a certified adaptation, the last
            certified ones where there are any.
        solver: the solver they belong to, as adapted; part of the model.
        metadata: JSON values. ``test_accuracy`` is measured under that solver on the whole test split of
            ``test_samples``; ``test_failures`` of them, counted as wrong, could not be solved. Evaluations of the
            field are those of one sample: ``training_evaluations`` of all forward solves together, on average
            ``mean_training_evaluations`` (and ``mean_steps`` steps, None with tolerances) an iteration, and
            ``adaptation_evaluations`` of the adaptation apart from them. ``adaptation`` says what its checks came to
            and, with a certified one, whether the weights are ``certified``, by which check, or why not.
            ``started_from`` is the version whose weights the training began with. ``execution`` says which of the
            equivalent ways the solves of the training were computed in, as far as it is known.
        tested: the predictions on the test split behind ``test_accuracy``.
    """

    weights: bytes
    solver: SolverSpec
    metadata: dict[str, Any]
    tested: Measurement


class TrainingRun:
    """Trains the model of a spec on a data set.

    With step adaptation the solver's own step count is not used: the first step comes from an estimate on
    the first batch, as in the paper, and every solve uses the integer number of steps it makes. With certified
    adaptation a part of the training split is held out and never trained on.

    Attributes:
        iteration: finished iterations.
        solver: the training solver in use.
        model: the model in training.
        max_evaluations: bound on the evaluations of the field for one sample in a solve of the training or of the
            final test, or None. In the training a sample beyond it ends the run; in the test it counts as failed.

    Args:
        initial_weights: a safetensors file of the same architecture and precision to begin with; None: the weights
            the seed draws.

    Raises:
        AuditBatchTooLarge: the adaptation would hold out more than half of the training split.
        WeightsMismatch: the initial weights do not fit.
    """

    def __init__(
        self,
        spec: TrainingJobSpec,
        dataset: Dataset,
        device: torch.device,
        *,
        max_evaluations: int | None = None,
        initial_weights: bytes | None = None,
    ) -> None:
        if (spec.start_from is None) != (initial_weights is None):
            raise ValueError("initial_weights are those of the spec's start_from: give both, or neither")
        self.spec, self.dataset, self.device = spec, dataset, device
        self.max_evaluations = max_evaluations
        self.model = build_model(spec)
        if initial_weights is not None:
            load_weights(self.model, initial_weights)
        self.model.to(device)
        # Compiled steps agree to round-off only, and when one is compiled is not known beforehand: a resumed run
        # would not be the same bit for bit.
        self.model.compilation = "never"
        self.execution: Execution | None = None  # of the last iteration's solve
        self.optimizer = build_optimizer(spec.training, self.model.parameters())
        self.solver = _whole_steps(spec.solver, spec.architecture.end_time)
        self.iteration = 0
        penalty = None if spec.regularisation is None else spec.regularisation.local_error
        self._penalty_weight = 0.0 if penalty is None else penalty.weight
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        rule = build_rule(spec, self.solver)
        self._adaptation = None if rule is None else RunningAdaptation(rule)
        self._trained_on: Tensor | None = None  # indices into the training split; None: all of it
        self._audit_inputs: Tensor | None = None
        if self._adaptation is not None:
            self.solver = self._adaptation.solver
        if isinstance(spec.adaptation, CertifiedAdaptation):
            self._trained_on, held_out = hold_out_audit_batch(spec.adaptation, len(dataset.train_labels))
            self._audit_inputs = dataset.train_inputs[held_out]
        samples = len(dataset.train_labels) if self._trained_on is None else len(self._trained_on)
        self._sampler = BatchSampler(samples, spec.training.batch_size, spec.training.seed)
        self._training_evaluations = 0.0
        self._training_steps = 0
        self._seconds = 0.0

    @property
    def finished(self) -> bool:
        """Whether all iterations are done."""
        return self.iteration >= self.spec.training.iterations

    def advance(self) -> dict[str, float]:
        """Do one iteration and return its metrics by name.

        Always ``loss``, ``train_accuracy`` (of the batch, before the update), ``gradient_norm`` and ``nfe``
        (evaluations of the field in the forward solve, those of a penalty included, mean over the batch); ``steps`` on
        a fixed grid, as drawn with jitter; ``tolerance`` where one is adapted. With a local-error penalty
        ``local_error``, the relative error that is penalised, and ``local_error_penalty``, the penalty's part of
        ``loss``. At a check of the adaptation ``adaptation_difference`` or, of a certified one,
        ``adaptation_flip_rate``, ``adaptation_flip_rate_upper`` and ``certified`` (1 or 0); ``adaptation_accepted``
        (1 or 0), ``adaptation_action`` (-1: finer, 0, 1: coarser) and ``adaptation_evaluations``, those of the
        very first step included. The check after the last iteration is among that iteration's metrics.

        Raises:
            TrainingDiverged: the loss or the gradient is not finite, the adjoint equation could not be solved, or the
                reversible gradient lost half its digits; the weights are those before the iteration.
        """
        start = time.perf_counter()
        inputs, labels = self.batch()
        metrics = self._adapt(inputs, labels)
        solver = self._drawn_solver()
        output, local_error = self._forward(inputs, solver)
        self.execution = output.solution.execution
        loss = cross_entropy(output.logits, labels)
        if local_error is not None:
            loss = loss + self._penalty_weight * local_error
        for parameter in self._parameters:
            parameter.grad = None  # as the optimiser's zero_grad does, in a twentieth of the time
        self._backward(loss)
        norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in self._parameters if p.grad is not None]))
        metrics |= self._read(output, loss, norm, labels)
        if local_error is not None:
            squared = float(local_error.detach())
            metrics |= {"local_error": squared**0.5, "local_error_penalty": self._penalty_weight * squared}
        diverged = self.divergence(metrics["loss"], metrics["gradient_norm"], output.solution.status)
        if diverged is not None:
            raise diverged
        self.optimizer.step()
        metrics = self.count(metrics, time.perf_counter() - start, solver)
        return metrics | self._adapt(inputs, labels) if self.finished else metrics

    def count(self, metrics: dict[str, float], seconds: float, solver: SolverSpec) -> dict[str, float]:
        """Count an iteration that was done with ``solver``; return its metrics with the number of steps on a grid."""
        if not solver.adaptive:
            metrics["steps"] = float(solver.fixed_steps(0.0, self.model.end_time, self.spec.training.precision))
        elif self._adaptation is not None and self.solver.rtol is not None:
            metrics["tolerance"] = self.solver.rtol
        self.iteration += 1
        self._training_evaluations += metrics["nfe"]
        self._training_steps += int(metrics.get("steps", 0))
        self._seconds += seconds
        return metrics

    def _drawn_solver(self) -> SolverSpec:
        """Return the solver of the next iteration: the one in use, or with jitter a number of steps around its own."""
        regularisation = self.spec.regularisation
        if regularisation is None or regularisation.step_jitter is None:
            return self.solver
        seed = self.spec.training.seed
        return jittered(
            regularisation.step_jitter, self.solver, self.model.end_time, seed=seed, iteration=self.iteration
        )

    def _forward(self, inputs: Tensor, solver: SolverSpec) -> tuple[ClassifierOutput, Tensor | None]:
        """Return the output and, where it is penalised, the squared relative local error."""
        if self._penalty_weight:
            return run_with_local_error(self.model, inputs, solver, max_evaluations=self.max_evaluations)
        gradient = self.spec.gradient
        return self.model.run(inputs, solver, gradient=gradient, max_evaluations=self.max_evaluations), None

    def divergence(self, loss: float, gradient_norm: float, status: Tensor) -> TrainingDiverged | None:
        """Return why the next iteration cannot be done, or None when loss and gradient are finite.

        Args:
            loss: of the batch.
            gradient_norm: of all parameters.
            status: ``(batch,)`` of the solve.
        """
        if math.isfinite(loss) and math.isfinite(gradient_norm):
            return None
        failed = status[status != SolveStatus.SUCCESS]
        if failed.numel():
            first = SolveStatus(int(failed[0]))
            what = (
                f"the solve of {failed.numel()} of {status.numel()} samples ended with "
                f"{first.text}: lower the learning rate; {first.remedy}"
            )
        else:
            value = "gradient" if math.isfinite(loss) else "loss"
            what = f"the {value} is not finite: lower the learning rate, use more solver steps, or float64"
        return TrainingDiverged(self.iteration + 1, self.spec.training.iterations, what)

    def _backward(self, loss: Tensor) -> None:
        try:
            with self.model.float32_products(), _inexact_gradients_refused(self.spec.gradient):
                loss.backward()  # type: ignore[no-untyped-call]
        except (SolveFailed, ReconstructionWarning) as failure:
            raise TrainingDiverged(self.iteration + 1, self.spec.training.iterations, str(failure)) from failure

    def checkpoint(self) -> Checkpoint:
        """Return the state between two iterations."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items() if value is not None}
        if self._adaptation is not None:
            tensors |= self._adaptation.tensors()
        metadata = {
            "spec": self._spec_fingerprint(),
            "dataset": self.dataset.fingerprint,
            "adaptation": None if self._adaptation is None else self._adaptation.state(),
            "training_evaluations": self._training_evaluations,
            "training_steps": self._training_steps,
            "seconds": self._seconds,
        }
        return Checkpoint(self.iteration, {name: t.detach().clone() for name, t in tensors.items()}, metadata)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same spec; on the CPU bit for bit.

        Nothing else is random: weights are drawn at the start, and a batch is a function of seed and iteration.

        Raises:
            ValueError: the checkpoint is of another spec, or was made with other data.
        """
        if checkpoint.metadata["spec"] != self._spec_fingerprint():
            raise ValueError("this checkpoint belongs to another training spec")
        if checkpoint.metadata["dataset"] != self.dataset.fingerprint:
            raise ValueError("the data set is not the one this checkpoint was made with: put back the original files")
        if "adaptation" not in checkpoint.metadata:
            raise ValueError("this checkpoint was made by an earlier version of the program")
        self.model.load_state_dict(_with_prefix(checkpoint.tensors, "model."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _with_prefix(checkpoint.tensors, "optimizer.").items():
            index, key = name.split(".", 1)
            # A copy: the optimiser takes the tensor as its own and writes to it.
            state.setdefault(int(index), {})[key] = tensor.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.iteration = checkpoint.iteration
        if self._adaptation is not None:
            self._adaptation.restore(checkpoint.metadata["adaptation"], checkpoint.tensors)
            self.solver = self._adaptation.solver
        self._training_evaluations = checkpoint.metadata["training_evaluations"]
        self._training_steps = checkpoint.metadata["training_steps"]
        self._seconds = checkpoint.metadata["seconds"]

    def trained_model(self, *, on_batch: OnBatch | None = None) -> TrainedModel:
        """Return the weights with the solver they belong to, tested on the whole test split."""
        model, solver = self._exported()
        tested = measure(
            model, self.dataset.test_inputs, solver, on_batch=on_batch, max_evaluations=self.max_evaluations
        )
        predictions = tested.predictions
        adaptation, start = self._adaptation, self.spec.start_from
        metadata = {
            "test_accuracy": predictions.accuracy(self.dataset.test_labels),
            "test_samples": len(self.dataset.test_labels),
            "test_failures": predictions.failures,
            "iterations": self.iteration,
            "training_evaluations": self._training_evaluations,
            "mean_training_evaluations": self._training_evaluations / max(self.iteration, 1),
            "mean_steps": None if self.solver.adaptive else self._training_steps / max(self.iteration, 1),
            "adaptation_evaluations": 0.0 if adaptation is None else adaptation.evaluations,
            "adaptation": self._told_of_adaptation(on_batch),
            "started_from": None if start is None else start.model_dump(mode="json"),
            "training_seconds": round(self._seconds, 3),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "input_shape": list(self.model.input_shape),
            "state_shape": list(self.model.state_shape),
            "classes": self.spec.dataset.classes,
            "precision": self.spec.training.precision,
            "execution": None if self.execution is None else dataclasses.asdict(self.execution),
            "dataset_fingerprint": self.dataset.fingerprint,
        }
        return TrainedModel(weights_to_bytes(model), solver, metadata, tested)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of the next iteration's batch."""
        return self.samples(self.batch_indices())

    def batch_indices(self) -> Tensor:
        """Return which training samples are in the next iteration's batch."""
        indices = self._sampler.batch(self.iteration)
        return indices if self._trained_on is None else self._trained_on[indices]

    def samples(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of training samples."""
        inputs = self.dataset.train_inputs.index_select(0, indices)
        labels = self.dataset.train_labels.index_select(0, indices)
        return inputs.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def _adapt(self, inputs: Tensor, labels: Tensor) -> dict[str, float]:
        adaptation = self._adaptation
        if adaptation is None or not adaptation.due(self.iteration):
            return {}
        probe = ModelProbe(self.model, inputs, labels, self._audit_inputs, self.max_evaluations)
        metrics = adaptation.check(self.iteration, self.model, probe)
        self.solver = adaptation.solver
        return metrics

    def _told_of_adaptation(self, on_batch: OnBatch | None) -> dict[str, Any] | None:
        """Return what the metadata tell of the adaptation, with the test of the last weights where others are given."""
        if self._adaptation is None:
            return None
        told = self._adaptation.summary(self.spec.adaptation, self.iteration)
        kept = self._adaptation.kept
        if kept is None or kept.iteration == self.iteration:
            return told
        last = predict(
            self.model, self.dataset.test_inputs, self.solver, on_batch=on_batch, max_evaluations=self.max_evaluations
        )
        return told | {"final_test_accuracy": last.accuracy(self.dataset.test_labels)}

    def _exported(self) -> tuple[Classifier, SolverSpec]:
        """Return the model to be given away with its solver: the last certified one, or the present one."""
        kept = None if self._adaptation is None else self._adaptation.kept
        if kept is None:
            return self.model, self.solver
        model = copy.deepcopy(self.model)
        model.load_state_dict(kept.tensors)
        return model, kept.certificate.solver

    def _read(self, output: ClassifierOutput, loss: Tensor, norm: Tensor, labels: Tensor) -> dict[str, float]:
        right = (output.logits.detach().argmax(dim=1) == labels).sum()
        evaluations = output.solution.evaluations
        # On a grid every sample takes the same number.
        nfe = evaluations.double().mean() if self.solver.adaptive else evaluations[0]
        values = [float(loss.detach()), float(right) / len(labels), float(norm), float(nfe)]
        return dict(zip(("loss", "train_accuracy", "gradient_norm", "nfe"), values, strict=True))

    def _spec_fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(_settings(self.spec), sort_keys=True).encode()).hexdigest()


def _settings(spec: Spec) -> dict[str, Any]:
    """Return the settings that are not defaults, as JSON values: the same after an update that adds one.

    ``kind`` always belongs to them, as it tells specs apart that are otherwise all defaults.
    """
    document = spec.model_dump(mode="json")
    settings: dict[str, Any] = {}
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if name == "kind" or value != field.default:
            settings[name] = _settings(value) if isinstance(value, Spec) else document[name]
    return settings


@contextmanager
def _inexact_gradients_refused(gradient: GradientMode) -> Iterator[None]:
    """Raise ``ReconstructionWarning`` instead of warning: nobody reads the warnings of a job."""
    if gradient != "reversible":
        yield
        return
    with warnings.catch_warnings(action="error", category=ReconstructionWarning):
        yield


def _whole_steps(solver: SolverSpec, end_time: float) -> SolverSpec:
    """Return the solver with the number of steps its step size comes to, which is what the model is trained with.

    A grid whose last step is cut short is not one of equal steps; it stays as it is.
    """
    if solver.step_size is None or solver.grid == "truncate":
        return solver
    return solver.with_steps(solver.fixed_steps(0.0, end_time))


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
