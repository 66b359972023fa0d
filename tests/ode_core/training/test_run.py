import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ode_core.datasets.load import Dataset, load_dataset
from ode_core.models.weights import load_classifier
from ode_core.specs import ConcentricSpheresSpec, MlpField, SolverSpec, StepAdaptation
from ode_core.specs.model import ClassifierSpec
from ode_core.training.run import TrainingDiverged, TrainingRun
from ode_core.training.sampling import BatchSampler
from tests.ode_core.training.small_jobs import SPHERES, advance, job, new_run, weights


def test_one_iteration_is_one_step_down_the_gradient_of_the_cross_entropy() -> None:
    spec = job(training={"optimizer": "sgd", "learning_rate": 0.5, "precision": "float64", "seed": 5})
    run = new_run(spec)
    model, dataset = run.model, load_dataset(SPHERES, None)
    indices = BatchSampler(100, 16, seed=5).batch(0)
    labels = dataset.train_labels[indices]
    z = dataset.train_inputs[indices].double().reshape(16, 1, 2)
    for _ in range(2):
        z = z + 0.5 * model.field(torch.zeros(()), z)
    logits = z.flatten(1) @ model.head[1].weight.T + model.head[1].bias
    loss = (logits.logsumexp(dim=1) - logits[torch.arange(16), labels]).mean()
    named = dict(model.named_parameters())
    gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    expected = {name: value.detach() - 0.5 * gradients[name] for name, value in named.items()}

    metrics = run.advance()

    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-12)
    assert metrics["train_accuracy"] == (logits.argmax(dim=1) == labels).sum().item() / 16
    norm = math.sqrt(sum(g.square().sum().item() for g in gradients.values()))
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-12)
    assert (metrics["steps"], metrics["nfe"]) == (2, 2)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name], rtol=1e-12, atol=1e-14)


def test_the_seed_covers_weights_and_order_and_nothing_else_is_random() -> None:
    def trained(seed: int, global_seed: int) -> dict[str, bytes]:
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        run = new_run(job(training={"seed": seed}, adaptation=StepAdaptation(interval=5)))
        advance(run, 12)
        assert torch.equal(torch.get_rng_state(), before)
        return weights(run)

    assert trained(seed=1, global_seed=1) == trained(seed=1, global_seed=2)
    assert trained(seed=1, global_seed=1) != trained(seed=2, global_seed=1)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_every_optimizer_lowers_the_loss(optimizer: str) -> None:
    rate = {"adam": 0.01, "sgd": 0.5, "rmsprop": 0.01}[optimizer]
    dataset = load_dataset(SPHERES, None)
    halves = dataclasses.replace(dataset, train_labels=(dataset.train_inputs[:, 0] > 0).long())
    run = new_run(job(training={"optimizer": optimizer, "learning_rate": rate, "iterations": 100}), halves)
    losses = [metrics["loss"] for metrics in advance(run, 100)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_with_tolerances_the_evaluations_vary_and_there_are_no_steps_to_report() -> None:
    solver = SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3)
    run = new_run(job(solver=solver))
    inputs = run.dataset.train_inputs[BatchSampler(100, 16, seed=0).batch(0)]
    evaluations = run.model.predict(inputs, solver).solution.evaluations.double().mean().item()
    metrics = run.advance()
    assert metrics["nfe"] == pytest.approx(evaluations)
    assert "steps" not in metrics
    assert run.trained_model().metadata["mean_steps"] is None


def test_a_run_is_finished_after_its_iterations() -> None:
    run = new_run(job(training={"iterations": 3}))
    done = []
    while not run.finished:
        run.advance()
        done.append(run.iteration)
    assert done == [1, 2, 3]


