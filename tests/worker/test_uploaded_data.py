"""Jobs on uploaded data, as the worker runs them."""

import threading
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import delete

from ode_core.datasets.labelled_arrays import LabelledArrays, labelled_arrays
from ode_core.datasets.load import Dataset
from ode_core.specs import (
    ClassifierSpec,
    MlpField,
    SolverSpec,
    SweepJobSpec,
    TrainingJobSpec,
    TrainingSpec,
    UploadedFacts,
    UploadedSpec,
)
from ode_core.training.run import TrainingRun
from store.jobs import Job
from store.settings import Settings
from store.tables import blob_chunk
from store.unit_of_work import Store
from worker.executors.sweep import run_sweep
from worker.executors.training import train
from worker.run_job import JobRunner, Outcome

EULER = SolverSpec(method="euler", steps=2)


@pytest.fixture
def run(store: Store, settings: Settings) -> Callable[[str], Outcome]:
    return JobRunner(
        settings=settings,
        store=store,
        executors={"training": train, "sweep": run_sweep},
        ring=lambda job_id: None,
        draining=threading.Event().is_set,
    ).run


@pytest.fixture
def arrays() -> LabelledArrays:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    inputs = rng.normal(size=(60, 2, 2)) + labels[:, None, None]
    return labelled_arrays((inputs, labels), None, test_fraction=0.25, split_seed=0)


@pytest.fixture
def uploaded(store: Store, arrays: LabelledArrays) -> UploadedSpec:
    blob_id = store.save_blob(arrays.to_bytes())
    facts = UploadedFacts(
        input_shape=(2, 2), classes=3, input_scale=0.5, train_samples=45, test_samples=15, sha256=arrays.fingerprint
    )
    with store.transaction() as tx:
        return tx.datasets.register_version("mine", facts, source={}, blob_id=blob_id).spec


def spec(dataset: UploadedSpec) -> TrainingJobSpec:
    return TrainingJobSpec(
        name="mine",
        dataset=dataset,
        model=ClassifierSpec(field=MlpField(hidden=(8,))),
        solver=EULER,
        training=TrainingSpec(iterations=20, batch_size=16, learning_rate=0.01),
    )


def test_a_model_is_trained_on_uploaded_data_and_swept_on_its_test_part(
    store: Store,
    run: Callable[[str], Outcome],
    submit: Callable[[TrainingJobSpec], str],
    job: Callable[[str], Job],
    uploaded: UploadedSpec,
    arrays: LabelledArrays,
) -> None:
    alone = TrainingRun(
        spec(uploaded), Dataset(*(torch.from_numpy(part) for part in astuple(arrays))), torch.device("cpu")
    )
    while not alone.finished:
        alone.advance()
    expected = alone.trained_model()

    assert run(submit(spec(uploaded))) is Outcome.SUCCEEDED
    with store.reading() as tx:
        version = tx.models.version("mine")
    assert version is not None
    assert store.read_blob(version.blob_id) == expected.weights
    assert version.metadata["dataset_fingerprint"] == arrays.fingerprint

    with store.transaction() as tx:
        sweep = SweepJobSpec(model="mine", solvers=[EULER])
        sweep_id = tx.jobs.submit("sweep", sweep.model_dump(mode="json"), model="mine", model_version=1, total=1).id
    assert run(sweep_id) is Outcome.SUCCEEDED
    result = job(sweep_id).result
    assert result is not None
    assert result["samples"] == 15
    assert result["results"][0]["accuracy"] == expected.metadata["test_accuracy"]


@pytest.mark.parametrize("damage", ["facts", "bytes", "gone"])
def test_data_that_is_not_what_the_job_was_accepted_with_fails_the_job(
    store: Store,
    run: Callable[[str], Outcome],
    submit: Callable[[TrainingJobSpec], str],
    job: Callable[[str], Job],
    uploaded: UploadedSpec,
    damage: str,
    tmp_path: Path,
) -> None:
    assert uploaded.facts is not None
    if damage == "facts":
        uploaded = uploaded.model_copy(update={"facts": uploaded.facts.model_copy(update={"sha256": "0" * 64})})
    elif damage == "gone":
        uploaded = uploaded.model_copy(update={"version": 7})
    else:
        with store.engine.begin() as connection:
            connection.execute(delete(blob_chunk))
    job_id = submit(spec(uploaded))
    assert run(job_id) is Outcome.FAILED
    error = job(job_id).error
    assert error is not None
    assert error["code"] == "dataset_unavailable"
    assert "mine" in error["message"]
    assert "upload it" in error["message"]
