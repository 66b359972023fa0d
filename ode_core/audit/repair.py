"""What to do with a model whose predictions depend on the solver: the options in order, and which to take."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from ode_core.audit.diagnosis import EXCHANGED
from ode_core.audit.rescue import Rescue
from ode_core.audit.rescue_in_words import given_back, offered_in_words, refused_in_words
from ode_core.audit.verdict import Verdict
from ode_core.specs.budgets import Budget, BudgetExceeded, check_training_budget
from ode_core.specs.modified_field import ModifiedFieldSpec
from ode_core.specs.retraining import retraining
from ode_core.specs.solver import SolverSpec
from ode_core.specs.spec import first_reason
from ode_core.specs.training import StartFrom, TrainingJobSpec

OptionKind = Literal["pin_solver", "modified_field", "fine_tune", "retrain"]


@dataclass(frozen=True)
class RepairRequest:
    """A request to the service that does it: ``POST path`` with a JSON body.

    Of a prediction the body lacks the ``inputs``, which are the caller's.
    """

    path: str
    body: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the request as JSON values."""
        return {"method": "POST", "path": self.path, "body": self.body}


@dataclass(frozen=True)
class RepairOption:
    """One way to make the predictions independent of the solver, or of who chooses it.

    Attributes:
        kind: which.
        offered: whether it can be taken.
        sentence: what it does, or why it cannot be taken.
        solver: what to predict with, or None.
        modified_field: which modified field to put in the field's place, or None.
        training_job: the training to submit, or None.
        request: what to send to do it, or None.
    """

    kind: OptionKind
    offered: bool
    sentence: str
    solver: SolverSpec | None = None
    modified_field: ModifiedFieldSpec | None = None
    training_job: TrainingJobSpec | None = None
    request: RepairRequest | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the option as JSON values."""
        solver, field, job = self.solver, self.modified_field, self.training_job
        return {
            "kind": self.kind,
            "offered": self.offered,
            "sentence": self.sentence,
            "solver": None if solver is None else solver.document(),
            "modified_field": None if field is None else field.model_dump(mode="json", exclude_none=True),
            "training_job": None if job is None else job.model_dump(mode="json"),
            "request": None if self.request is None else self.request.to_json(),
        }


@dataclass(frozen=True)
class Repair:
    """The options in order.

    Attributes:
        samples: those that modified fields were tried on.
        tried: what the trials gave.
        options: all, offered or not.
        advice: what the verdict leaves to do before any repair, or None.
        parent: of a version that is itself a repair, the version it was made from; None for others.
    """

    samples: int
    tried: list[Rescue]
    options: list[RepairOption]
    advice: str | None = None
    parent: StartFrom | None = None

    @property
    def recommendation(self) -> str:
        """What to do, in words."""
        if self.advice is not None:
            return self.advice
        pin, field, *trainings = self.options
        if field.offered:
            best = max(
                (trial for trial in self.tried if trial.spec == field.modified_field), key=lambda trial: trial.agreement
            )
            return (
                f"Put the modified field in the field's place: under a converged solver it gives {given_back(best)}. "
                f"{_how(field)} makes that version, and an audit of it decides whether it is an ODE. Until then "
                f"predict with {_label(pin.solver)} alone."
            )
        ways = {option.kind: option for option in trainings if option.offered}
        words = f"Predict with {_label(pin.solver)} alone, as the service does where a request names no solver."
        if self.parent is not None:
            words = f"Predict with {_repaired(self.parent)}, and {_label(pin.solver)} alone."
        if not ways:
            return words
        both = (
            "train it anew or fine-tune it; in trials with long steps training anew ended more accurate, and "
            "fine-tuning took fewer evaluations"
        )
        how = both if len(ways) > 1 else "train it anew" if "retrain" in ways else "fine-tune it"
        one = next(iter(ways.values()))
        return f"{words} Where any accurate solver is to give the same predictions, {how}: {_how(one)}."

    def to_json(self) -> dict[str, Any]:
        """Return the repair as JSON values."""
        return {
            "samples": self.samples,
            "recommendation": self.recommendation,
            "options": [option.to_json() for option in self.options],
            "tried": [trial.to_json() for trial in self.tried],
        }


def repair_options(
    trained: TrainingJobSpec,
    version: StartFrom,
    solver: SolverSpec,
    epsilon: float,
    samples: int,
    tried: Sequence[Rescue],
    no_rescue: str | None,
    budget: Budget,
    *,
    verdict: Verdict,
    advice: str | None = None,
    is_repair: bool = False,
) -> Repair:
    """Return what can be done with a stored model.

    Args:
        trained: the training that made it.
        version: the model version; of one that is itself a repair, the version it was made from.
        solver: what it was trained with at the end.
        epsilon: largest flip rate at which it would be an ODE.
        samples: those that modified fields were tried on.
        tried: what the trials gave.
        no_rescue: why none was tried, or None.
        budget: of trainings.
        verdict: of the audit.
        advice: what that leaves to do before any repair; None: the options are the advice.
        is_repair: whether the audited version is itself a repair, of ``version``.
    """
    if is_repair:
        no_rescue = EXCHANGED
    return Repair(
        samples,
        list(tried),
        [
            *options_without_training(solver, tried, no_rescue, verdict, version, is_repair=is_repair),
            _training("fine_tune", trained, solver, epsilon, version, budget, is_repair=is_repair),
            _training("retrain", trained, solver, epsilon, None, budget),
        ],
        advice,
        version if is_repair else None,
    )


def options_without_training(
    solver: SolverSpec,
    tried: Sequence[Rescue],
    no_rescue: str | None,
    verdict: Verdict,
    version: StartFrom | None = None,
    *,
    is_repair: bool = False,
) -> list[RepairOption]:
    """Return what can be done with a model as it is, whoever trained it; see ``repair_options``.

    Without a stored ``version`` there are no requests to send.
    """
    pinned = f"{solver.label} alone"
    if is_repair and version is not None:
        pinned = f"{_repaired(version)}, and {pinned}"
    return [
        RepairOption(
            "pin_solver",
            True,
            f"Predict with {pinned}{_why_valid(verdict)}.",
            solver=solver,
            request=None
            if version is None
            else RepairRequest(f"{_path(version)}/predict", {"solver": solver.document()}),
        ),
        _modified_field(tried, no_rescue, version),
    ]


def _why_valid(verdict: Verdict) -> str:
    if verdict == "discrete":
        return ". Always valid: the model is then the network of its steps that was trained, and not an ODE"
    return ": always valid, whichever way the verdict falls"


def _modified_field(tried: Sequence[Rescue], no_rescue: str | None, version: StartFrom | None) -> RepairOption:
    if not tried:
        return RepairOption("modified_field", False, f"No modified field was tried: {no_rescue}.")
    offered = [trial for trial in tried if trial.offered]
    if offered:
        # Of equal ones the cheaper to evaluate.
        best = max(offered, key=lambda trial: (trial.agreement, -trial.cost))
        return RepairOption(
            "modified_field",
            True,
            offered_in_words(best),
            modified_field=best.spec,
            request=None
            if version is None
            else RepairRequest(
                f"/v1/models/{version.model}/versions",
                {
                    "from_version": version.version,
                    "modified_field": best.spec.model_dump(mode="json", exclude_none=True),
                },
            ),
        )
    return RepairOption("modified_field", False, refused_in_words(tried))


def _training(
    kind: Literal["fine_tune", "retrain"],
    trained: TrainingJobSpec,
    solver: SolverSpec,
    epsilon: float,
    start: StartFrom | None,
    budget: Budget,
    *,
    is_repair: bool = False,
) -> RepairOption:
    try:
        job = retraining(trained, solver, epsilon, start=start)
        check_training_budget(job, budget)
    except ValidationError as error:
        return RepairOption(kind, False, first_reason(error))
    except BudgetExceeded as error:
        return RepairOption(kind, False, str(error))
    warning = (
        "Quicker than training anew; from a model of few steps it may end much less accurate, so compare. "
        if kind == "fine_tune"
        else ""
    )
    begin = "from the beginning"
    if start is not None:
        begin = f"from the weights of version {start.version}" if is_repair else "from its weights"
    if job.regularisation is not None and job.regularisation.local_error is not None:
        begin += ", with a penalty on the local error of its steps,"
    return RepairOption(
        kind,
        True,
        f"{warning}Train {begin} with the certified adaptation, which makes the solver finer until at most "
        f"{100 * epsilon:.3g}% of held-out predictions depend on it. Not tried here.",
        training_job=job,
        request=RepairRequest("/v1/training-jobs", job.document()),
    )


def _repaired(parent: StartFrom) -> str:
    return f"version {parent.version} of {parent.model}, of which this version is a repair"


def _path(version: StartFrom) -> str:
    return f"/v1/models/{version.model}/versions/{version.version}"


def _how(option: RepairOption) -> str:
    """Return the request of an option in words; each option that is offered has one."""
    return (
        ""
        if option.request is None
        else f"POST {option.request.path} with the body in `request` of the option {option.kind}"
    )


def _label(solver: SolverSpec | None) -> str:
    return "the training solver" if solver is None else solver.label
