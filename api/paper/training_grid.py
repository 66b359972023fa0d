"""The grid of training steps: what a converged solver says of each model, and where the critical step lies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from api.paper.findings import Configuration, Row, StudyFindings, finest_of, solver_label
from api.paper.preset import PaperNumbers
from api.paper.seed_statistics import percent, seeds_in_words
from api.paper.table import NOT_MEASURED, Table
from ode_core.specs import METHODS, Bracket, CriticalStepSearch, DatasetSpec, MethodName, bracket

PAPER_THRESHOLD = 0.1
FLIP_THRESHOLD = 0.02

_DATASET: TypeAdapter[DatasetSpec] = TypeAdapter(DatasetSpec)

BY_ACCURACY = CriticalStepSearch(criterion="accuracy", threshold=PAPER_THRESHOLD)
BY_FLIPS = CriticalStepSearch(criterion="flip_rate", threshold=FLIP_THRESHOLD)


@dataclass(frozen=True)
class SeedOutcome:
    """One seed's model under the solver of its training and under the converged one; None: not measured.

    Attributes:
        train_accuracy: under the solver of its training.
        converged_accuracy: under the converged one.
        flip_rate: share of the predictions that differ between the two.
        classes: number of labels.
    """

    seed: int
    train_accuracy: float | None
    converged_accuracy: float | None
    flip_rate: float | None
    classes: int

    @property
    def drop(self) -> float | None:
        """Accuracy lost under the converged solver."""
        if self.train_accuracy is None or self.converged_accuracy is None:
            return None
        return self.train_accuracy - self.converged_accuracy

    def passes(self, criterion: CriticalStepSearch) -> bool:
        """Return whether the model keeps its answers; one at chance, not measured, or diverged does not."""
        if self.train_accuracy is None or self.converged_accuracy is None or self.flip_rate is None:
            return False
        return criterion.passes(self.train_accuracy, self.converged_accuracy, self.flip_rate, classes=self.classes)


@dataclass(frozen=True)
class TrainedSteps:
    """All seeds that were trained with one number of steps."""

    steps: int
    method: MethodName
    outcomes: tuple[SeedOutcome, ...]

    def passes(self, criterion: CriticalStepSearch) -> bool:
        """Return whether every seed's model keeps its answers."""
        return bool(self.outcomes) and all(outcome.passes(criterion) for outcome in self.outcomes)

    def failing_seeds(self, criterion: CriticalStepSearch) -> list[int]:
        """Return the seeds whose models do not keep their answers."""
        return [outcome.seed for outcome in self.outcomes if not outcome.passes(criterion)]


def trained_steps(configurations: Sequence[Configuration]) -> list[TrainedSteps]:
    """Return the configurations with a fixed grid and without adaptation, from the fewest steps to the most."""
    converged = finest_of(configurations)
    found = []
    for configuration in configurations:
        solver = configuration.training["solver"]
        if configuration.training.get("adaptation") is not None or "steps" not in solver or converged is None:
            continue
        classes = _DATASET.validate_python(configuration.training["dataset"]).classes
        outcomes = [
            _outcome(
                seed.seed,
                configuration.under_own_solver(seed.seed),
                configuration.tested_with(seed.seed, converged),
                classes,
            )
            for seed in configuration.seeds
        ]
        outcomes += [SeedOutcome(failed.seed, None, None, None, classes) for failed in configuration.failed]
        ordered = sorted(outcomes, key=lambda outcome: outcome.seed)
        found.append(TrainedSteps(solver["steps"], solver["method"], tuple(ordered)))
    return sorted(found, key=lambda one: one.steps)


def _outcome(seed: int, own: Row | None, converged: Row | None, classes: int) -> SeedOutcome:
    return SeedOutcome(
        seed=seed,
        train_accuracy=None if own is None else own["accuracy"],
        converged_accuracy=None if converged is None else converged["accuracy"],
        flip_rate=None if converged is None else converged["flip_rate"],
        classes=classes,
    )


