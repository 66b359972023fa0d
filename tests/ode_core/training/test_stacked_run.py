import math

import pytest
import torch
from pydantic import TypeAdapter

from ode_core.datasets.load import load_dataset
from ode_core.fields.dense_chain import DenseChain
from ode_core.fields.vector_fields import build_field
from ode_core.specs import ConcentricSpheresSpec, TrainingJobSpec, require_stackable
from ode_core.specs.model import model_state_shape
from ode_core.specs.stacking import LONGEST_SIGNAL, is_stackable
from ode_core.training.checkpoint import Checkpoint
from ode_core.training.run import TrainingDiverged, TrainingRun
from ode_core.training.stacked_run import StackedTrainingRun

CPU = torch.device("cpu")
SEEDS = (3, 0, 8)


def spec(**changes: object) -> TrainingJobSpec:
    values = {
        "name": "stacked",
        "dataset": {"kind": "concentric_spheres", "dimension": 2},
        "model": {"kind": "preset", "name": "sphere2"},
        "solver": {"method": "euler", "steps": 4},
        "training": {"iterations": 12, "batch_size": 32, "learning_rate": 1e-3, "precision": "float64"},
    }
    return TypeAdapter(TrainingJobSpec).validate_python(values | changes)


def alone(base: TrainingJobSpec, seed: int, iterations: int) -> tuple[TrainingRun, list[dict[str, float]]]:
    run = TrainingRun(base.with_seed(seed), load_dataset(base.dataset, None), CPU)
    return run, [run.advance() for _ in range(iterations)]


def advance_for_ever(run: TrainingRun) -> None:
    while True:
        run.advance()


MODELS = {
    "sphere2": {"kind": "preset", "name": "sphere2"},
    "timed perceptron": {
        "kind": "classifier",
        "field": {"kind": "mlp", "hidden": [7, 6], "activation": "silu", "time_dependent": True},
    },
}


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("model", list(MODELS))
def test_every_run_of_a_stack_is_the_run_it_would_be_alone(model, optimizer):
    training = {"iterations": 12, "batch_size": 32, "optimizer": optimizer, "precision": "float64"}
    if optimizer != "adam":
        training["momentum"] = 0.5
    base = spec(model=MODELS[model], training=training)
    stack = StackedTrainingRun(base, SEEDS, load_dataset(base.dataset, None), CPU)
    metrics = [stack.advance() for _ in range(12)]
    assert stack.finished
    for number, seed in enumerate(SEEDS):
        run, expected = alone(base, seed, 12)
        for iteration, values in enumerate(expected):
            # Sums in another order; twelve updates of a few percent each leave most of the digits.
            assert metrics[iteration][number] == pytest.approx(values, rel=1e-9, abs=1e-12)
        checkpoint, single = stack.checkpoint(number), run.checkpoint()
        assert checkpoint.tensors.keys() == single.tensors.keys()
        for name, tensor in single.tensors.items():
            assert torch.allclose(checkpoint.tensors[name], tensor, rtol=1e-7, atol=1e-9), name
        for key in ("spec", "dataset", "training_evaluations", "training_steps"):
            assert checkpoint.metadata[key] == single.metadata[key]
        trained = stack.trained_model(number)
        assert trained.metadata["test_accuracy"] == run.trained_model().metadata["test_accuracy"]


def test_a_run_of_a_stack_goes_on_alone_from_its_checkpoint():
    base = spec()
    dataset = load_dataset(base.dataset, None)
    stack = StackedTrainingRun(base, SEEDS, dataset, CPU)
    for _ in range(6):
        stack.advance()
    resumed = TrainingRun(base.with_seed(SEEDS[1]), dataset, CPU)
    resumed.restore(stack.checkpoint(1))
    for _ in range(6):
        stack.advance()
        resumed.advance()
    weights = stack.checkpoint(1).tensors
    for name, tensor in resumed.checkpoint().tensors.items():
        assert torch.allclose(weights[name], tensor, rtol=1e-7, atol=1e-9), name


def test_a_run_that_diverges_stops_where_it_was_and_the_others_are_as_without_it():
    base = spec()
    dataset = load_dataset(base.dataset, None)
    stack = StackedTrainingRun(base, SEEDS, dataset, CPU)
    stack.advance()
    before = {name: w[1].clone() for name, w in stack._weights.items()}
    with torch.no_grad():
        stack._weights["field.network.0.weight"][1] = math.inf
    metrics = [stack.advance() for _ in range(11)]
    assert all(rows[1] is None for rows in metrics)
    assert [failed is not None for failed in stack.diverged] == [False, True, False]
    assert "iteration 2 of 12" in str(stack.diverged[1])
    assert stack.finished
    assert stack.runs[1].iteration == 1
    head = dict(stack.runs[1].model.named_parameters())["head.1.weight"]
    assert torch.equal(head, before["head.1.weight"])
    for number in (0, 2):
        _, expected = alone(base, SEEDS[number], 12)
        assert metrics[-1][number] == pytest.approx(expected[-1], rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"solver": {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3}}, "tolerances"),
        ({"adaptation": {"kind": "step"}, "solver": {"method": "euler", "steps": 4}}, "step adaptation"),
        ({"solver": {"method": "trapezoid", "steps": 4}}, "explicit methods"),
        ({"solver": {"method": "rk4_38", "steps": 4, "backend": "torchdiffeq"}}, "explicit methods"),
        ({"gradient": "checkpoint"}, "gradient backprop"),
        (
            {
                "dataset": {"kind": "digits"},
                "model": {"kind": "classifier", "field": {"kind": "conv2d", "channels": 2}},
            },
            "image convolutions",
        ),
        (
            {
                "model": {
                    "kind": "classifier",
                    "field": {"kind": "mlp", "hidden": [4]},
                    "stem": {"kind": "linear", "features": 3},
                }
            },
            "stem",
        ),
    ],
)
def test_runs_that_cannot_be_stacked_are_refused_with_the_reason(changes, reason):
    with pytest.raises(ValueError, match=reason):
        require_stackable(spec(**changes))


