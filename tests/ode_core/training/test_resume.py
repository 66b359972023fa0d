import dataclasses
from typing import Any

import pytest
import torch
from safetensors.torch import load

from ode_core.datasets.load import load_dataset
from ode_core.specs import (
    AdaptationSpec,
    CertifiedAdaptation,
    ConcentricSpheresSpec,
    DigitsSpec,
    MnistSpec,
    SolverSpec,
    StepAdaptation,
    ToleranceAdaptation,
    TrainingJobSpec,
)
from ode_core.training.checkpoint import Checkpoint
from ode_core.training.run import _settings
from tests.ode_core.training.small_jobs import SPHERES, advance, job, new_run, weights

ADAPTATIONS = {
    "fixed": None,
    "talk": StepAdaptation(rule="talk", interval=7, threshold=0.05),
    "look-ahead": StepAdaptation(rule="look_ahead", interval=7, threshold=0.05, settle_fraction=0.3),
    # With thresholds that 40 held-out samples can meet: without a flip their interval ends at 8.8 %.
    "certified": CertifiedAdaptation(interval=7, audit_samples=40, climb_threshold=0.09, epsilon=0.15),
}
OPTIMIZERS: list[dict[str, Any]] = [
    {"optimizer": "adam"},
    {"optimizer": "adam", "weight_decay": 0.01, "precision": "float64"},
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "momentum": 0.9},
    {"optimizer": "rmsprop"},
    {"optimizer": "rmsprop", "momentum": 0.9},
]


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_a_run_resumed_from_bytes_goes_on_bit_by_bit(optimizer: dict[str, Any], adaptation: str) -> None:
    spec = job(training=optimizer, adaptation=ADAPTATIONS[adaptation])
    straight = new_run(spec)
    straight_metrics = advance(straight, 40)

    first = new_run(spec)
    metrics = advance(first, 20)
    data = first.checkpoint().to_bytes()
    second = new_run(spec)
    second.restore(Checkpoint.from_bytes(data))
    assert second.iteration == 20
    metrics += advance(second, 20)

    assert metrics == straight_metrics
    assert weights(second) == weights(straight)
    assert second.solver == straight.solver
    assert second.finished
    ended, expected = second.trained_model(), straight.trained_model()
    assert ended.weights == expected.weights
    assert {**ended.metadata, "training_seconds": 0} == {**expected.metadata, "training_seconds": 0}


def test_a_run_with_tolerances_resumes_bit_by_bit() -> None:
    spec = job(solver=SolverSpec(method="bosh3", rtol=1e-3, atol=1e-3), training={"iterations": 12})
    straight = new_run(spec)
    straight_metrics = advance(straight, 12)
    first, second = new_run(spec), new_run(spec)
    metrics = advance(first, 5)
    second.restore(Checkpoint.from_bytes(first.checkpoint().to_bytes()))
    assert metrics + advance(second, 7) == straight_metrics
    assert weights(second) == weights(straight)


@pytest.mark.parametrize(
    "adaptation",
    [
        ToleranceAdaptation(interval=2, plateau_checks=3),
        CertifiedAdaptation(interval=3, audit_samples=40, climb_threshold=0.09, epsilon=0.15),
    ],
    ids=["tolerance", "certified"],
)
@pytest.mark.parametrize("stop", [0, 5, 11, 12])
def test_a_run_whose_tolerance_is_adapted_resumes_bit_by_bit(adaptation: AdaptationSpec, stop: int) -> None:
    solver = SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3)
    spec = job(solver=solver, adaptation=adaptation, training={"iterations": 12})
    straight, first, second = (new_run(spec) for _ in range(3))
    expected = advance(straight, 12)
    metrics = advance(first, stop)
    second.restore(Checkpoint.from_bytes(first.checkpoint().to_bytes()))
    assert metrics + advance(second, 12 - stop) == expected
    assert len({values["tolerance"] for values in expected}) > 1
    ended, whole = second.trained_model(), straight.trained_model()
    assert (ended.weights, ended.solver) == (whole.weights, whole.solver)
    assert ended.metadata["adaptation"] == whole.metadata["adaptation"]


