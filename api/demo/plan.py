"""What the demo trains and tests. All its settings are here."""

from dataclasses import dataclass

from ode_core.specs import (
    AuditJobSpec,
    ClassifierSpec,
    Conv2dField,
    DigitsSpec,
    SolverSpec,
    StepAdaptation,
    SweepJobSpec,
    TrainingJobSpec,
    TrainingSpec,
)

TEST_METHODS = ("euler", "midpoint", "rk4")


@dataclass(frozen=True)
class Plan:
    """Two models that differ in one thing: whether the step was adapted during the training.

    Attributes:
        models: the training jobs.
        test_steps: numbers of steps of the sweep, for each of ``TEST_METHODS``.
        epsilon: largest flip rate at which the audit counts a model as an ODE.
        samples: test samples of sweep and audit; None: all.
        predict_with: solvers of the predictions shown, after each model's own.
        digits: how many predictions are shown.
    """

    models: tuple[TrainingJobSpec, ...]
    test_steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    # 360 held-out digits cannot tell 1 %: even without a single flip the interval ends above it.
    epsilon: float = 0.05
    samples: int | None = None
    predict_with: tuple[SolverSpec, ...] = (
        SolverSpec(method="rk4", steps=64),
        SolverSpec(method="dopri5", rtol=1e-5, atol=1e-5),
    )
    digits: int = 5

    def sweep(self, model: str, version: int, own_solver: SolverSpec) -> SweepJobSpec:
        """Return the sweep of a trained model: the grid, and the solver it was trained with."""
        grid = [SolverSpec(method=method, steps=steps) for method in TEST_METHODS for steps in self.test_steps]
        extra = [] if own_solver in grid else [own_solver]
        return SweepJobSpec(model=model, version=version, solvers=grid + extra, samples=self.samples)

    def audit(self, model: str, version: int) -> AuditJobSpec:
        """Return the audit of a trained model: the verdict alone, as the reasons take a minute more."""
        return AuditJobSpec(model=model, version=version, epsilon=self.epsilon, samples=self.samples, mechanism=False)


def _models(channels: int, training: TrainingSpec, adaptation: StepAdaptation) -> tuple[TrainingJobSpec, ...]:
    plain = TrainingJobSpec(
        name="digits-euler2",
        dataset=DigitsSpec(),
        model=ClassifierSpec(field=Conv2dField(channels=channels)),
        solver=SolverSpec(method="euler", steps=2),
        training=training,
    )
    return plain, plain.model_copy(update={"name": "digits-adaptive", "adaptation": adaptation})


DEMO = Plan(
    models=_models(
        channels=32,
        training=TrainingSpec(iterations=300, batch_size=128, optimizer="adam", learning_rate=2e-3, seed=0),
        adaptation=StepAdaptation(rule="talk", interval=10, threshold=0.03, settle_fraction=0.2),
    )
)

# The same course in seconds; its models learn too little to show the effect.
QUICK = Plan(
    models=_models(
        channels=8,
        training=TrainingSpec(iterations=40, batch_size=64),
        adaptation=StepAdaptation(interval=10, max_steps=8),
    ),
    test_steps=(1, 2, 4, 8),
    samples=40,
    digits=3,
)
