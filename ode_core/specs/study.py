"""A study: one training, repeated over solvers, adaptations and seeds; each model is tested under a list of solvers."""

import itertools
import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StrictBool, ValidationError, WithJsonSchema, model_validator

from ode_core.specs.adaptation import AdaptationSpec
from ode_core.specs.budgets import Budget, BudgetExceeded, check_solve_budget, check_training_budget, solve_evaluations
from ode_core.specs.critical_step import powers_of_two
from ode_core.specs.dataset import DatasetSpec
from ode_core.specs.evaluation import Samples
from ode_core.specs.gradient import GradientMode
from ode_core.specs.methods import MethodName
from ode_core.specs.model import ModelSpec, model_state_shape
from ode_core.specs.regularisation import Regularisation
from ode_core.specs.solver import SolverSpec, Steps, Tolerance
from ode_core.specs.spec import Spec, first_reason
from ode_core.specs.stacking import is_stackable
from ode_core.specs.training import StartFrom, TrainingJobSpec, TrainingSpec

MAX_RUNS = 1000
MAX_TESTS = 50_000
# More seeds than this are several jobs: a stack's batch is as many times larger, and other workers may share the work.
MAX_STACK = 16

STUDY_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$"
_MODEL_NAME_LENGTH = 100

StudyName = Annotated[str, Field(pattern=STUDY_NAME_PATTERN)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
MAX_SEEDS = 100


def _seeds_of_count(value: Any) -> Any:
    if type(value) is int and 1 <= value <= MAX_SEEDS:
        return list(range(value))
    if not isinstance(value, list):
        raise ValueError(f"give a list of seeds, or a count from 1 to {MAX_SEEDS}")
    return value


Seeds = Annotated[
    list[Seed],
    Field(min_length=1, max_length=MAX_SEEDS),
    BeforeValidator(_seeds_of_count),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": MAX_SEEDS},
                {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
                    "minItems": 1,
                    "maxItems": MAX_SEEDS,
                },
            ]
        }
    ),
]


class StudyBase(Spec):
    """What all trainings of a study share: a training job without name, solver, seed and adaptation."""

    dataset: DatasetSpec
    model: ModelSpec
    training: TrainingSpec = TrainingSpec()
    gradient: GradientMode = "backprop"
    start_from: StartFrom | None = Field(default=None, description="null: random weights")
    regularisation: Regularisation | None = Field(
        default=None, description="of every training; the seeds are then trained one by one"
    )

    @model_validator(mode="after")
    def _seed_is_not_shared(self) -> Self:
        if self.training.seed != 0:
            raise ValueError("a study has seeds of its own: leave training.seed out and set seeds, for example [7]")
        return self


class SolverGrid(Spec):
    """Solvers: every method with every number of steps or every tolerance, and any further ones."""

    methods: list[MethodName] = Field(default=[], max_length=20)
    steps: list[Steps] = Field(default=[], max_length=100)
    tolerances: list[Tolerance] = Field(default=[], max_length=100, description="each is both rtol and atol")
    solvers: list[SolverSpec] = Field(default=[], max_length=200)

    @model_validator(mode="after")
    def _is_a_list_of_different_solvers(self) -> Self:
        if self.methods and bool(self.steps) == bool(self.tolerances):
            raise ValueError("methods need either steps or tolerances: give one of the two lists")
        if not self.methods and (self.steps or self.tolerances):
            raise ValueError('steps and tolerances belong to methods: give methods, for example ["euler"]')
        solvers = self.expand()
        if not 1 <= len(solvers) <= 200:
            raise ValueError(f"these are {len(solvers)} solvers: give at least 1 and at most 200")
        seen: dict[str, SolverSpec] = {}
        for solver in solvers:
            if seen.setdefault(solver.model_dump_json(), solver) is not solver:
                raise ValueError(f"{solver.label} is there twice: give each solver once")
        return self

    def expand(self) -> list[SolverSpec]:
        """Return the solvers, by method, then from the first number of steps or tolerance to the last."""
        grid: list[dict[str, Any]] = [{"method": m, "steps": n} for m in self.methods for n in self.steps]
        grid += [{"method": m, "rtol": tol, "atol": tol} for m in self.methods for tol in self.tolerances]
        return [*(_solver(fields) for fields in grid), *self.solvers]