def test_the_certified_weights_survive_a_stop_after_which_no_check_certifies() -> None:
    adaptation = CertifiedAdaptation(interval=5, audit_samples=40, climb_threshold=0.09, epsilon=0.15)
    spec = job(adaptation=adaptation, training={"iterations": 20}, solver=SolverSpec(method="euler", steps=50))
    first = new_run(spec)
    advance(first, 5)
    certified, solver = weights(first), first.solver  # the check is the beginning of the sixth iteration
    advance(first, 3)
    second = new_run(spec)
    second.restore(Checkpoint.from_bytes(first.checkpoint().to_bytes()))
    for run in (first, second):
        with torch.no_grad():  # a field that is different at every step of Euler, and has no solution
            for parameter in run.model.field.parameters():
                parameter.fill_(torch.inf)
        run.iteration = 20  # as if these were the weights of the end
        trained = run.trained_model()
        assert trained.metadata["adaptation"]["certified_iteration"] == 5
        assert trained.solver == solver
        assert {name: tensor.numpy().tobytes() for name, tensor in load(trained.weights).items()} == certified


@pytest.mark.parametrize("iteration", [0, 1, 40])
def test_a_run_can_stop_before_its_first_and_after_its_last_iteration(iteration: int) -> None:
    spec = job(adaptation=ADAPTATIONS["talk"])
    straight = new_run(spec)
    advance(straight, 40)
    first, second = new_run(spec), new_run(spec)
    advance(first, iteration)
    second.restore(Checkpoint.from_bytes(first.checkpoint().to_bytes()))
    advance(second, 40 - iteration)
    assert weights(second) == weights(straight)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_a_checkpoint_stays_as_it_was_whoever_goes_on_from_it(optimizer: str) -> None:
    spec = job(training={"optimizer": optimizer} | ({} if optimizer == "adam" else {"momentum": 0.9}))
    run = new_run(spec)
    advance(run, 5)
    checkpoint = run.checkpoint()
    before = checkpoint.to_bytes()
    advance(run, 3)
    ends = []
    for _ in range(2):
        resumed = new_run(spec)
        resumed.restore(checkpoint)
        advance(resumed, 3)
        ends.append(weights(resumed))
    assert checkpoint.to_bytes() == before
    assert ends == [weights(run), weights(run)]


def test_a_run_that_went_astray_goes_back_to_the_checkpoint_completely() -> None:
    spec = job(adaptation=ADAPTATIONS["talk"])
    straight, run = new_run(spec), new_run(spec)
    expected = advance(straight, 20)
    advance(run, 10)
    checkpoint = run.checkpoint()
    advance(run, 6)
    run.restore(checkpoint)
    assert advance(run, 10) == expected[10:]
    assert weights(run) == weights(straight)


def test_a_checkpoint_of_another_job_is_refused() -> None:
    checkpoint = new_run(job()).checkpoint()
    with pytest.raises(ValueError, match="another training spec"):
        new_run(job(training={"learning_rate": 0.02})).restore(checkpoint)


def test_a_checkpoint_is_of_the_same_job_though_a_new_setting_has_a_default() -> None:
    class Later(TrainingJobSpec):
        """The spec of a later version of the program."""

        novelty: str | None = None

    checkpoint = new_run(job()).checkpoint()
    later = Later.model_validate(job().model_dump())
    new_run(later).restore(checkpoint)
    with pytest.raises(ValueError, match="another training spec"):
        new_run(later.model_copy(update={"novelty": "used"})).restore(checkpoint)


def test_a_checkpoint_from_before_data_sets_had_versions_is_of_the_same_job() -> None:
    document = job().model_dump(mode="json")
    del document["dataset"]["version"]
    assert TrainingJobSpec.model_validate(document) == job()
    assert "version" not in _settings(job())["dataset"]


def test_specs_that_differ_in_a_kind_alone_are_told_apart() -> None:
    prints = [
        new_run(job().model_copy(update={"dataset": data}), load_dataset(SPHERES, None)).checkpoint().metadata["spec"]
        for data in (DigitsSpec(), ConcentricSpheresSpec(), MnistSpec())
    ]
    assert len(set(prints)) == 3


def test_a_checkpoint_of_other_data_is_refused() -> None:
    checkpoint = new_run(job()).checkpoint()
    dataset = load_dataset(SPHERES, None)
    changed = dataclasses.replace(dataset, train_inputs=torch.flip(dataset.train_inputs, (0,)))
    with pytest.raises(ValueError, match="data set is not the one"):
        new_run(job(), changed).restore(checkpoint)