def critical_bracket(trained: Sequence[TrainedSteps], criterion: CriticalStepSearch) -> Bracket:
    """Return between which numbers of steps the critical one lies, as the search for it would say."""
    outcomes: Mapping[int, bool] = {one.steps: one.passes(criterion) for one in trained}
    return bracket([one.steps for one in trained], outcomes)


def bracket_in_words(found: Bracket, method: MethodName) -> str:
    """Return a bracket as function evaluations of one solve, for example ``between 64 and 128``."""
    evaluations = {
        steps: METHODS[method].evaluations(steps)
        for steps in (found.last_failing, found.first_passing)
        if steps is not None
    }
    match found.last_failing, found.first_passing:
        case None, None:
            return NOT_MEASURED
        case None, int(passing):
            return f"at most {evaluations[passing]}"
        case int(failing), None:
            return f"more than {evaluations[failing]}"
        case int(failing), int(passing):
            return f"between {evaluations[failing]} and {evaluations[passing]}"
    raise AssertionError(found)


def training_grid_table(study: StudyFindings) -> Table:
    """Return the accuracies by number of training steps, with what the converged solver says of them."""
    converged = finest_of(study.configurations)
    fine = NOT_MEASURED if converged is None else solver_label(converged)
    rows = []
    for one in trained_steps(study.configurations):
        failing = one.failing_seeds(BY_FLIPS)
        rows.append(
            (
                f"{one.method}-{one.steps}",
                percent(outcome.train_accuracy for outcome in one.outcomes),
                percent(outcome.converged_accuracy for outcome in one.outcomes),
                percent(outcome.drop for outcome in one.outcomes),
                percent(outcome.flip_rate for outcome in one.outcomes),
                "yes" if one.passes(BY_ACCURACY) else "no",
                "yes" if not failing else f"no ({seeds_in_words(failing)})",
            )
        )
    return Table(
        f"{study.name}: accuracy by training solver, in %",
        (
            "trained with",
            "accuracy, same solver",
            f"accuracy, {fine}",
            "drop",
            "predictions that change",
            f"drop <= {PAPER_THRESHOLD:g}",
            f"changes <= {FLIP_THRESHOLD:g}",
        ),
        tuple(rows),
        (
            f"Mean ± standard deviation (n - 1) over the seeds; drop and changes: from the training solver to {fine}.",
            "The last two columns say yes if every seed's model stays within the threshold and is better than guessing "
            "by more than it.",
        ),
    )


def critical_table(trained: Sequence[TrainedSteps], numbers: PaperNumbers) -> Table:
    """Return where the critical step lies by both criteria, beside the paper's numbers."""
    paper = numbers.critical_evaluations
    method = trained[0].method
    rows = [
        (
            f"critical function evaluations, {words}",
            bracket_in_words(critical_bracket(trained, criterion), method),
            NOT_MEASURED if paper is None or criterion is BY_FLIPS else f"between {paper[0]} and {paper[1]}",
        )
        for words, criterion in (
            (f"accuracy drops by at most {PAPER_THRESHOLD:g}", BY_ACCURACY),
            (f"at most {FLIP_THRESHOLD:g} of the predictions change", BY_FLIPS),
        )
    ]
    if numbers.grid_accuracy is not None:
        rows.append(("accuracy at the first step that passes by accuracy, %", _passing(trained), numbers.grid_accuracy))
    return Table(
        "Critical step",
        ("", "measured", "paper"),
        tuple(rows),
        (
            "The paper counts one evaluation more an iteration than Euler's method has steps, and compares with a "
            "little finer solver; here it is the finest rk4 of the sweep, and every seed has to pass.",
        ),
    )


def _passing(trained: Sequence[TrainedSteps]) -> str:
    first = critical_bracket(trained, BY_ACCURACY).first_passing
    if first is None:
        return NOT_MEASURED
    return next(percent(outcome.train_accuracy for outcome in one.outcomes) for one in trained if one.steps == first)
