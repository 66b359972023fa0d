"""Predictions of whole data sets, as the worker makes and stores them."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import worker.executors.prediction as executor
from ode_core.datasets.labelled_arrays import LabelledArrays
from ode_core.datasets.load import load_dataset
from ode_core.models.classifier import Classifier, build_model
from ode_core.models.modified_classifier import with_modified_field
from ode_core.models.prediction_columns import unpack
from ode_core.models.weights import weights_to_bytes
from ode_core.specs import (
    Budget,
    ClassifierSpec,
    ConcentricSpheresSpec,
    MlpField,
    ModifiedFieldSpec,
    PredictJobSpec,
    SolverSpec,
    TrainingJobSpec,
    UploadedFacts,
    UploadedSpec,
    XorSpec,
)
from store.jobs import Job
from store.predictions import COLUMNS
from store.settings import Settings
from store.unit_of_work import Store
from worker.executors.prediction import run_prediction
from worker.run_job import JobRunner, Outcome

TEST_SAMPLES, BATCH = 200, 64
EULER = SolverSpec(method="euler", steps=2)
RK4 = SolverSpec(method="rk4", steps=8)
DOPRI5 = SolverSpec(method="dopri5", rtol=1e-5, atol=1e-5)
SPEC = TrainingJobSpec(
    name="spheres",
    dataset=ConcentricSpheresSpec(train_samples=90, test_samples=TEST_SAMPLES),
    model=ClassifierSpec(field=MlpField(hidden=(8,))),
    solver=EULER,
)

Columns = dict[str, NDArray[Any]]
ReadJob = Callable[[str], Job]
Run = Callable[[str], Outcome]
Accept = Callable[..., str]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "batch_size_for", lambda model: BATCH)


@pytest.fixture
def draining() -> threading.Event:
    return threading.Event()


@pytest.fixture
def run(store: Store, settings: Settings, draining: threading.Event) -> Run:
    def run_job(job_id: str) -> Outcome:
        return JobRunner(
            settings=settings,
            store=store,
            executors={"predict": run_prediction},
            ring=lambda job_id: None,
            draining=draining.is_set,
        ).run(job_id)

    return run_job


@pytest.fixture
def model(store: Store) -> Classifier:
    """A stored model ``spheres``, version 1, with weights that bend its states."""
    made = build_model(SPEC)
    with torch.no_grad():
        for weights in made.parameters():
            weights.mul_(3.0)
    blob_id = store.save_blob(weights_to_bytes(made))
    with store.transaction() as tx:
        tx.models.register_upload(
            "spheres", training_spec=SPEC.document(), solver=EULER.document(), blob_id=blob_id, metadata={}
        )
    return made


@pytest.fixture
def accept(store: Store) -> Accept:
    def accept_job(*, total: int = TEST_SAMPLES, **options: Any) -> str:
        spec = PredictJobSpec(model="spheres", **{"version": 1, **options})
        with store.transaction() as tx:
            return tx.jobs.submit(
                "predict", spec.model_dump(mode="json"), model="spheres", model_version=spec.version, total=total
            ).id

    return accept_job


def stored(store: Store, job_id: str) -> Columns:
    chunks = [unpack(chunk.columns, chunk.samples) for chunk in store.prediction_chunks(job_id, COLUMNS, 10**9)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def result_of(job: Job) -> dict[str, Any]:
    assert job.result is not None, job.error
    return job.result


def assert_are_of(model: Classifier, solver: SolverSpec, columns: Columns, inputs: torch.Tensor) -> None:
    """Hold stored predictions against what the model itself gives, up to round-off."""
    with torch.no_grad():
        outputs = [model.run(batch, solver) for batch in torch.split(inputs, BATCH)]
    probabilities = torch.cat([torch.softmax(output.logits, dim=1) for output in outputs]).numpy()
    np.testing.assert_allclose(columns["probabilities"], probabilities, atol=5e-6)
    clear = np.abs(probabilities[:, 0] - 0.5) > 1e-5
    np.testing.assert_array_equal(columns["label"][clear], probabilities.argmax(axis=1)[clear])
    for name, counted in (("nfe", "evaluations"), ("accepted", "accepted"), ("rejected", "rejected")):
        expected = torch.cat([getattr(output.solution, counted) for output in outputs])
        if solver.adaptive:  # round-off may decide about a step
            assert columns[name].mean() == pytest.approx(expected.double().mean().item(), rel=0.05, abs=0.5)
        else:
            np.testing.assert_array_equal(columns[name], expected.numpy())
    assert not columns["status"].any()


@pytest.mark.parametrize("solver", [None, RK4, DOPRI5], ids=["its own", "rk4", "dopri5"])
def test_every_sample_is_predicted_as_the_model_does(
    store: Store, model: Classifier, run: Run, accept: Accept, job: ReadJob, solver: SolverSpec | None
) -> None:
    job_id = accept(solver=solver, logits=True)

    assert run(job_id) is Outcome.SUCCEEDED

    data = load_dataset(SPEC.dataset, None)
    columns = stored(store, job_id)
    assert_are_of(model, solver or EULER, columns, data.test_inputs)
    np.testing.assert_array_equal(columns["truth"], data.test_labels.numpy())
    with torch.no_grad():
        logits = [model.run(batch, solver or EULER).logits for batch in torch.split(data.test_inputs, BATCH)]
    np.testing.assert_allclose(columns["logits"], torch.cat(logits).numpy(), rtol=1e-5, atol=1e-5)
    result = result_of(job(job_id))
    assert result["accuracy"] == np.mean(columns["label"] == data.test_labels.numpy())
    assert (result["samples"], result["failures"], result["failure_reasons"]) == (TEST_SAMPLES, 0, {})
    assert result["nfe"] == columns["nfe"].mean()
    assert result["solver"] == (solver or EULER).document()
    assert result["seconds"] > 0
    assert (job(job_id).progress_step, job(job_id).progress_total) == (TEST_SAMPLES, TEST_SAMPLES)


def test_a_limit_takes_the_first_samples_of_the_split_logits_are_left_out_and_the_solvers_reason_is_kept(
    store: Store, model: Classifier, run: Run, accept: Accept, job: ReadJob
) -> None:
    asked = {"agreement": 0.9, "evidence": "estimate", "by": "time", "otherwise": "refuse", "reason": "as asked"}
    job_id = accept(split="train", samples=70, total=70, solver=EULER, chosen_by=asked)

    assert run(job_id) is Outcome.SUCCEEDED

    columns = stored(store, job_id)
    assert len(columns["label"]) == 70
    assert "logits" not in columns
    assert result_of(job(job_id))["solver_reason"] == "as asked"
    assert_are_of(model, EULER, columns, load_dataset(SPEC.dataset, None).train_inputs[:70])


def test_another_data_set_is_read_in_its_own_scale(
    store: Store, model: Classifier, run: Run, accept: Accept, job: ReadJob
) -> None:
    inputs = np.random.default_rng(0).integers(0, 255, (8, 2)).astype(np.uint8)
    uploaded = upload(store, inputs, input_scale=1 / 255)
    job_id = accept(dataset=uploaded, total=8)

    assert run(job_id) is Outcome.SUCCEEDED, job(job_id).error

    assert_are_of(model, EULER, stored(store, job_id), torch.from_numpy(inputs.astype(np.float32) / 255))
    assert result_of(job(job_id))["dataset"] == uploaded.model_dump(mode="json")


def upload(store: Store, test_inputs: NDArray[Any], input_scale: float = 1.0) -> UploadedSpec:
    labels = np.arange(len(test_inputs), dtype=np.int64) % 2
    arrays = LabelledArrays(test_inputs, labels, test_inputs, labels)
    facts = UploadedFacts(
        input_shape=test_inputs.shape[1:],
        classes=2,
        input_scale=input_scale,
        train_samples=len(labels),
        test_samples=len(labels),
        sha256=arrays.fingerprint,
    )
    blob_id = store.save_blob(arrays.to_bytes())
    with store.transaction() as tx:
        version = tx.datasets.register_version("own", facts, source={}, blob_id=blob_id)
    return UploadedSpec(name="own", version=version.version, facts=facts)


def test_samples_whose_solve_fails_have_a_status_and_no_numbers_and_the_others_are_right(
    store: Store, model: Classifier, run: Run, accept: Accept, job: ReadJob
) -> None:
    inputs = np.full((130, 2), 0.25, dtype=np.float32)
    inputs[[3, 100]] = 3e38  # times a weight above 1.2 this is more than float32 holds
    job_id = accept(dataset=upload(store, inputs), logits=True, total=130)

    assert run(job_id) is Outcome.SUCCEEDED, job(job_id).error

    columns = stored(store, job_id)
    failed = np.flatnonzero(columns["status"])
    assert failed.tolist() == [3, 100]
    assert columns["status"][failed].tolist() == [3, 3]
    assert columns["label"][failed].tolist() == [-1, -1]
    assert np.isnan(columns["probabilities"][failed]).all()
    assert np.isnan(columns["logits"][failed]).all()
    well = np.flatnonzero(columns["status"] == 0)
    assert_are_of(model, EULER, {name: part[well] for name, part in columns.items()}, torch.from_numpy(inputs[well]))
    result = result_of(job(job_id))
    assert (result["failures"], result["failure_reasons"]) == (2, {"non_finite": 2})
    assert result["accuracy"] == np.mean(columns["label"] == np.arange(130) % 2)


def test_a_repair_is_predicted_with_its_modified_field(
    store: Store, model: Classifier, run: Run, accept: Accept, job: ReadJob
) -> None:
    field = ModifiedFieldSpec(solver=EULER, kind="iterates", terms=2)
    fine = SolverSpec(method="rk4", steps=64)  # with fewer, round-off grows to a tenth of a probability
    with store.transaction() as tx:
        parent = tx.models.version("spheres", 1)
        assert parent is not None
        tx.models.register_repair(
            parent,
            modified_field=field.model_dump(mode="json", exclude_none=True),
            solver=fine.document(),
            metadata={},
        )
    job_id = accept(version=2)

    assert run(job_id) is Outcome.SUCCEEDED, job(job_id).error

    inputs = load_dataset(SPEC.dataset, None).test_inputs
    assert_are_of(with_modified_field(model, field), fine, stored(store, job_id), inputs)


def test_a_cancelled_job_keeps_the_batches_it_has(
    store: Store, model: Classifier, run: Run, accept: Accept, job: ReadJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = accept()

    def cancel() -> None:
        with store.transaction() as tx:
            tx.jobs.request_cancel(job_id)

    in_batch(monkeypatch, 3, cancel)
    assert run(job_id) is Outcome.CANCELLED

    assert len(stored(store, job_id)["label"]) == 2 * BATCH
    assert job(job_id).result is None


def test_a_released_job_goes_on_behind_its_last_batch_and_stores_the_same_bits(
    store: Store,
    model: Classifier,
    run: Run,
    accept: Accept,
    job: ReadJob,
    draining: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undisturbed, job_id = accept(solver=DOPRI5), accept(solver=DOPRI5)
    assert run(undisturbed) is Outcome.SUCCEEDED
    with monkeypatch.context() as patch:
        in_batch(patch, 2, draining.set)
        assert run(job_id) is Outcome.RELEASED
    assert len(stored(store, job_id)["label"]) == BATCH
    draining.clear()
    batches = count_batches(monkeypatch)

    assert run(job_id) is Outcome.SUCCEEDED

    assert batches["predicted"] == 3  # of 64, 64 and 8 samples
    expected, found = stored(store, undisturbed), stored(store, job_id)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    with store.reading() as tx:
        (resumed,) = [event.data for event in tx.events.list(job_id) if event.kind == "resumed"]
    assert resumed == {"step": BATCH}
    assert result_of(job(job_id))["samples"] == TEST_SAMPLES


def in_batch(monkeypatch: pytest.MonkeyPatch, number: int, event: Callable[[], None]) -> None:
    """Let ``event`` happen as a batch begins, which then goes on until the lease has noticed."""
    batches = Counter[str]()
    original = Classifier.run

    def run(self: Classifier, inputs: torch.Tensor, *args: Any, **options: Any) -> Any:
        batches["begun"] += 1
        if batches["begun"] == number:
            event()
            while True:
                original(self, inputs, *args, **options)
                time.sleep(0.01)
        return original(self, inputs, *args, **options)

    monkeypatch.setattr(Classifier, "run", run)


def count_batches(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    batches = Counter[str]()
    original = Classifier.run

    def run(self: Classifier, *args: Any, **options: Any) -> Any:
        batches["predicted"] += 1
        return original(self, *args, **options)

    monkeypatch.setattr(Classifier, "run", run)
    return batches


def test_a_chunk_is_written_when_it_is_full_and_when_time_has_passed(
    store: Store, model: Classifier, run: Run, accept: Accept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chunks(job_id: str) -> list[int]:
        assert run(job_id) is Outcome.SUCCEEDED
        return [chunk.samples for chunk in store.prediction_chunks(job_id, ["label"], TEST_SAMPLES)]

    assert chunks(accept()) == [TEST_SAMPLES]
    with monkeypatch.context() as patch:
        patch.setattr(executor, "CHUNK_SECONDS", 0.0)
        assert chunks(accept()) == [64, 64, 64, 8]
    with monkeypatch.context() as patch:  # of samples that are solved by themselves there are fewer at once
        patch.setattr(executor, "CHUNK_SECONDS", 0.0)
        patch.setattr(executor, "ONE_BY_ONE", 40)
        one_by_one = SolverSpec(method="dopri5", rtol=1e-2, atol=1e-2, backend="torchdiffeq")
        assert chunks(accept(solver=one_by_one)) == [40, 40, 40, 40, 40]
    # 29 bytes a sample with two classes, and a batch is never larger than a chunk.
    monkeypatch.setattr(executor, "CHUNK_BYTES", 29 * 50)
    assert chunks(accept()) == [50, 50, 50, 50]


@pytest.mark.parametrize(
    ("options", "budget", "code", "words"),
    [
        ({"solver": SolverSpec(method="rk4", steps=100_000)}, Budget(), "budget_exceeded", "use fewer steps"),
        ({}, Budget(prediction_operations=10), "budget_exceeded", "use fewer samples, fewer steps"),
        ({"logits": True}, Budget(prediction_bytes=1000), "budget_exceeded", "leave the logits out"),
        ({"dataset": ConcentricSpheresSpec(dimension=3)}, Budget(), "prediction_impossible", r"[3]"),
    ],
    ids=["solve", "work", "storage", "shape"],
)
def test_what_was_not_accepted_is_refused_where_it_runs_too(
    model: Classifier,
    run: Run,
    accept: Accept,
    job: ReadJob,
    settings: Settings,
    options: dict[str, Any],
    budget: Budget,
    code: str,
    words: str,
) -> None:
    settings.__dict__["budget"] = budget
    job_id = accept(**options)

    assert run(job_id) is Outcome.FAILED

    failure = job(job_id).error
    assert failure is not None
    assert failure["code"] == code
    assert words in failure["message"]


def test_a_data_set_of_the_same_shape_that_was_not_trained_on(
    store: Store, model: Classifier, run: Run, accept: Accept
) -> None:
    job_id = accept(dataset=XorSpec(), total=4)
    assert run(job_id) is Outcome.SUCCEEDED
    columns = stored(store, job_id)
    assert columns["truth"].tolist() == [0, 1, 1, 0]
    assert_are_of(model, EULER, columns, load_dataset(XorSpec(), None).test_inputs)