class TestAdaptation:
    def test_checks_come_every_interval_and_the_next_solves_use_their_step(self) -> None:
        run = new_run(job(adaptation=StepAdaptation(interval=6, threshold=0.02, max_steps=64)))
        steps, accepted = [], {}
        for iteration in range(40):
            metrics = run.advance()
            assert metrics["steps"] == metrics["nfe"] == run.solver.fixed_steps()
            assert ("adaptation_accepted" in metrics) == (iteration % 6 == 0)
            steps.append(metrics["steps"])
            accepted[iteration] = metrics.get("adaptation_accepted")
        for iteration in range(1, 40):
            before, now = steps[iteration - 1 : iteration + 1]
            if iteration % 6:
                assert now == before
            elif accepted[iteration]:
                assert now <= before
            else:
                assert now == 64 or 2 * before - 2 < now <= 2 * before

    def test_evaluations_of_the_checks_are_counted_apart(self) -> None:
        run = new_run(job(adaptation=StepAdaptation(interval=6)))
        metrics = advance(run, 40)
        metadata = run.trained_model().metadata
        assert metadata["training_evaluations"] == sum(m["nfe"] for m in metrics)
        assert metadata["mean_training_evaluations"] == pytest.approx(sum(m["nfe"] for m in metrics) / 40)
        assert metadata["mean_steps"] == pytest.approx(sum(m["steps"] for m in metrics) / 40)
        assert metadata["adaptation_evaluations"] == sum(m.get("adaptation_evaluations", 0) for m in metrics)
        assert metadata["adaptation_evaluations"] > 0

    def test_a_check_leaves_no_trace_in_the_training(self) -> None:
        # With at most one step the adaptation checks and has nothing to change.
        checked = new_run(job(adaptation=StepAdaptation(interval=1, max_steps=1)))
        plain = new_run(job(solver=SolverSpec(method="euler", steps=1)))
        for with_check, without in zip(advance(checked, 20), advance(plain, 20), strict=True):
            assert without.items() <= with_check.items()
        assert weights(checked) == weights(plain)

    def test_the_specs_own_steps_do_not_count(self) -> None:
        ends = []
        for steps in (2, 200):
            run = new_run(job(solver=SolverSpec(method="euler", steps=steps), adaptation=StepAdaptation(interval=6)))
            advance(run, 20)
            ends.append(weights(run))
        assert ends[0] == ends[1]

    def test_in_the_last_part_the_step_stops_growing(self) -> None:
        # A threshold that everything passes: the step grows at every check until the run settles.
        rule = StepAdaptation(interval=2, threshold=0.999, growth=1.05, settle_fraction=0.5)
        steps = [m["steps"] for m in advance(new_run(job(adaptation=rule)), 40)]
        assert steps[0] > steps[10] > steps[18]
        assert set(steps[20:]) == {steps[18]}

    def test_midpoint_is_adapted_too(self) -> None:
        run = new_run(job(solver=SolverSpec(method="midpoint", steps=2), adaptation=StepAdaptation(interval=3)))
        metrics = advance(run, 10)
        assert run.solver.method == "midpoint"
        assert all(m["nfe"] == 2 * m["steps"] for m in metrics)

    def test_a_check_whose_solve_fails_counts_it_as_wrong(self) -> None:
        # Euler with one step takes z = 1e5 to about 1e15 and is right; the test solver's eight steps overflow. Read
        # as NaN they would be taken for class 0, which is right as well.
        run = run_with_field(Cubed(), torch.full((20, 2), 1e5), adaptation=StepAdaptation(max_steps=1))
        with torch.no_grad():
            for parameter in run.model.head.parameters():
                parameter.zero_()
        metrics = run.advance()
        assert metrics["train_accuracy"] == 1.0
        assert metrics["adaptation_difference"] == 1.0
        assert metrics["adaptation_accepted"] == 0.0