class StudySweep(SolverGrid):
    """The solvers that every trained model is tested under."""

    samples: Samples | None = Field(default=None, description="null: the whole test split")


class CriticalStepSearch(Spec):
    """Look for the coarsest number of steps whose models keep their answers under a fine solver, for all seeds.

    Step counts are powers of two; bisection takes about log2 of their number instead of all. A seed passes when its
    accuracy drops by at most ``threshold`` (``accuracy``), or at most this share of its predictions changes
    (``flip_rate``), from the solver it was trained with to ``test``. A seed whose training diverges does not pass, nor
    does one below ``least_accuracy``: a model at chance has no accuracy to lose, and says nothing about the solver.
    """

    method: MethodName = "euler"
    lowest: Steps = 1
    highest: Steps = 512
    criterion: Literal["accuracy", "flip_rate"] = "accuracy"
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.1
    least_accuracy: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="under the solver of the training; null: threshold above that of guessing"
    )
    test: SolverSpec = Field(
        default=SolverSpec(method="dopri5", rtol=1e-5, atol=1e-5), description="the fine solver to test with"
    )
    confirm: StrictBool = Field(
        default=False,
        description="train with the next finer number of steps, too, and search on above it if that does not pass",
    )

    @model_validator(mode="after")
    def _ends_are_powers_of_two(self) -> Self:
        for name, value in (("lowest", self.lowest), ("highest", self.highest)):
            if value & (value - 1):
                raise ValueError(f"{name} must be a power of two (1, 2, 4, ...), not {value}")
        if self.lowest >= self.highest:
            raise ValueError("lowest must be less than highest")
        self.solver(self.lowest)
        return self

    @property
    def candidates(self) -> list[int]:
        """The step counts among which the bracket is found."""
        return powers_of_two(self.lowest, self.highest)

    def solver(self, steps: int) -> SolverSpec:
        """Return the training solver with so many steps."""
        return _solver({"method": self.method, "steps": steps})

    def required_accuracy(self, classes: int) -> float:
        """Return the accuracy under the solver of the training from which on a model has learnt something."""
        least = 1 / classes + self.threshold if self.least_accuracy is None else self.least_accuracy
        return min(1.0, least)

    def passes(self, train_accuracy: float, test_accuracy: float, flip_rate: float, *, classes: int) -> bool:
        """Return whether one seed's model has learnt something and keeps its answers.

        Args:
            train_accuracy: under the solver it was trained with.
            test_accuracy: under ``test``.
            flip_rate: share of samples whose prediction differs between the two.
            classes: number of labels of its data.
        """
        if train_accuracy < self.required_accuracy(classes):
            return False
        lost = train_accuracy - test_accuracy if self.criterion == "accuracy" else flip_rate
        return lost <= self.threshold + 1e-9  # shares of samples: 0.99 - 0.89 is a rounding error above 0.1


class StudyRunSpec(Spec):
    """One job of a study: one training configuration with some of its seeds, trained as one if there are several.

    Attributes:
        label: of the configuration, unique in its study.
        training: with the first of the seeds.
        seeds: to train with.
        solvers: to test each model under.
        reference: of them, the one a search compares with.
        continues: id of the job this one takes the place of; training goes on from its last checkpoint, or from that of
            the one whose place it had taken.
    """

    label: str
    training: TrainingJobSpec
    seeds: Seeds
    solvers: list[SolverSpec] = Field(default=[])
    samples: Samples | None = None
    reference: SolverSpec | None = None
    continues: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the job's spec as JSON."""
        document = self.model_dump(mode="json")
        document["training"] = self.training.document()
        document["solvers"] = [solver.document() for solver in self.solvers]
        document["reference"] = None if self.reference is None else self.reference.document()
        return document

    @property
    def cost(self) -> float:
        """Evaluations of the field in the trainings, to order jobs by; adaptive solves count as long ones."""
        spec = self.training
        state_size = math.prod(model_state_shape(spec.architecture, spec.dataset.input_shape))
        evaluations = solve_evaluations(spec.solver, spec.architecture.end_time, state_size)
        return float(evaluations) * spec.training.iterations * len(self.seeds)


