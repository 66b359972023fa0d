"""The predictions of a data set survive the death of their workers: every sample's is there exactly once."""

import os
import signal
from dataclasses import astuple

import numpy as np
import torch

from ode_core.datasets.labelled_arrays import LabelledArrays
from ode_core.models.classifier import build_model
from ode_core.models.prediction_columns import unpack
from ode_core.models.predictions import predict
from ode_core.models.weights import weights_to_bytes
from ode_core.specs import PredictJobSpec, PresetSpec, SolverSpec, TrainingJobSpec, UploadedFacts, UploadedSpec
from store.predictions import COLUMNS
from tests.reliability.service import Service, wait_until, worker_pid

# So many classes that a chunk, a megabyte, is full after a few thousand samples, however fast the machine is.
SAMPLES, CLASSES = 40_000, 100
SOLVER = SolverSpec(method="rk4", steps=64)


def points() -> LabelledArrays:
    random = np.random.default_rng(0)
    inputs = random.uniform(-1, 1, (CLASSES + SAMPLES, 2)).astype(np.float32)
    labels = np.arange(CLASSES + SAMPLES) % CLASSES
    return LabelledArrays(inputs[:CLASSES], labels[:CLASSES], inputs[CLASSES:], labels[CLASSES:])


def store_model(service: Service, arrays: LabelledArrays) -> TrainingJobSpec:
    """Store a data set, and a model of it."""
    facts = UploadedFacts(
        input_shape=(2,),
        classes=CLASSES,
        input_scale=1.0,
        train_samples=CLASSES,
        test_samples=SAMPLES,
        sha256=arrays.fingerprint,
    )
    data, dataset = service.store.save_blob(arrays.to_bytes()), UploadedSpec(name="points", version=1, facts=facts)
    spec = TrainingJobSpec(name="points", dataset=dataset, model=PresetSpec(name="sphere2"), solver=SOLVER)
    weights = service.store.save_blob(weights_to_bytes(build_model(spec)))
    with service.store.transaction() as tx:
        tx.datasets.register_version("points", facts, source={}, blob_id=data)
        tx.models.register_upload(
            "points", training_spec=spec.document(), solver=SOLVER.document(), blob_id=weights, metadata={}
        )
    return spec


def submit(service: Service) -> str:
    """Accept the prediction of the test split as the API does."""
    document = PredictJobSpec(model="points", version=1).model_dump(mode="json")
    with service.store.transaction() as tx:
        job = tx.jobs.submit("predict", document, model="points", model_version=1, total=SAMPLES)
    service.ring(job.id)
    return job.id


def stored_samples(service: Service, job_id: str) -> int:
    with service.store.reading() as tx:
        return tx.predictions.stored_samples(job_id)


def test_a_prediction_whose_workers_are_killed_has_every_sample_once(service: Service) -> None:
    arrays = points()
    spec = store_model(service, arrays)
    service.start_worker()
    service.start_worker()
    job_id = submit(service)

    wait_until("a chunk is stored", lambda: stored_samples(service, job_id) > 0)
    os.kill(worker_pid(service.job(job_id)), signal.SIGKILL)  # Celery replaces the child
    wait_until("the job is taken up again", lambda: service.job(job_id).attempt == 2)
    first = stored_samples(service, job_id)
    wait_until("another chunk is stored", lambda: stored_samples(service, job_id) > first)
    service.worker_of(service.job(job_id)).kill_group()  # as a power cut does
    job = service.wait_for_status(job_id, "succeeded")

    assert (job.attempt, job.failures) == (3, 2)
    with service.store.reading() as tx:
        resumed = [event.data["step"] for event in tx.events.list(job_id) if event.kind == "resumed"]
    assert len(resumed) == 2
    assert 0 < resumed[0] < resumed[1] < SAMPLES, "the test killed too late to prove anything"
    chunks = list(service.store.prediction_chunks(job_id, COLUMNS, SAMPLES))
    assert [chunk.first_sample for chunk in chunks] == [0, *(chunk.stop for chunk in chunks[:-1])]
    assert chunks[-1].stop == SAMPLES
    found = [unpack(chunk.columns, chunk.samples) for chunk in chunks]
    labels, probabilities, truth = (
        np.concatenate([part[name] for part in found]) for name in ("label", "probabilities", "truth")
    )
    *_, test_inputs, test_labels = map(torch.from_numpy, astuple(arrays))
    np.testing.assert_array_equal(truth, test_labels.numpy())
    # Independently: the samples on both sides of each seam.
    seams = [0, *(chunk.stop for chunk in chunks)]
    near = np.unique(np.concatenate([np.arange(max(0, seam - 50), min(SAMPLES, seam + 50)) for seam in seams]))
    expected = predict(build_model(spec), test_inputs[near], SOLVER)
    np.testing.assert_allclose(probabilities[near], expected.logits.softmax(dim=1).numpy(), atol=1e-5)
    assert job.result is not None
    assert job.result["samples"] == SAMPLES
    assert job.result["accuracy"] == np.mean(labels == truth)