class Cubed(nn.Module):
    """``z' = z^3``, which explodes in finite time."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def for_states(self, state_shape: tuple[int, ...]) -> "Cubed":
        return self

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        # The gradient of the factor would overflow too; it is not what is tested.
        return self.factor.detach() * z**3


def run_with_field(field: nn.Module, inputs: Tensor, adaptation: StepAdaptation | None = None) -> TrainingRun:
    """A run on points of class 0 whose vector field is replaced."""
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    model = ClassifierSpec(field=MlpField(hidden=(1,)))
    run = new_run(job(model=model, adaptation=adaptation), Dataset(inputs, labels, inputs, labels))
    run.model.field = field  # type: ignore[assignment]
    return run


class TestDivergence:
    def test_a_solve_that_explodes_ends_the_run_with_what_happened_and_what_to_try(self) -> None:
        inputs = torch.full((20, 2), 1e-3)
        run = run_with_field(Cubed(), inputs)
        before = weights(run)
        run.advance()
        assert weights(run) != before
        run.dataset.train_inputs.fill_(1e20)
        after_one = weights(run)
        with pytest.raises(TrainingDiverged) as caught:
            run.advance()
        message = str(caught.value)
        assert caught.value.iteration == 2
        assert "iteration 2 of 40" in message
        assert "16 of 16 samples ended with non_finite" in message
        assert "lower the learning rate" in message
        assert run.iteration == 1
        assert weights(run) == after_one

    def test_with_adaptation_the_check_leaves_the_report_to_the_iteration(self) -> None:
        run = run_with_field(Cubed(), torch.full((20, 2), 1e20), adaptation=StepAdaptation(max_steps=4))
        with pytest.raises(TrainingDiverged, match="non_finite"):
            run.advance()

    def test_a_solve_out_of_steps_names_the_solvers_remedy(self) -> None:
        solver = SolverSpec(method="dopri5", rtol=1e-5, atol=1e-5, max_steps=1)
        with pytest.raises(TrainingDiverged, match=r"max_steps_reached.*raise max_steps"):
            new_run(job(solver=solver)).advance()

    @pytest.mark.parametrize(
        ("spoil", "what"),
        [
            (lambda run: run.model.head[1].bias.data.fill_(torch.nan), "loss"),
            (lambda run: run.model.head[1].bias.register_hook(lambda gradient: gradient * torch.inf), "gradient"),
        ],
    )
    def test_a_loss_or_a_gradient_that_is_no_number_ends_the_run(
        self, spoil: Callable[[TrainingRun], object], what: str
    ) -> None:
        run = new_run(job())
        spoil(run)
        before = weights(run)
        with pytest.raises(TrainingDiverged, match=f"iteration 1 of 40 the {what} is not finite: .*learning rate"):
            run.advance()
        assert weights(run) == before


class TestTrainedModel:
    def test_the_accuracy_is_over_the_whole_test_split_whatever_its_size(self) -> None:
        # 701 samples are one whole batch of the evaluation and a part of a second.
        data = ConcentricSpheresSpec(dimension=2, train_samples=100, test_samples=701)
        run = new_run(job(dataset=data))
        advance(run, 15)
        metadata = run.trained_model().metadata
        test = load_dataset(data, None)
        with torch.no_grad():
            right = (run.model(test.test_inputs, run.solver).argmax(dim=1) == test.test_labels).sum().item()
        assert metadata["test_accuracy"] == right / 701
        assert metadata["test_samples"] == 701
        assert metadata["test_failures"] == 0

    def test_a_perfect_model_has_an_accuracy_of_one(self) -> None:
        dataset = load_dataset(SPHERES, None)
        run = new_run(job(), dataset)
        with torch.no_grad():
            predicted = run.model(dataset.test_inputs, run.solver).argmax(dim=1)
        run.dataset = dataclasses.replace(dataset, test_labels=predicted)
        assert run.trained_model().metadata["test_accuracy"] == 1.0

    def test_the_adapted_solver_belongs_to_the_model(self) -> None:
        run = new_run(job(adaptation=StepAdaptation(interval=4, threshold=0.02)))
        advance(run, 40)
        trained = run.trained_model()
        assert trained.solver == run.solver != run.spec.solver
        spec = run.spec
        loaded = load_classifier(spec.architecture, spec.dataset, trained.weights)
        with torch.no_grad():
            assert torch.equal(
                loaded(run.dataset.test_inputs, trained.solver), run.model(run.dataset.test_inputs, run.solver)
            )

    def test_the_metadata_describes_model_and_data(self) -> None:
        run = new_run(job(training={"precision": "float64"}))
        advance(run, 4)
        metadata = run.trained_model().metadata
        assert metadata["parameters"] == 12 + 114 + 7 + 6  # conv 1->6, conv 6->6 of width 3, conv 6->1, head 2->2
        assert metadata["input_shape"] == metadata["state_shape"] == [1, 2]
        assert (metadata["classes"], metadata["precision"], metadata["iterations"]) == (2, "float64", 4)
        assert metadata["dataset_fingerprint"] == load_dataset(SPHERES, None).fingerprint


def test_a_grid_whose_last_step_is_cut_short_is_trained_as_it_is() -> None:
    run = new_run(job(solver=SolverSpec(method="euler", step_size=0.3, grid="truncate")))
    assert run.advance()["steps"] == 4
    assert run.solver == run.spec.solver


def test_a_step_size_is_trained_and_stored_as_the_whole_number_of_steps_it_comes_to() -> None:
    run = new_run(job(solver=SolverSpec(method="euler", step_size=0.3)))
    assert run.advance()["steps"] == 4
    assert run.trained_model().solver == SolverSpec(method="euler", steps=4)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_a_solve_beyond_its_evaluations_ends_the_run_and_fails_in_the_test(gradient: str) -> None:
    solver = SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3)
    spec, dataset = job(solver=solver, gradient=gradient), load_dataset(SPHERES, None)
    enough = TrainingRun(spec, dataset, torch.device("cpu"), max_evaluations=10_000)
    assert enough.advance()["nfe"] > 4
    run = TrainingRun(spec, dataset, torch.device("cpu"), max_evaluations=4)
    with pytest.raises(TrainingDiverged, match="ended with budget_exceeded"):
        run.advance()
    metadata = run.trained_model().metadata
    assert metadata["test_failures"] == metadata["test_samples"]