class StudySpec(Spec):
    """A grid of trainings, or a search for the critical step, over one base; each with every seed."""

    name: StudyName
    base: StudyBase
    train: SolverGrid | None = Field(default=None, description="the solvers to train with; null with a search")
    adaptations: Annotated[list[AdaptationSpec | None], Field(min_length=1, max_length=20)] = Field(
        default=[None], description="each is tried with every training solver; null: none"
    )
    seeds: Seeds = Field(
        default=[0, 1, 2, 3, 4], description="a list, or a count n from 1 to 100 that stands for 0 to n - 1"
    )
    sweep: StudySweep | None = Field(default=None, description="null: the models are not tested further")
    search: CriticalStepSearch | None = Field(default=None, description="instead of train")

    @model_validator(mode="after")
    def _is_a_grid_or_a_search(self) -> Self:
        if (self.train is None) == (self.search is None):
            raise ValueError("give either train, the solvers of a grid, or search, which chooses them itself")
        if self.search is not None and self.adaptations != [None]:
            raise ValueError("a search trains without adaptation: leave adaptations out, or give train instead")
        return self

    @model_validator(mode="after")
    def _every_axis_has_each_value_once(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed is there twice: give each seed once")
        if any(adaptation in self.adaptations[:position] for position, adaptation in enumerate(self.adaptations)):
            raise ValueError("an adaptation is there twice: give each once")
        return self

    @model_validator(mode="after")
    def _every_run_is_valid_and_they_are_not_too_many(self) -> Self:
        runs = self.most_runs
        if runs > MAX_RUNS:
            raise ValueError(f"{runs} trainings are too many: a study has at most {MAX_RUNS}; split it")
        tests = runs * len(self._test_solvers(None))
        if tests > MAX_TESTS:
            raise ValueError(f"{tests} tests are too many: a study has at most {MAX_TESTS}; use a smaller sweep")
        configurations = self.configurations()
        if self.search is not None:
            _check_finer(self.search, configurations[-1].training.architecture.end_time)
        seen: dict[str, str] = {}
        for one in configurations:
            other = seen.setdefault(_what_it_trains(one.training), one.label)
            if other != one.label:
                raise ValueError(f"{other} and {one.label} are the same training: give one of them")
        return self

    @property
    def most_runs(self) -> int:
        """Trainings of the full grid; of a search, of all its candidates."""
        solvers = self.search.candidates if self.search is not None else self._train_solvers()
        return len(solvers) * len(self.adaptations) * len(self.seeds)

    def configurations(self) -> list[StudyRunSpec]:
        """Return every training configuration with all its seeds; of a search, those of all its candidates.

        Raises:
            ValueError: the parts of one do not fit together.
        """
        found: list[StudyRunSpec] = []
        labels: set[str] = set()
        names: set[str] = set()
        for solver, adaptation in itertools.product(self._train_solvers(), self.adaptations):
            label = _unused(_label(solver, adaptation), labels)
            name = _unused(f"{self.name}.{_as_name(label)}"[: _MODEL_NAME_LENGTH - 4], names)
            try:
                training = TrainingJobSpec(
                    name=name,
                    solver=solver,
                    adaptation=adaptation,
                    **{field: getattr(self.base, field) for field in StudyBase.model_fields},
                )
            except ValidationError as error:
                raise ValueError(f"{label}: {first_reason(error)}") from None
            found.append(
                StudyRunSpec(
                    label=label,
                    training=training,
                    seeds=self.seeds,
                    solvers=self._test_solvers(solver),
                    samples=None if self.sweep is None else self.sweep.samples,
                    reference=None if self.search is None else self.search.test,
                )
            )
        return found

    def jobs(self) -> list[StudyRunSpec]:
        """Return the jobs of the grid."""
        return [job for configuration in self.configurations() for job in split_into_jobs(configuration)]

    def search_jobs(self, steps: int) -> list[StudyRunSpec]:
        """Return the jobs with which a search measures one step count."""
        assert self.search is not None
        return split_into_jobs(self.configurations()[self.search.candidates.index(steps)])

    def document(self) -> dict[str, Any]:
        """Return the study as JSON, as users write it."""
        document: dict[str, Any] = _without_nulls(self.model_dump(mode="json"))
        return document

    def _train_solvers(self) -> list[SolverSpec]:
        if self.search is not None:
            return [self.search.solver(steps) for steps in self.search.candidates]
        assert self.train is not None
        return self.train.expand()

    def _test_solvers(self, trained: SolverSpec | None) -> list[SolverSpec]:
        solvers = [] if self.sweep is None else self.sweep.expand()
        if self.search is not None:
            first = [self.search.test] if trained is None else [trained, self.search.test]
            solvers = [*first, *(solver for solver in solvers if solver not in first)]
        return solvers


def split_into_jobs(configuration: StudyRunSpec) -> list[StudyRunSpec]:
    """Return the jobs of a configuration: its seeds stacked where they can be, else one job a seed."""
    size = MAX_STACK if is_stackable(configuration.training) else 1
    parts = [configuration.seeds[start : start + size] for start in range(0, len(configuration.seeds), size)]
    return [
        configuration.model_copy(update={"seeds": seeds, "training": configuration.training.with_seed(seeds[0])})
        for seeds in parts
    ]


def check_study_budget(spec: StudySpec, budget: Budget) -> None:
    """Raise ``BudgetExceeded`` when a training or a test of the study is larger than ``budget`` allows."""
    for configuration in spec.configurations():
        check_study_run_budget(configuration, budget)


def check_study_run_budget(spec: StudyRunSpec, budget: Budget) -> None:
    """Raise ``BudgetExceeded`` when one of the job's trainings, or a test, is larger than ``budget`` allows."""
    training = spec.training
    try:
        check_training_budget(training, budget)
        state_size = math.prod(model_state_shape(training.architecture, training.dataset.input_shape))
        for solver in spec.solvers:
            check_solve_budget(solver, training.architecture.end_time, budget.evaluations_per_solve, state_size)
    except BudgetExceeded as error:
        raise BudgetExceeded(f"{spec.label}: {error}") from error


def _check_finer(search: CriticalStepSearch, end_time: float) -> None:
    """Raise ``ValueError`` when ``test`` is no finer than a solver that a search trains with: nothing would change."""
    if search.test.method != search.method or search.test.adaptive:
        return
    steps = search.test.fixed_steps(0.0, end_time)
    if steps <= search.highest:
        raise ValueError(
            f"search.test makes {steps} steps of {search.method}, and search.highest is {search.highest}: test with "
            f"more steps than any training has, or with another method"
        )


def _without_nulls(value: Any) -> Any:
    # Not exclude_none of pydantic: it would drop the adaptation null from the list of adaptations, too.
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def _solver(fields: dict[str, Any]) -> SolverSpec:
    try:
        return SolverSpec.model_validate(fields)
    except ValidationError as error:
        raise ValueError(first_reason(error)) from None


def _label(solver: SolverSpec, adaptation: AdaptationSpec | None) -> str:
    if adaptation is None:
        return solver.label
    rule = getattr(adaptation, "rule", None)
    # Step adaptation begins with a step of its own: of the solver only the method counts.
    begins = solver.method if adaptation.kind == "step" else solver.label
    return f"{begins} {adaptation.kind}" + ("" if rule is None else f"-{rule}")


def _as_name(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label)


def _unused(name: str, used: set[str]) -> str:
    numbered = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    found = next(one for one in numbered if one not in used)
    used.add(found)
    return found


def _what_it_trains(spec: TrainingJobSpec) -> str:
    """Return a text that is the same for configurations whose trainings are."""
    solver = spec.solver
    if solver.step_size is not None and solver.grid != "truncate":
        solver = solver.with_steps(solver.fixed_steps(0.0, spec.architecture.end_time))
    return f"{solver.model_dump_json()} {None if spec.adaptation is None else spec.adaptation.model_dump_json()}"
