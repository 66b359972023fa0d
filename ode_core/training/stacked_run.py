"""Training runs that differ in nothing but their seed, as one: the same iterations, one batched product for all.

Small models spend most of an iteration on calls, not on arithmetic. Stacked, the runs share the calls.
"""

import copy
import dataclasses
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ode_core.datasets.load import Dataset
from ode_core.fields.dense_chain import chain_of, is_chain
from ode_core.fields.tape_memory import TapePool
from ode_core.fields.vector_fields import VectorField
from ode_core.models.predictions import OnBatch
from ode_core.solvers.solve import solve
from ode_core.specs.stacking import LONGEST_SIGNAL, require_stackable
from ode_core.specs.training import TrainingJobSpec
from ode_core.training.checkpoint import Checkpoint
from ode_core.training.optimizers import build_optimizer
from ode_core.training.run import TrainedModel, TrainingDiverged, TrainingRun


class StackedTrainingRun:
    """Trains the model of one spec with several seeds at once.

    Every run sees the batches and has the initial weights that it would have alone, and its results agree with those
    of ``TrainingRun`` to round-off. A run that diverges stops where it was; the others go on.

    Attributes:
        runs: one for each seed, with its own spec. Their weights are up to date after ``checkpoint`` and
            ``trained_model`` only.
        diverged: for each run why it stopped, or None.

    Raises:
        ValueError: the spec's runs cannot be stacked.
    """

    def __init__(self, spec: TrainingJobSpec, seeds: Sequence[int], dataset: Dataset, device: torch.device) -> None:
        require_stackable(spec)
        if not seeds or len(set(seeds)) != len(seeds):
            raise ValueError("give at least one seed, and each once")
        specs = [spec.with_seed(seed) for seed in seeds]
        self.runs = [TrainingRun(one, dataset, device) for one in specs]
        self.diverged: list[TrainingDiverged | None] = [None] * len(seeds)
        self._model = copy.deepcopy(self.runs[0].model)
        assert isinstance(self._model.field, VectorField)
        if not is_chain(list(self._model.field.network), self._model.state_shape):
            raise ValueError(f"a convolution over more than {LONGEST_SIGNAL} points is trained by itself")
        self._weights = _stacked([run.model for run in self.runs])
        self._optimizer = build_optimizer(spec.training, self._weights.values())
        self._alive = torch.ones(len(seeds), dtype=self._model.dtype, device=device)
        self._pool = TapePool()

    @property
    def iteration(self) -> int:
        """Finished iterations."""
        return max(run.iteration for run in self.runs)

    @property
    def finished(self) -> bool:
        """Whether all iterations are done, or every run has diverged."""
        return all(run.finished or failed is not None for run, failed in zip(self.runs, self.diverged, strict=True))

    def advance(self) -> list[dict[str, float] | None]:
        """Do one iteration of every run; return each one's metrics as ``TrainingRun`` names them.

        None for a run that has diverged; ``diverged`` then says why, and its weights are those before.
        """
        start = time.perf_counter()
        inputs, labels = self.runs[0].samples(torch.cat([run.batch_indices() for run in self.runs]))
        labels = labels.view(len(self.runs), -1)
        with self._model.float32_products():
            logits, statuses, evaluations = self._forward(inputs)
        losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(dim=1)
        for weights in self._weights.values():
            weights.grad = None
        with self._model.float32_products():
            torch.dot(losses, self._alive).backward()  # type: ignore[no-untyped-call]
        norms = self._gradient_norms()
        accuracy = (logits.detach().argmax(dim=2) == labels).double().mean(dim=1)
        rows = torch.stack([losses.detach().double(), accuracy, norms, evaluations]).T.tolist()
        self._stop_diverged(rows, statuses)
        if any(self.diverged):
            self._still_diverged()
        self._optimizer.step()
        seconds = (time.perf_counter() - start) / len(self.runs)
        return [self._count(i, row, seconds) for i, row in enumerate(rows)]

    def checkpoint(self, number: int) -> Checkpoint:
        """Return the state of one run, from which ``TrainingRun`` can go on as well."""
        self._give_back(number)
        return self.runs[number].checkpoint()

    def stacked_checkpoint(self) -> Checkpoint:
        """Return the state of all runs between two iterations, those that have diverged included."""
        checkpoints = [self.checkpoint(number) for number in range(len(self.runs))]
        tensors = {f"{i}.{name}": value for i, one in enumerate(checkpoints) for name, value in one.tensors.items()}
        runs = [
            {"iteration": one.iteration, "metadata": one.metadata, "diverged": None if failed is None else failed.what}
            for one, failed in zip(checkpoints, self.diverged, strict=True)
        ]
        return Checkpoint(self.iteration, tensors, {"runs": runs})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a ``stacked_checkpoint`` of the same spec, seeds and data; on the CPU bit for bit.

        Raises:
            ValueError: the checkpoint is of something else.
        """
        parts = checkpoint.metadata.get("runs", [])
        if len(parts) != len(self.runs):
            raise ValueError("this checkpoint belongs to another number of runs")
        for number, (run, part) in enumerate(zip(self.runs, parts, strict=True)):
            prefix = f"{number}."
            tensors = {
                name.removeprefix(prefix): value
                for name, value in checkpoint.tensors.items()
                if name.startswith(prefix)
            }
            run.restore(Checkpoint(part["iteration"], tensors, part["metadata"]))
            if part["diverged"] is not None:
                iterations = run.spec.training.iterations
                self.diverged[number] = TrainingDiverged(run.iteration + 1, iterations, part["diverged"])
        self._take_over()

    def trained_model(self, number: int, *, on_batch: OnBatch | None = None) -> TrainedModel:
        """Return what one run leaves; see ``TrainingRun.trained_model``."""
        self._give_back(number)
        return self.runs[number].trained_model(on_batch=on_batch)

    def _forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits ``(runs, batch, classes)``, statuses ``(runs, batch)`` and mean evaluations ``(runs,)``.

        Args:
            inputs: ``(runs * batch, *shape)``.
        """
        runs, batch = len(self.runs), len(inputs) // len(self.runs)
        z0 = self._model.initial_state(inputs)
        field = self._model.field
        assert isinstance(field, VectorField)
        names = [f"field.network.{i}" for i in range(0, len(field.network), 2)]
        chain = chain_of(
            [(self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]) for name in names],
            list(field.network),
            self._model.state_shape,
            time_dependent=field.time_dependent,
            stacked=runs,
        )
        chain = dataclasses.replace(chain, pool=self._pool)
        solution = solve(chain, z0, self.runs[0].solver, t1=self._model.end_time, warn=False)
        for run in self.runs:
            run.execution = solution.execution
        features = solution.final.view(runs, batch, -1)
        weight, bias = self._weights["head.1.weight"], self._weights["head.1.bias"]
        logits = torch.baddbmm(bias.unsqueeze(1), features, weight.mT)
        return logits, solution.status.view(runs, batch), solution.evaluations.view(runs, batch).double().mean(dim=1)

    def _gradient_norms(self) -> Tensor:
        gradients = [w.grad.flatten(1) for w in self._weights.values() if w.grad is not None]
        norms: Tensor = torch.linalg.vector_norm(torch.cat(gradients, dim=1), dim=1)
        return norms.double()

    def _stop_diverged(self, rows: Sequence[Sequence[float]], statuses: Tensor) -> None:
        for i, (loss, _, norm, _) in enumerate(rows):
            if self.diverged[i] is None:
                failed = self.runs[i].divergence(loss, norm, statuses[i])
                if failed is not None:
                    self._give_back(i)
                    self.diverged[i] = failed
                    self._clear(i)

    def _still_diverged(self) -> None:
        # In the iteration in which a run diverges its gradient is not a number yet.
        for w in self._weights.values():
            if w.grad is not None:  # None where no sample of any run could be solved
                w.grad[self._alive == 0] = 0.0

    @torch.no_grad()
    def _clear(self, number: int) -> None:
        """Make one run's field zero for good: its solves then cost the others nothing."""
        for w in self._weights.values():
            w[number] = 0.0
            for value in self._optimizer.state[w].values():
                if value.ndim:
                    value[number] = 0.0
        self._alive[number] = 0.0

    def _count(self, number: int, row: Sequence[float], seconds: float) -> dict[str, float] | None:
        if self.diverged[number] is not None:
            return None
        metrics = dict(zip(("loss", "train_accuracy", "gradient_norm", "nfe"), row, strict=True))
        return self.runs[number].count(metrics, seconds, self.runs[number].solver)

    def _give_back(self, number: int) -> None:
        """Write one run's part of weights and optimiser state to the run itself, unless it has stopped."""
        run = self.runs[number]
        if self.diverged[number] is not None:
            return
        own = dict(run.model.named_parameters())
        state = {}
        with torch.no_grad():
            for index, (name, stacked) in enumerate(self._weights.items()):
                own[name].copy_(stacked[number])
                state[index] = {
                    key: value[number].clone() if value.ndim else value.clone()
                    for key, value in self._optimizer.state[stacked].items()
                }
        groups = run.optimizer.state_dict()["param_groups"]
        run.optimizer.load_state_dict({"state": {i: s for i, s in state.items() if s}, "param_groups": groups})

    @torch.no_grad()
    def _take_over(self) -> None:
        """Make the stack of the runs' own weights and optimiser states: the opposite of ``_give_back``."""
        for name, parts in _stacked([run.model for run in self.runs]).items():
            self._weights[name].copy_(parts)
        alive = [number for number, failed in enumerate(self.diverged) if failed is None]
        if alive:
            states = [run.optimizer.state_dict()["state"] for run in self.runs]
            state = {
                index: {
                    key: torch.stack(
                        [states[n][index][key] if n in alive else torch.zeros_like(value) for n in range(len(states))]
                    )
                    if value.ndim
                    else value.clone()  # the count of steps, which all that are alive share
                    for key, value in of_parameter.items()
                }
                for index, of_parameter in states[alive[0]].items()
            }
            groups = self._optimizer.state_dict()["param_groups"]
            self._optimizer.load_state_dict({"state": state, "param_groups": groups})
        for number in range(len(self.runs)):
            if number not in alive:
                self._clear(number)


def _stacked(models: Sequence[nn.Module]) -> dict[str, nn.Parameter]:
    parts = [dict(model.named_parameters()) for model in models]
    return {name: nn.Parameter(torch.stack([own[name].detach() for own in parts])) for name in parts[0]}
