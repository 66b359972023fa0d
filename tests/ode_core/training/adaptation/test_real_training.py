"""The rules on a real training: concentric spheres, learnt in 300 iterations."""

from ode_core.audit.audit import audit
from ode_core.models.weights import load_classifier
from ode_core.specs import (
    AdaptationSpec,
    CertifiedAdaptation,
    ClassifierSpec,
    ConcentricSpheresSpec,
    Conv1dField,
    SolverSpec,
    StepAdaptation,
)
from ode_core.training.run import TrainingRun
from tests.ode_core.training.small_jobs import advance, job, new_run

ITERATIONS = 300
SPHERES = ConcentricSpheresSpec(dimension=2, train_samples=1000, test_samples=500, seed=3)


def trained(adaptation: AdaptationSpec) -> tuple[TrainingRun, list[dict[str, float]]]:
    run = new_run(
        job(
            dataset=SPHERES,
            model=ClassifierSpec(field=Conv1dField(channels=32)),
            training={"iterations": ITERATIONS, "batch_size": 64, "learning_rate": 0.005, "seed": 2},
            adaptation=adaptation,
        )
    )
    return run, advance(run, ITERATIONS)


def test_the_talks_rule_climbs_and_falls_all_the_time() -> None:
    _, metrics = trained(StepAdaptation(interval=10, max_steps=100))
    actions = [values["adaptation_action"] for values in metrics if "adaptation_action" in values]
    rejected = [i for i, action in enumerate(actions) if action < 0]
    assert len(rejected) >= 3
    assert rejected[-1] > 20
    assert 0 not in actions


def test_the_certified_rule_ends_with_a_model_that_the_audit_on_unseen_data_confirms() -> None:
    run, metrics = trained(CertifiedAdaptation(interval=25, audit_samples=500))
    model = run.trained_model()
    told = model.metadata["adaptation"]
    assert told["certified"]
    assert told["certified_iteration"] >= 0.9 * ITERATIONS
    assert told["flip_interval"][1] <= told["epsilon"] == 0.02
    assert told["checks"] == sum("certified" in values for values in metrics) == 13
    assert told["rejects"] == sum(values.get("adaptation_accepted") == 0 for values in metrics)
    # It has learnt something, and a model at chance would be easy to certify; how much 300 iterations teach depends on
    # the last digits of the first ones.
    assert model.metadata["test_accuracy"] > 0.6
    classifier = load_classifier(run.spec.architecture, SPHERES, model.weights)
    report = audit(
        classifier, run.dataset.test_inputs, run.dataset.test_labels, model.solver, epsilon=0.05, max_evaluations=5000
    )
    assert report.verdict == "ode", report.sentence


def test_what_is_exported_are_the_weights_of_the_last_check_that_certified() -> None:
    spec = job(
        dataset=SPHERES,
        adaptation=CertifiedAdaptation(interval=4, audit_samples=40, climb_threshold=0.09, epsilon=0.15, max_steps=16),
        training={"iterations": 30, "learning_rate": 0.05},
    )
    run = new_run(spec)
    kept = None
    while not run.finished:
        before = new_run(spec)
        before.restore(run.checkpoint())
        metrics = run.advance()
        if metrics.get("certified"):
            # The check is before the update, but for the one after the last iteration.
            kept = run if run.finished else before if run.iteration > 1 else None
    model = run.trained_model()
    assert kept is not None
    assert model.metadata["adaptation"]["certified"]
    assert model.metadata["adaptation"]["certified_iteration"] == kept.iteration
    expected = {name: tensor.numpy().tobytes() for name, tensor in kept.model.state_dict().items()}
    loaded = load_classifier(spec.architecture, SPHERES, model.weights)
    assert {name: tensor.numpy().tobytes() for name, tensor in loaded.state_dict().items()} == expected


def test_without_any_certificate_the_last_weights_are_exported_with_the_reason() -> None:
    # A single step cannot be refined, and Euler's single step of this field flips a part of the predictions.
    spec = job(
        dataset=SPHERES,
        model=ClassifierSpec(field=Conv1dField(channels=32), end_time=4.0),
        solver=SolverSpec(method="euler", steps=1),
        adaptation=CertifiedAdaptation(interval=5, audit_samples=500, max_steps=1),
        training={"iterations": 12},
    )
    run = new_run(spec)
    metrics = advance(run, 12)
    assert not any(values.get("certified") for values in metrics)
    model = run.trained_model()
    told = model.metadata["adaptation"]
    assert (told["certified"], told["certified_iteration"]) == (False, None)
    assert "no check certified the weights" in told["reason"]
    assert "of 500 predictions differed" in told["reason"]
    assert model.solver == SolverSpec(method="euler", steps=1)
    expected = {name: tensor.numpy().tobytes() for name, tensor in run.model.state_dict().items()}
    loaded = load_classifier(spec.architecture, SPHERES, model.weights)
    assert {name: tensor.numpy().tobytes() for name, tensor in loaded.state_dict().items()} == expected


def test_the_audit_batch_is_never_trained_on() -> None:
    spec = job(
        dataset=SPHERES,
        adaptation=CertifiedAdaptation(interval=50, audit_samples=500, max_steps=4),
        training={"iterations": 40, "batch_size": 50},
    )
    run = new_run(spec)
    seen: set[bytes] = set()
    while not run.finished:
        seen |= {point.numpy().tobytes() for point in run.batch()[0]}
        run.advance()
    everything = {point.numpy().tobytes() for point in run.dataset.train_inputs}
    # 2000 draws go through the 500 that are left four times.
    assert len(seen) == 500
    assert len(everything - seen) == 500
