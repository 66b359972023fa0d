"""An audit of a model that was made elsewhere: its field, what is around it, and a data loader."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ode_core.audit.audit import ALLOWED_UNSETTLED, AuditReport, audit
from ode_core.audit.diagnosis import Diagnosis, diagnose, is_to_repair, no_diagnosis, why_left_out
from ode_core.audit.mechanism import Mechanism
from ode_core.audit.progress import OnProgress, changes_only
from ode_core.audit.repair import RepairOption, options_without_training
from ode_core.audit.sweep import TestResult
from ode_core.audit.threads import fitting_threads
from ode_core.audit.verdict import Verdict
from ode_core.datasets.loader_samples import UnusableLoader, labelled_samples
from ode_core.fields.field_checks import SAMPLES, no_derivative
from ode_core.fields.foreign_field import CallSignature, ForeignField, NotAuditable
from ode_core.fields.modified_field import ModifiedField
from ode_core.models.foreign_classifier import ForeignClassifier, foreign_classifier
from ode_core.specs.modified_field import ModifiedFieldSpec
from ode_core.specs.solver import SolverSpec
from ode_core.specs.spec import reasons

__all__ = ["FieldAudit", "NotAuditable", "UnusableLoader", "audit_field"]

MAX_EVALUATIONS = 100_000
# Inputs for which the model as it is used is compared with its parts; logits may differ by so much of the largest, with
# loose tolerances by more: two implementations agree to a multiple of the tolerance.
COMPARED, LOGITS_AGREE, LOGITS_AGREE_LOOSELY = 100, 1e-3, 0.1


@dataclass(frozen=True)
class FieldAudit:
    """What an audit found about a model that was made elsewhere; ``print`` tells it in words.

    Attributes:
        model: the checked copy that was audited; it predicts under any solver.
        report: the verdict and its evidence.
        diagnosis: why predictions depend on the solver, and which modified fields were tried.
        repair: what can be done where they do, or None.
        notes: what a reader has to know about how the model was audited.
    """

    model: ForeignClassifier
    report: AuditReport
    diagnosis: Diagnosis
    repair: list[RepairOption] | None
    notes: list[str]

    @property
    def verdict(self) -> Verdict:
        """``ode``, ``discrete``, ``inconclusive`` or ``unresolved``."""
        return self.report.verdict

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        return self.report.sentence

    @property
    def ladder(self) -> list[TestResult]:
        """Results under coarser and finer solvers."""
        return self.report.ladder

    @property
    def mechanism(self) -> Mechanism | None:
        """Why predictions depend on the solver; None where ``diagnosis.reason`` says why it was not looked for."""
        return self.diagnosis.mechanism

    @property
    def modified_field(self) -> nn.Module | None:
        """A field ``f(t, z)`` in the model's own time whose exact flow gives the trained predictions.

        A copy, for any accurate solver of any library; None where the audit offers none.
        """
        offered = [option.modified_field for option in self.repair or [] if option.modified_field is not None]
        return _in_own_time(self.model, offered[0]) if offered else None

    def to_json(self) -> dict[str, Any]:
        """Return, as JSON values, what an audit job's result has without a stored model and its data, and how the model
        was called."""
        field = self.model.field
        return {
            **self.report.to_json(),
            **self.diagnosis.to_json(),
            "repair": None
            if self.repair is None
            else {
                "samples": self.diagnosis.samples,
                "options": [option.to_json() for option in self.repair],
                "tried": [trial.to_json() for trial in self.diagnosis.rescues],
            },
            "field": {
                "signature": field.signature,
                "times": field.times,
                "interval": [field.start, field.start + field.direction * self.model.end_time],
            },
            "notes": self.notes,
        }

    def __str__(self) -> str:
        lines = [self.sentence, *self.notes]
        if self.mechanism is not None:
            lines.append(f"Why: {self.diagnosis.sentence}")
        elif self.verdict != "ode":
            lines.append(f"Why was not looked into: {self.diagnosis.reason}.")
        if self.repair is not None:
            lines += ["What to do:", *(f"  {number}. {one.sentence}" for number, one in enumerate(self.repair, 1))]
        lines.append(f"Which solver to predict with: {self.report.solver_choice.cheapest().reason}")
        lines += ["", f"{'solver':<28}{'evaluations':>12}{'accuracy':>10}{'flips':>9}{'failed':>8}"]
        for rung in self.ladder:
            mark = " *" if rung.solver == self.report.train_solver else ""
            lines.append(
                f"{rung.solver.label + mark:<28}{rung.nfe:>12.0f}{rung.accuracy:>10.1%}{rung.flip_rate:>9.2%}"
                f"{rung.failures:>8}"
            )
        return "\n".join([*lines, "* trained with; flips: predictions that are not those under it"])


def audit_field(
    field: Callable[..., Any],
    loader: Iterable[Any],
    *,
    solver: SolverSpec | Mapping[str, Any],
    stem: Callable[[Tensor], Tensor] | None = None,
    head: Callable[[Tensor], Tensor] | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
    epsilon: float = 0.01,
    samples: int = 1000,
    mechanism: bool | None = None,
    signature: CallSignature | None = None,
    whole: Callable[[Tensor], Any] | None = None,
    max_evaluations: int = MAX_EVALUATIONS,
    on_progress: OnProgress | None = None,
) -> FieldAudit:
    """Audit ``head . ODESolve(field, interval) . stem``, whoever made it: is it an ODE, why not, and what then.

    The parts are copied, put in evaluation mode and checked: a field whose numbers could not be trusted is refused.

    Args:
        field: ``f(t, z)`` as for torchdiffeq, a module or a function; also ``f(z, t)`` and ``f(z)``; or a torchdyn
            ``NeuralODE``. States are ``(batch, *state)``, one tensor.
        loader: of held-out data: batches of inputs ``(batch, *shape)`` and classes ``(batch,)``.
        solver: what the model was trained with, for example ``{"method": "euler", "steps": 8}``; for the names see
            ``SolverSpec``. torchdiffeq's rk4 is ``rk4_38`` here.
        stem: from inputs to states; None: inputs are states.
        head: from final states to logits ``(batch, classes)``; None: states are logits.
        interval: start and end time of the ODE.
        epsilon: largest share of predictions that may depend on the solver in an ODE.
        samples: of the loader, the first so many.
        mechanism: look for the reason and try modified fields; None: where the verdict is ``discrete``.
        signature: how the field is called; None goes by the names of its arguments.
        whole: the model as it is used, from inputs to logits: it must give what the parts give under ``solver``.
        max_evaluations: bound on the evaluations of the field for one sample in one solve.
        on_progress: called with part, parts and a message, each time one of them has changed.

    Raises:
        NotAuditable: the model cannot be audited as it is.
        UnusableLoader: the loader gives no labelled samples.
        ValueError: another argument is of no use.
    """
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon is a share between 0 and 1, not {epsilon:g}")
    trained_with = _solver(solver)
    inputs, labels = labelled_samples(loader, samples)
    model = foreign_classifier(field, inputs, stem=stem, head=head, interval=interval, signature=signature)
    _check_labels(labels, model.classes)
    if whole is not None:
        with _in_evaluation_mode(whole, field, stem, head):  # a whole that is a function is made of these
            _check_against(whole, model, inputs, trained_with)
    if on_progress is not None:
        on_progress = changes_only(on_progress)
    together = 1 if model.field.times == "grouped" else len(labels)  # samples in a call of the field
    with fitting_threads(model.operations(inputs) * together):
        report = audit(
            model,
            inputs,
            labels,
            trained_with,
            epsilon=epsilon,
            on_progress=on_progress,
            max_evaluations=max_evaluations,
        )
        diagnosis = _diagnosis(model, inputs, labels, report, mechanism, on_progress, max_evaluations)
    repair = None
    if is_to_repair(report, diagnosis):
        repair = options_without_training(trained_with, diagnosis.rescues, diagnosis.no_rescue, report.verdict)
    return FieldAudit(model, report, diagnosis, repair, [*model.notes, *_notes(model, len(labels), samples)])


def _solver(solver: SolverSpec | Mapping[str, Any]) -> SolverSpec:
    try:
        return SolverSpec.model_validate(solver)
    except ValidationError as error:
        raise NotAuditable(f"solver {solver!r} does not name one: {reasons(error)}") from error


def _check_labels(labels: Tensor, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise NotAuditable(
            f"the labels go from {low} to {high}, and the model has classes 0 to {classes - 1}: leave out samples that "
            f"are to be ignored, and check the head"
        )


@torch.no_grad()
def _check_against(
    whole: Callable[[Tensor], Any], model: ForeignClassifier, inputs: Tensor, solver: SolverSpec
) -> None:
    """Check that the model as it is used gives the logits of its parts under what is said to be its solver."""
    inputs = inputs[:COMPARED].to(model.device)
    (output,) = model.run_together(inputs, [solver])
    given = whole(inputs.clone())  # which it may change in place
    ours = output.logits
    if not isinstance(given, Tensor) or given.shape != ours.shape:
        shape = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise NotAuditable(f"whole gives {shape} for {len(ours)} inputs, and the parts logits {list(ours.shape)}")
    # On a grid they agree to round-off that has grown.
    share = min(max(LOGITS_AGREE, 100 * (solver.rtol or 0.0)), LOGITS_AGREE_LOOSELY)
    allowed = share * float(ours.abs().nan_to_num(0.0, 0.0).max())
    change = (given - ours).abs().amax(dim=1)
    both_failed = ~torch.isfinite(given).all(dim=1) & ~torch.isfinite(ours).all(dim=1)
    different = int((~(change <= allowed) & ~both_failed).sum())
    if different > ALLOWED_UNSETTLED * len(ours):
        raise NotAuditable(
            f"whole and the parts with {solver.label} give different logits for {different} of {len(ours)} inputs, by "
            f"up to {float(change.nan_to_num(torch.inf).max()):.3g}: the solver, the interval or a part is not the "
            f"model's"
        )


@contextmanager
def _in_evaluation_mode(*models: Any) -> Iterator[None]:
    modules = [model for model in models if isinstance(model, nn.Module)]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _diagnosis(
    model: ForeignClassifier,
    inputs: Tensor,
    labels: Tensor,
    report: AuditReport,
    mechanism: bool | None,
    on_progress: OnProgress | None,
    max_evaluations: int,
) -> Diagnosis:
    left_out = why_left_out(mechanism, report.verdict, ask="set mechanism=True")
    if left_out is not None:
        return no_diagnosis(left_out)
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        states = exact.initial_state(inputs[:SAMPLES].to(model.device))
    reason = no_derivative(exact.field, states, model.end_time)
    if reason is not None:
        return no_diagnosis(reason)
    return diagnose(
        model,
        inputs,
        labels,
        report,
        operations=model.operations(inputs),
        on_progress=on_progress,
        max_evaluations=max_evaluations,
    )


def _notes(model: ForeignClassifier, found: int, wanted: int) -> list[str]:
    notes = []
    if found < wanted:
        notes.append(f"The loader has {found} samples.")
    if model.field.times != "batched":
        notes.append(
            "The field takes one time for all samples, so it was called "
            + ("by torch.func.vmap." if model.field.times == "mapped" else "for samples of one time after another.")
        )
    return notes


def _in_own_time(model: ForeignClassifier, spec: ModifiedFieldSpec) -> nn.Module:
    field = copy.deepcopy(model.field)
    modified = ModifiedField(field, spec, model.end_time)
    return ForeignField(modified, "t, z", start=-field.direction * field.start, direction=field.direction)