def test_a_convolution_over_a_long_signal_is_not_stacked():
    base = spec(dataset={"kind": "concentric_spheres", "dimension": 10})
    with pytest.raises(ValueError, match="more than 4 points"):
        StackedTrainingRun(base, SEEDS, load_dataset(base.dataset, None), CPU)


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_every_seed_is_given_once(seeds):
    base = spec()
    with pytest.raises(ValueError, match="seed"):
        StackedTrainingRun(base, seeds, load_dataset(base.dataset, None), CPU)


@pytest.mark.parametrize("seeds", [(3,), (3, 0)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_runs_that_all_diverge_end_as_they_do_alone(optimizer, seeds):
    training = {"iterations": 40, "batch_size": 32, "optimizer": optimizer, "learning_rate": 10.0}
    base = spec(training=training, solver={"method": "rk4", "steps": 16})
    dataset = load_dataset(base.dataset, None)
    stack = StackedTrainingRun(base, seeds, dataset, CPU)
    while not stack.finished:
        stack.advance()
    for number, seed in enumerate(seeds):
        single = TrainingRun(base.with_seed(seed), dataset, CPU)
        with pytest.raises(TrainingDiverged) as alone:
            advance_for_ever(single)
        assert str(stack.diverged[number])[:25] == str(alone.value)[:25]  # the iteration
        assert stack.runs[number].iteration == single.iteration
        weights = stack.checkpoint(number).tensors["model.head.1.weight"]
        assert torch.allclose(weights, single.model.head[1].weight, rtol=1e-3, atol=1e-3)


def interrupted(stack: StackedTrainingRun, base: TrainingJobSpec, seeds=SEEDS) -> StackedTrainingRun:
    """The stack in another process: restored from the bytes of its checkpoint."""
    other = StackedTrainingRun(base, seeds, load_dataset(base.dataset, None), CPU)
    other.restore(Checkpoint.from_bytes(stack.stacked_checkpoint().to_bytes()))
    return other


def assert_same_bits(one: StackedTrainingRun, other: StackedTrainingRun) -> None:
    a, b = one.stacked_checkpoint(), other.stacked_checkpoint()
    assert a.tensors.keys() == b.tensors.keys()
    assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)
    for run, restored in zip(a.metadata["runs"], b.metadata["runs"], strict=True):
        for state in (run, restored):
            del state["metadata"]["seconds"]
        assert run == restored


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_a_restored_stack_goes_on_bit_for_bit(optimizer):
    training = {"iterations": 12, "batch_size": 32, "optimizer": optimizer, "weight_decay": 0.01}
    if optimizer != "adam":
        training["momentum"] = 0.5
    base = spec(training=training)
    undisturbed = StackedTrainingRun(base, SEEDS, load_dataset(base.dataset, None), CPU)
    for _ in range(5):
        undisturbed.advance()
    restored = interrupted(undisturbed, base)
    assert restored.iteration == 5
    for _ in range(7):
        assert undisturbed.advance() == restored.advance()
    assert restored.finished
    assert_same_bits(undisturbed, restored)


@pytest.mark.parametrize("diverged_after", [0, 4])
def test_a_restored_stack_remembers_who_diverged_and_why(diverged_after):
    base = spec()
    undisturbed = StackedTrainingRun(base, SEEDS, load_dataset(base.dataset, None), CPU)
    for _ in range(diverged_after):
        undisturbed.advance()
    with torch.no_grad():
        undisturbed._weights["field.network.0.weight"][1] = math.inf
    undisturbed.advance()
    restored = interrupted(undisturbed, base)
    assert [str(failed) for failed in restored.diverged] == [str(failed) for failed in undisturbed.diverged]
    while not undisturbed.finished:
        assert undisturbed.advance() == restored.advance()
    assert restored.finished
    assert_same_bits(undisturbed, restored)


def test_a_checkpoint_of_other_seeds_is_refused():
    base = spec()
    stack = StackedTrainingRun(base, SEEDS, load_dataset(base.dataset, None), CPU)
    with pytest.raises(ValueError, match="another training spec"):
        interrupted(stack, base, (3, 0, 9))
    with pytest.raises(ValueError, match="another number of runs"):
        interrupted(stack, base, (3, 0))


@pytest.mark.parametrize("points", range(2, LONGEST_SIGNAL + 3))
def test_the_specs_know_up_to_which_signal_a_field_is_run_as_a_matrix_product(points):
    job = spec(dataset=ConcentricSpheresSpec(dimension=points))
    shape = model_state_shape(job.architecture, job.dataset.input_shape)
    chain = build_field(job.architecture.field, shape).for_states(shape)

    assert is_stackable(job) is isinstance(chain, DenseChain)
