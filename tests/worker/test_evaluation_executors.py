"""Sweeps, audits and portraits of a model that a training job has just made."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

import worker.executors.audit
import worker.executors.sweep
from api.schemas.audit import AuditResult
from ode_core.audit.solver_choice import SolverChoice
from ode_core.audit.sweep import TestResult, sweep
from ode_core.datasets.load import load_dataset
from ode_core.models.modified_classifier import with_modified_field
from ode_core.models.predictions import predict
from ode_core.models.weights import load_classifier
from ode_core.specs import (
    AuditJobSpec,
    ClassifierSpec,
    ConcentricSpheresSpec,
    Conv1dField,
    DigitsSpec,
    EvaluationJobSpec,
    LinearStem,
    MlpField,
    ModifiedFieldSpec,
    PortraitJobSpec,
    SolverSpec,
    SweepJobSpec,
    TrainingJobSpec,
    TrainingSpec,
)
from store.jobs import Job
from store.results import Result
from store.settings import Settings
from store.unit_of_work import Store
from worker.executors.audit import run_audit
from worker.executors.portrait import run_portrait
from worker.executors.sweep import run_sweep
from worker.executors.training import train
from worker.run_job import JobRunner, Outcome

SAMPLES = 40
ReadJob = Callable[[str], Job]
EULER, RK4, DOPRI5 = (
    SolverSpec(method="euler", steps=2),
    SolverSpec(method="rk4", steps=16),
    SolverSpec(method="dopri5", rtol=1e-5, atol=1e-5),
)


SMOOTH = ClassifierSpec(field=Conv1dField(channels=8, activation="tanh"))


@pytest.fixture
def draining() -> threading.Event:
    return threading.Event()


@pytest.fixture
def run(store: Store, settings: Settings, draining: threading.Event) -> Callable[[str], Outcome]:
    return JobRunner(
        settings=settings,
        store=store,
        executors={"training": train, "sweep": run_sweep, "audit": run_audit, "portrait": run_portrait},
        ring=lambda job_id: None,
        draining=draining.is_set,
    ).run


@pytest.fixture
def trained(run: Callable[[str], Outcome], submit: Callable[[TrainingJobSpec], str]) -> TrainingJobSpec:
    """A model ``spheres``, version 1, trained with Euler-2."""
    spec = TrainingJobSpec(
        name="spheres",
        dataset=ConcentricSpheresSpec(train_samples=80, test_samples=SAMPLES),
        model=ClassifierSpec(field=Conv1dField(channels=8)),
        solver=EULER,
        training=TrainingSpec(iterations=30, batch_size=16, learning_rate=0.01),
    )
    assert run(submit(spec)) is Outcome.SUCCEEDED
    return spec


@pytest.fixture
def accept(store: Store) -> Callable[[EvaluationJobSpec], str]:
    """Accept an evaluation job as the API does; return its id."""

    def accept_job(spec: EvaluationJobSpec) -> str:
        total = len(spec.solvers) if isinstance(spec, SweepJobSpec) else 0
        with store.transaction() as tx:
            return tx.jobs.submit(
                spec.kind,
                spec.model_dump(mode="json"),
                model=spec.model,
                model_version=spec.version or 1,
                total=total,
            ).id

    return accept_job


def rows(store: Store, job_id: str) -> list[Result]:
    with store.reading() as tx:
        return tx.results.list(job=job_id, sort="created_at").items


def test_a_sweep_stores_a_row_for_each_solver(
    store: Store, trained: TrainingJobSpec, run: Any, accept: Any, job: ReadJob
) -> None:
    job_id = accept(SweepJobSpec(model="spheres", solvers=[EULER, RK4, DOPRI5]))

    assert run(job_id) is Outcome.SUCCEEDED

    euler, rk4, dopri5 = rows(store, job_id)
    assert [row.test_method for row in (euler, rk4, dopri5)] == ["euler", "rk4", "dopri5"]
    assert [row.test_steps for row in (euler, rk4, dopri5)] == [2, 16, None]
    assert [row.nfe for row in (euler, rk4)] == [2, 64]
    assert dopri5.test_solver == {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5}
    assert {(row.model, row.version, row.train_method, row.train_steps) for row in (euler, rk4, dopri5)} == {
        ("spheres", 1, "euler", 2)
    }
    assert {row.samples for row in (euler, rk4, dopri5)} == {SAMPLES}
    assert euler.flip_rate == 0
    with store.reading() as tx:
        version = tx.models.version("spheres")
    assert version is not None
    assert euler.accuracy == version.metadata["test_accuracy"]
    ended = job(job_id)
    assert ended.result is not None
    assert [result["accuracy"] for result in ended.result["results"]] == [row.accuracy for row in (euler, rk4, dopri5)]
    assert (ended.progress_step, ended.progress_total) == (3, 3)


def test_a_sweep_may_be_limited_to_some_samples(store: Store, trained: TrainingJobSpec, run: Any, accept: Any) -> None:
    job_id = accept(SweepJobSpec(model="spheres", solvers=[RK4], samples=7))

    run(job_id)

    assert [row.samples for row in rows(store, job_id)] == [7]


@pytest.mark.parametrize(("asked", "tested"), [(None, SAMPLES), (7, 7), (SAMPLES, SAMPLES), (5_000, SAMPLES)])
def test_a_result_says_how_many_samples_were_asked_for_and_how_many_there_are(
    trained: TrainingJobSpec, run: Any, accept: Any, job: ReadJob, asked: int | None, tested: int
) -> None:
    sweep_id = accept(SweepJobSpec(model="spheres", solvers=[EULER], samples=asked))
    audit_id = accept(AuditJobSpec(model="spheres", samples=asked, mechanism=False))
    for job_id in (sweep_id, audit_id):
        assert run(job_id) is Outcome.SUCCEEDED
        result = job(job_id).result
        assert result is not None
        assert (result["samples"], result["samples_asked"], result["test_samples"]) == (tested, asked, SAMPLES)


def test_a_cancelled_sweep_keeps_the_rows_it_has(
    store: Store,
    trained: TrainingJobSpec,
    run: Any,
    accept: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = accept(SweepJobSpec(model="spheres", solvers=[EULER, RK4, DOPRI5]))
    after_second(monkeypatch, lambda: request_cancel(store, job_id))

    assert run(job_id) is Outcome.CANCELLED

    assert [row.test_method for row in rows(store, job_id)] == ["euler", "rk4"]


def test_a_drained_sweep_starts_again_and_leaves_no_row_twice(
    store: Store,
    trained: TrainingJobSpec,
    run: Any,
    accept: Any,
    draining: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = accept(SweepJobSpec(model="spheres", solvers=[EULER, RK4, DOPRI5]))
    with monkeypatch.context() as patch:
        after_second(patch, draining.set)
        assert run(job_id) is Outcome.RELEASED
    draining.clear()

    assert run(job_id) is Outcome.SUCCEEDED

    assert [row.test_method for row in rows(store, job_id)] == ["euler", "rk4", "dopri5"]


def after_second(monkeypatch: pytest.MonkeyPatch, event: Callable[[], None]) -> None:
    """Let ``event`` happen after the second solver of a sweep, and give the lease time to notice."""

    def sweep_with_event(*args: Any, on_result: Callable[[int, int, TestResult], None], **options: Any) -> Any:
        def with_event(number: int, total: int, result: TestResult) -> None:
            if number == 2:
                event()
                threading.Event().wait(0.5)  # ten heartbeats
            on_result(number, total, result)

        return sweep(*args, on_result=with_event, **options)

    monkeypatch.setattr(worker.executors.sweep, "sweep", sweep_with_event)


def request_cancel(store: Store, job_id: str) -> None:
    with store.transaction() as tx:
        tx.jobs.request_cancel(job_id)


def test_an_audit_leaves_a_verdict_and_the_ladder_as_rows(
    store: Store, trained: TrainingJobSpec, run: Any, accept: Any, job: ReadJob
) -> None:
    job_id = accept(AuditJobSpec(model="spheres"))

    assert run(job_id) is Outcome.SUCCEEDED

    result = job(job_id).result
    assert result is not None
    assert result["verdict"] in ("ode", "discrete", "inconclusive", "unresolved")
    assert (result["model"], result["version"], result["epsilon"]) == ("spheres", 1, 0.01)
    assert [row.test_solver for row in rows(store, job_id)] == [rung["solver"] for rung in result["ladder"]]
    assert job(job_id).progress_step > 0


def test_an_audit_leaves_the_solvers_to_serve_with_at_the_version_and_a_later_one_replaces_them(
    store: Store, trained: TrainingJobSpec, run: Any, accept: Any, job: ReadJob
) -> None:
    for samples in (10, 20):
        job_id = accept(AuditJobSpec(model="spheres", samples=samples))
        assert run(job_id) is Outcome.SUCCEEDED
        result = job(job_id).result
        assert result is not None
        with store.reading() as tx:
            version = tx.models.version("spheres")
            assert version is not None
            stored = tx.solver_choices.of_version(version.id)
        assert stored is not None
        assert (stored.job_id, stored.choice) == (job_id, result["solver_choice"])
        assert SolverChoice.from_json(stored.choice).samples == samples


def mechanism_of(run: Any, accept: Any, job: ReadJob, **options: Any) -> dict[str, Any]:
    job_id = accept(AuditJobSpec(model="spheres", **options))
    assert run(job_id) is Outcome.SUCCEEDED
    result = job(job_id).result
    assert result is not None
    AuditResult.model_validate_json(json.dumps(result), strict=True)
    return result


def test_an_audit_says_why_where_it_is_asked_to(trained: TrainingJobSpec, run: Any, accept: Any, job: ReadJob) -> None:
    result = mechanism_of(run, accept, job, mechanism=True)
    assert result["mechanism_reason"] is None
    assert result["mechanism"]["samples"] == SAMPLES
    assert result["mechanism"]["steps"] == 2
    assert result["mechanism"]["split"]["trained"]["accuracy"] == pytest.approx(result["train_accuracy"])
    assert result["mechanism"]["split"]["reference"]["flip_rate"] == pytest.approx(result["flip_rate"])


def test_an_audit_looks_for_the_mechanism_of_a_discrete_model_alone(
    trained: TrainingJobSpec, run: Any, accept: Any, job: ReadJob
) -> None:
    # No flip rate is certain to be above 0.99, nor one below 0.0001 with 40 samples.
    calm = mechanism_of(run, accept, job, mechanism=None, epsilon=0.99)
    assert calm["verdict"] == "ode"
    assert calm["mechanism"] is None
    assert "not discrete" in calm["mechanism_reason"]
    assert calm["repair"] is None
    assert mechanism_of(run, accept, job, epsilon=0.99, mechanism=True)["repair"] is None  # there is nothing to repair
    left_out = mechanism_of(run, accept, job, mechanism=False)
    assert left_out["mechanism"] is None
    assert "leave it out" in left_out["mechanism_reason"]


def test_a_discrete_model_is_looked_into_where_that_is_left_to_the_verdict(
    run: Any, submit: Any, accept: Any, job: ReadJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A modified field of such a model explodes, and is given up the sooner.
    monkeypatch.setattr("ode_core.audit.diagnosis.MAX_EVALUATIONS", 100)
    # With a large learning rate two Euler steps are no ODE after a few iterations.
    spec = TrainingJobSpec(
        name="spheres",
        dataset=ConcentricSpheresSpec(train_samples=80, test_samples=100),
        model=ClassifierSpec(field=Conv1dField(channels=16)),
        solver=EULER,
        training=TrainingSpec(iterations=150, batch_size=32, learning_rate=0.03),
    )
    assert run(submit(spec)) is Outcome.SUCCEEDED
    result = mechanism_of(run, accept, job, mechanism=None)
    assert result["verdict"] == "discrete"
    assert result["mechanism"]["cause"] in ("crossing", "accumulation", "either", "together")
    assert result["mechanism"]["samples"] == 100
    repair = result["repair"]
    assert [option["kind"] for option in repair["options"]] == ["pin_solver", "modified_field", "fine_tune", "retrain"]
    assert repair["options"][0]["solver"] == {"method": "euler", "steps": 2}
    assert repair["tried"][0]["spec"] == {"solver": {"method": "euler", "steps": 2}, "kind": "iterates", "terms": 4}
    assert "euler-2" in repair["recommendation"]


@pytest.mark.parametrize(
    "training",
    [
        {"solver": SolverSpec(method="heun_euler", rtol=0.3, atol=0.3)},
        {"solver": SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3), "gradient": "adjoint"},
        {"solver": SolverSpec(method="rk4", steps=2), "gradient": "adjoint"},
        {"solver": SolverSpec(method="implicit_midpoint", steps=2), "model": SMOOTH},
        {"solver": SolverSpec(method="kvaerno3", rtol=0.1, atol=0.1), "model": SMOOTH},
    ],
    ids=["tolerances", "dopri5-adjoint", "steps-adjoint", "implicit-steps", "implicit-tolerances"],
)
def test_models_trained_with_tolerances_or_the_adjoint_are_taken_apart_on_their_own_steps(
    run: Any, submit: Any, accept: Any, job: ReadJob, training: dict[str, Any]
) -> None:
    spec = TrainingJobSpec(
        name="spheres",
        dataset=ConcentricSpheresSpec(train_samples=80, test_samples=SAMPLES),
        training=TrainingSpec(iterations=20, batch_size=16, learning_rate=0.03),
        **({"model": ClassifierSpec(field=Conv1dField(channels=8))} | training),
    )
    assert run(submit(spec)) is Outcome.SUCCEEDED

    result = mechanism_of(run, accept, job, mechanism=True, epsilon=1e-6)

    found = result["mechanism"]
    assert found["samples"] == SAMPLES
    # A float64 run over the frozen steps predicts what the training solver does, but for labels next to the boundary.
    assert found["split"]["trained"]["accuracy"] == pytest.approx(result["train_accuracy"], abs=1 / SAMPLES)
    assert found["split"]["reference"]["flip_rate"] == pytest.approx(result["flip_rate"], abs=1 / SAMPLES)
    assert found["transport"]["converged"] == SAMPLES
    field = result["repair"]["options"][1]
    if spec.solver.adaptive:
        assert "trained with tolerances" in field["sentence"]
        assert result["repair"]["tried"] == []
    else:
        assert found["steps"] == 2
        assert bool(result["repair"]["tried"]) == (found["split"]["reference"]["flip_rate"] > 0)


def test_a_cancelled_audit_stops_within_the_search_for_the_mechanism(
    store: Store, trained: TrainingJobSpec, run: Any, accept: Any, job: ReadJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = accept(AuditJobSpec(model="spheres", mechanism=True))
    original = worker.executors.audit.diagnose

    def cancelled_first(*arguments: Any, **options: Any) -> Any:
        request_cancel(store, job_id)
        return original(*arguments, **options)

    monkeypatch.setattr(worker.executors.audit, "diagnose", cancelled_first)
    # The lease learns of it from its next heartbeat; until then the analysis goes on, and is long enough.
    monkeypatch.setattr("ode_core.audit.diagnosis.find_mechanism", endless)

    assert run(job_id) is Outcome.CANCELLED
    assert job(job_id).result is None


def endless(*arguments: Any, on_evaluation: Callable[[], None], **options: Any) -> Any:
    """Evaluate the field for ever."""
    while True:
        on_evaluation()


def test_a_stored_model_predicts_what_its_sweep_says(
    store: Store, trained: TrainingJobSpec, run: Any, accept: Any
) -> None:
    from ode_core.datasets.load import load_dataset

    job_id = accept(SweepJobSpec(model="spheres", solvers=[RK4]))
    run(job_id)

    with store.reading() as tx:
        version = tx.models.version("spheres")
    assert version is not None
    model = load_classifier(trained.architecture, trained.dataset, store.read_blob(version.blob_id))
    data = load_dataset(trained.dataset, None)
    assert rows(store, job_id)[0].accuracy == predict(model, data.test_inputs, RK4).accuracy(data.test_labels)


@pytest.mark.parametrize(
    "spec",
    [SweepJobSpec(model="nobody", solvers=[RK4]), AuditJobSpec(model="nobody"), PortraitJobSpec(model="nobody")],
    ids=["sweep", "audit", "portrait"],
)
def test_a_model_that_is_gone_fails_the_job_with_its_name(
    run: Any, accept: Any, job: ReadJob, spec: EvaluationJobSpec
) -> None:
    job_id = accept(spec)

    assert run(job_id) is Outcome.FAILED

    failure = job(job_id).error
    assert failure is not None
    assert failure["code"] == "model_unavailable"
    assert "nobody" in failure["message"]


def test_a_solver_beyond_the_budget_is_refused_where_it_runs(
    trained: TrainingJobSpec, run: Any, accept: Any, job: ReadJob
) -> None:
    job_id = accept(SweepJobSpec(model="spheres", solvers=[SolverSpec(method="rk4", steps=100_000)]))

    assert run(job_id) is Outcome.FAILED

    failure = job(job_id).error
    assert failure is not None
    assert failure["code"] == "budget_exceeded"


def test_a_portrait_shows_the_training_solver_and_half_its_step(
    trained: TrainingJobSpec, run: Any, accept: Any, job: ReadJob
) -> None:
    job_id = accept(PortraitJobSpec(model="spheres", samples=5, fan_samples=2, grid=7))

    assert run(job_id) is Outcome.SUCCEEDED

    ended = job(job_id)
    assert ended.result is not None
    assert (ended.result["model"], ended.result["version"]) == ("spheres", 1)
    assert [view["solver"] for view in ended.result["views"]] == [
        {"method": "euler", "steps": 2},
        {"method": "euler", "steps": 4},
    ]
    assert len(ended.result["labels"]) == SAMPLES
    assert len(ended.result["views"][0]["trajectories"]["states"]) == 5
    assert len(ended.result["views"][0]["input_regions"]) == 7
    assert [fan["label"] for fan in ended.result["views"][1]["fans"]] == [0, 1]


def test_a_portrait_of_a_state_of_two_features_of_images_has_no_plane_of_inputs(
    run: Any, submit: Any, accept: Any, job: ReadJob
) -> None:
    spec = TrainingJobSpec(
        name="digits",
        dataset=DigitsSpec(),
        model=ClassifierSpec(field=MlpField(hidden=(4,)), stem=LinearStem(features=2)),
        solver=EULER,
        training=TrainingSpec(iterations=2),
    )
    assert run(submit(spec)) is Outcome.SUCCEEDED
    job_id = accept(PortraitJobSpec(model="digits", samples=5, fan_samples=0, grid=5))

    assert run(job_id) is Outcome.SUCCEEDED

    result = job(job_id).result
    assert result is not None
    assert result["classes"] == 10
    assert result["inputs"] is result["input_plane"] is result["views"][0]["input_regions"] is None
    assert result["decision_line"] is result["views"][0]["separation"] is None
    assert result["views"][0]["fans"] == []


@pytest.mark.parametrize(
    ("dimension", "parts", "code", "words"),
    [
        (3, {}, "portrait_impossible", "two numbers"),
        (2, {"solver": DOPRI5}, "portrait_impossible", "fixed grid"),
        (2, {"solver": SolverSpec(method="euler", steps=60_000)}, "portrait_impossible", "finer"),
        (2, {"finer": SolverSpec(method="rk4", steps=99_000)}, "budget_exceeded", "steps"),
        (2, {"finer": SolverSpec(method="euler", steps=99_000)}, "budget_exceeded", "states"),
    ],
)
def test_a_portrait_that_cannot_be_made_fails_with_the_reason(
    run: Any, submit: Any, accept: Any, job: ReadJob, dimension: int, parts: dict[str, Any], code: str, words: str
) -> None:
    spec = TrainingJobSpec(
        name="small",
        dataset=ConcentricSpheresSpec(dimension=dimension, train_samples=8, test_samples=4),
        model=ClassifierSpec(field=Conv1dField(channels=2)),
        solver=EULER,
        training=TrainingSpec(iterations=1, batch_size=4),
    )
    assert run(submit(spec)) is Outcome.SUCCEEDED
    job_id = accept(PortraitJobSpec(model="small", **parts))

    assert run(job_id) is Outcome.FAILED

    failure = job(job_id).error
    assert failure is not None
    assert failure["code"] == code
    assert words in failure["message"]


def test_a_list_of_jobs_leaves_a_portraits_result_out(
    store: Store, trained: TrainingJobSpec, run: Any, accept: Any
) -> None:
    portrait_id = accept(PortraitJobSpec(model="spheres", samples=2, fan_samples=0, grid=5))
    assert run(portrait_id) is Outcome.SUCCEEDED

    with store.reading() as tx:
        listed = {job.kind: job.result for job in tx.jobs.list().items}
        alone = tx.jobs.require(portrait_id)

    assert listed["portrait"] is None
    assert listed["training"] is not None
    assert listed["training"]["model"] == "spheres"
    assert alone.result is not None


def test_a_repair_is_audited_swept_and_drawn_with_its_modified_field(
    trained: TrainingJobSpec, run: Any, accept: Any, job: ReadJob, store: Store, settings: Settings
) -> None:
    field = ModifiedFieldSpec(solver=EULER, kind="iterates", terms=4)
    with store.transaction() as tx:
        parent = tx.models.version("spheres", 1)
        assert parent is not None
        tx.models.register_repair(
            parent,
            modified_field=field.model_dump(mode="json", exclude_none=True),
            solver=DOPRI5.document(),
            metadata={},
        )
    audit = accept(AuditJobSpec(model="spheres", version=2))
    sweep = accept(SweepJobSpec(model="spheres", version=2, solvers=[RK4]))
    drawing = accept(PortraitJobSpec(model="spheres", version=2, solver=RK4, samples=2, fan_samples=0, grid=5))
    for each in (audit, sweep, drawing):
        assert run(each) is Outcome.SUCCEEDED, job(each).error
    found, swept = job(audit).result, job(sweep).result
    assert found is not None
    assert swept is not None
    assert found["train_solver"] == DOPRI5.document()
    assert found["verdict"] != "ode" or "the solver it is served with" in found["sentence"]
    beside = found["parent"]
    assert (beside["model"], beside["version"], beside["solver"]) == ("spheres", 1, EULER.document())
    assert beside["accuracy"] == parent.metadata["test_accuracy"]
    assert swept["results"][0]["nfe"] == 16 * 4 * 4  # steps, stages, and Euler steps in each
    # Independently: the modified field's predictions and the parent's, by the model itself.
    dataset = load_dataset(trained.dataset, settings.datasets)
    model = load_classifier(trained.architecture, trained.dataset, store.read_blob(parent.blob_id))
    before = predict(model, dataset.test_inputs, EULER).labels
    after = predict(with_modified_field(model, field), dataset.test_inputs, DOPRI5).labels
    assert beside["agreement"] == float((before == after).double().mean())


def test_an_audit_of_a_version_with_its_own_field_has_no_parent_beside_it(
    trained: TrainingJobSpec, run: Any, accept: Any, job: ReadJob
) -> None:
    accepted = accept(AuditJobSpec(model="spheres"))
    assert run(accepted) is Outcome.SUCCEEDED
    result = job(accepted).result
    assert result is not None
    assert result["parent"] is None
