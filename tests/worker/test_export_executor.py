"""Exports of a model that a training job has just made."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest

import worker.executors.export
from api.schemas.export import ExportResult
from ode_core.datasets.load import load_dataset
from ode_core.export.agreement import ExportFailed
from ode_core.models.predictions import predict
from ode_core.models.weights import load_classifier
from ode_core.specs import (
    ClassifierSpec,
    ConcentricSpheresSpec,
    Conv1dField,
    ExportJobSpec,
    ModifiedFieldSpec,
    SolverSpec,
    TrainingJobSpec,
    TrainingSpec,
)
from store.jobs import Job
from store.settings import Settings
from store.unit_of_work import Store
from worker.executors.export import run_export
from worker.executors.training import train
from worker.run_job import JobRunner, Outcome

ReadJob = Callable[[str], Job]
Run = Callable[[str], Outcome]
EULER, RK4 = SolverSpec(method="euler", steps=2), SolverSpec(method="rk4", steps=4)


@pytest.fixture
def run(store: Store, settings: Settings) -> Run:
    return JobRunner(
        settings=settings,
        store=store,
        executors={"training": train, "export": run_export},
        ring=lambda job_id: None,
        draining=lambda: False,
    ).run


@pytest.fixture
def trained(run: Run, submit: Callable[[TrainingJobSpec], str]) -> TrainingJobSpec:
    """A model ``spheres``, version 1, trained with Euler-2; its test split is smaller than the largest batch."""
    spec = TrainingJobSpec(
        name="spheres",
        dataset=ConcentricSpheresSpec(train_samples=80, test_samples=20),
        model=ClassifierSpec(field=Conv1dField(channels=4)),
        solver=EULER,
        training=TrainingSpec(iterations=5, batch_size=16),
    )
    assert run(submit(spec)) is Outcome.SUCCEEDED
    return spec


@pytest.fixture
def accept(store: Store) -> Callable[[ExportJobSpec], str]:
    def accept_job(spec: ExportJobSpec) -> str:
        with store.transaction() as tx:
            return tx.jobs.submit(
                "export", spec.model_dump(mode="json"), model=spec.model, model_version=spec.version or 1
            ).id

    return accept_job


def artifact(store: Store, job_id: str) -> tuple[str, bytes]:
    with store.reading() as tx:
        found = tx.artifacts.of_job(job_id)
    assert found is not None
    return found.name, store.read_blob(found.blob_id)


def test_an_export_leaves_a_file_that_gives_the_versions_answers(
    store: Store, trained: TrainingJobSpec, run: Run, accept: Any, job: ReadJob
) -> None:
    job_id = accept(ExportJobSpec(model="spheres", solver=RK4))

    assert run(job_id) is Outcome.SUCCEEDED

    name, data = artifact(store, job_id)
    assert name == "spheres-v1-rk4-4.onnx"
    result = ExportResult.model_validate(job(job_id).result)
    assert (result.model, result.version, result.format) == ("spheres", 1, "onnx")
    assert (result.solver, result.train_solver) == (RK4.document(), EULER.document())
    assert (result.file.bytes, result.file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert result.check.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert 0 <= result.check.probabilities < 1e-5
    assert (result.check.labels, result.check.failed) == (0, 0)
    with store.reading() as tx:
        version = tx.models.version("spheres")
    assert version is not None
    model = load_classifier(trained.architecture, trained.dataset, store.read_blob(version.blob_id))
    inputs = load_dataset(trained.dataset, None).test_inputs
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"inputs": model.as_input(inputs).numpy()})[0]
    np.testing.assert_allclose(logits, predict(model, inputs, RK4).logits.numpy(), rtol=1e-4, atol=1e-5)


def test_without_a_solver_it_is_that_of_the_training(
    store: Store, trained: TrainingJobSpec, run: Run, accept: Any, job: ReadJob
) -> None:
    job_id = accept(ExportJobSpec(model="spheres", format="torch"))

    assert run(job_id) is Outcome.SUCCEEDED

    assert artifact(store, job_id)[0] == "spheres-v1-euler-2.pt2"
    result = ExportResult.model_validate(job(job_id).result)
    assert (result.solver, result.opset) == (EULER.document(), None)


def test_a_repair_is_exported_with_accurate_steps(
    store: Store, trained: TrainingJobSpec, run: Run, accept: Any, job: ReadJob
) -> None:
    field = ModifiedFieldSpec(solver=EULER, kind="iterates", terms=2)
    with store.transaction() as tx:
        parent = tx.models.version("spheres")
        assert parent is not None
        tx.models.register_repair(
            parent, modified_field=field.model_dump(mode="json"), solver=RK4.document(), metadata={}
        )

    job_id = accept(ExportJobSpec(model="spheres", version=2, format="torch"))
    assert run(job_id) is Outcome.SUCCEEDED

    result = ExportResult.model_validate(job(job_id).result)
    assert result.solver == {"method": "rk4", "steps": 2}
    assert result.modified_field == field.model_dump(mode="json")


@pytest.mark.parametrize(
    ("solver", "code", "words"),
    [
        (SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3), "export_impossible", "name a solver with steps"),
        (SolverSpec(method="rk4", steps=99_999), "budget_exceeded", "fewer steps"),
    ],
)
def test_an_export_that_cannot_be_made_fails_with_the_reason(
    trained: TrainingJobSpec, run: Run, accept: Any, job: ReadJob, solver: SolverSpec, code: str, words: str
) -> None:
    job_id = accept(ExportJobSpec(model="spheres", solver=solver))

    assert run(job_id) is Outcome.FAILED

    failure = job(job_id).error
    assert failure is not None
    assert failure["code"] == code
    assert words in failure["message"]


def test_a_file_with_other_answers_is_no_artifact(
    store: Store, trained: TrainingJobSpec, run: Run, accept: Any, job: ReadJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise ExportFailed("the file's answers are not the model's")

    monkeypatch.setattr(worker.executors.export, "export_classifier", fail)
    job_id = accept(ExportJobSpec(model="spheres"))

    assert run(job_id) is Outcome.FAILED

    failure = job(job_id).error
    assert failure is not None
    assert failure == {"code": "export_failed", "message": "the file's answers are not the model's"}
    with store.reading() as tx:
        assert tx.artifacts.of_job(job_id) is None
