"""The main job end to end, through the public API: the same case for every way to deploy it."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.client import Client, Job, ProblemError
from tests.conftest import wait_until

ITERATIONS = 40
LONG_ITERATIONS = 1500
SAMPLES = 60
# A busy machine starts an interpreter with torch slowly.
JOB_SECONDS = 120

QUICK_SETTINGS = {
    "ODENESS_TORCH_THREADS": "1",
    "ODENESS_WORKER_PROCESSES": "1",
    "ODENESS_DEVICE": "cpu",
    "ODENESS_LEASE_SECONDS": "4",
    "ODENESS_HEARTBEAT_SECONDS": "0.5",
    "ODENESS_RECONCILE_SECONDS": "0.5",
    "ODENESS_REQUEUE_AFTER_SECONDS": "2",
}


def environment(**more: str) -> dict[str, str]:
    """The environment of a process under test: no settings of the developer's."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("ODENESS_")}
    return own | QUICK_SETTINGS | more


def training_job(
    name: str, iterations: int = ITERATIONS, *, adapted: bool = True, checkpoint_interval: int = 10
) -> dict[str, Any]:
    """A training of seconds; of hours, with many iterations."""
    return {
        "name": name,
        "dataset": {"kind": "concentric_spheres", "dimension": 2, "train_samples": 200, "test_samples": SAMPLES},
        "model": {"kind": "classifier", "field": {"kind": "conv1d", "channels": 8}},
        "solver": {"method": "euler", "steps": 2},
        "training": {
            "iterations": iterations,
            "batch_size": 32,
            "optimizer": "adam",
            "learning_rate": 0.01,
            "seed": 0,
            "checkpoint_interval": checkpoint_interval,
        },
        "adaptation": {"kind": "step", "rule": "talk", "interval": 10, "threshold": 0.1, "max_steps": 8}
        if adapted
        else None,
        "gradient": "backprop",
    }


SWEEP_SOLVERS = [
    {"method": "euler", "steps": 2},
    {"method": "midpoint", "steps": 4},
    {"method": "rk4", "steps": 16},
    {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5},
]


def run_main_job(client: Client, name: str) -> None:
    """Train, sweep, audit and predict; every answer is checked against what was asked for."""
    seen: list[Job] = []
    job = client.submit_training(training_job(name))
    finished = client.wait(job["id"], seen.append, timeout=JOB_SECONDS, poll_seconds=0.1)

    assert finished["kind"] == "training"
    assert finished["attempt"] == 1
    assert finished["progress"]["step"] == finished["progress"]["total"] == ITERATIONS
    assert {look["status"] for look in seen} <= {"queued", "running", "succeeded"}
    _check_metrics(client, job["id"])
    _check_events(client, job["id"])
    version = _check_version(client, name, job["id"])
    _check_sweep(client, name, version)
    _check_audit(client, name, version)
    _check_predictions(client, name)


def _check_metrics(client: Client, job_id: str) -> None:
    metrics = client.metrics(job_id)
    for series in ("loss", "train_accuracy", "steps"):
        assert [step for step, _ in metrics[series]] == list(range(1, ITERATIONS + 1)), series
    assert all(value is not None and math.isfinite(value) for _, value in metrics["loss"])
    assert client.metrics(job_id, "loss", after_step=ITERATIONS - 5)["loss"] == metrics["loss"][-5:]


def _check_events(client: Client, job_id: str) -> None:
    events = client.events(job_id)
    kinds = [event["kind"] for event in events]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert (kinds[0], kinds[1], kinds[-1]) == ("queued", "started", "succeeded")
    assert [event["data"]["step"] for event in events if event["kind"] == "checkpoint"] == [10, 20, 30, 40]


def _check_version(client: Client, name: str, job_id: str) -> int:
    result = client.result(job_id)
    newest = client.model(name)["versions"][0]
    assert (newest["version"], newest["job_id"]) == (result["version"], job_id)
    assert newest["solver"] == client.version(name, result["version"])["solver"]
    assert newest["solver"]["method"] == "euler"
    assert client.checkpoint(name, result["version"])[8:9] == b"{"  # safetensors: a length, then JSON
    assert name in [model["name"] for model in client.models()]
    return int(result["version"])


def _check_sweep(client: Client, name: str, version: int) -> None:
    job = client.submit_evaluation({"kind": "sweep", "model": name, "version": None, "solvers": SWEEP_SOLVERS})
    client.wait(job["id"], timeout=JOB_SECONDS, poll_seconds=0.1)
    rows = list(client.results(model=name, job=job["id"], sort="nfe"))

    evaluations = {row["test_method"]: row["nfe"] for row in rows}
    adaptive = evaluations.pop("dopri5")
    assert evaluations == {"euler": 2, "midpoint": 2 * 4, "rk4": 4 * 16}
    assert adaptive >= 7
    assert [row["nfe"] for row in rows] == sorted(row["nfe"] for row in rows)
    for row in rows:
        assert (row["model"], row["version"], row["samples"], row["failures"]) == (name, version, SAMPLES, 0)
        assert row["dataset"]["kind"] == "concentric_spheres"
        assert row["accuracy"] is not None
        assert 0 <= row["accuracy"] <= 1
        assert row["flip_rate"] is not None
    assert [row["test_steps"] for row in client.results(job=job["id"], test_method="rk4")] == [16]


def _check_audit(client: Client, name: str, version: int) -> None:
    job = client.submit_evaluation(
        {"kind": "audit", "model": name, "version": version, "epsilon": 0.05, "mechanism": False}
    )
    client.wait(job["id"], timeout=JOB_SECONDS, poll_seconds=0.1)
    audit = client.result(job["id"])

    assert audit["verdict"] in ("ode", "discrete", "inconclusive", "unresolved")
    assert audit["sentence"].endswith(".")
    low, high = audit["flip_interval"]
    assert low <= audit["flip_rate"] <= high
    assert audit["samples"] == SAMPLES


def _check_predictions(client: Client, name: str) -> None:
    inputs = [[[0.1, 0.05]], [[0.3, 0.0]], [[0.0, -0.42]]]
    for solver in (None, {"method": "rk4", "steps": 16}, {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5}):
        answer = client.predict(name, inputs, solver)
        assert len(answer["predictions"]) == 3
        assert answer["failures"] == 0
        for prediction in answer["predictions"]:
            assert prediction["label"] in (0, 1)
            assert sum(prediction["probabilities"] or []) == pytest.approx(1, abs=1e-6)


def long_job(name: str) -> dict[str, Any]:
    """A training long enough to be interrupted on a fast machine."""
    return training_job(name, LONG_ITERATIONS, adapted=False, checkpoint_interval=100)


def check_cancel(client: Client, name: str) -> None:
    """Cancel a training of hours: it stops within seconds, and its metrics stay."""
    job_id = client.submit_training(training_job(name, iterations=1_000_000, adapted=False))["id"]
    wait_until(lambda: client.job(job_id)["progress"]["step"] > 0, "the training runs", JOB_SECONDS)

    client.cancel(job_id)
    wait_until(lambda: client.job(job_id)["status"] == "cancelled", "the training is cancelled", 20)

    assert client.metrics(job_id, "loss")["loss"]
    kinds = [event["kind"] for event in client.events(job_id)]
    assert "cancel_requested" in kinds
    assert kinds[-1] == "cancelled"
    with pytest.raises(ProblemError) as refused:
        client.result(job_id)
    assert refused.value.code == "job_cancelled"


def check_bad_requests(client: Client) -> None:
    """What cannot work is refused with the remedy, and never as an error of the server's."""
    wrong_steps = training_job("wrong") | {"solver": {"method": "euler", "steps": 0}}
    unknown_method = training_job("wrong") | {"solver": {"method": "magic", "steps": 2}}
    no_files = training_job("wrong") | {
        "dataset": {"kind": "mnist"},
        "model": {"kind": "classifier", "field": {"kind": "conv2d", "channels": 2}},
    }
    asked: list[tuple[Callable[[], object], int]] = [
        (lambda: client.submit_training(wrong_steps), 422),
        (lambda: client.submit_training(unknown_method), 422),
        (lambda: client.submit_training(no_files), 409),
        (lambda: client.submit_evaluation({"kind": "audit", "model": "nowhere"}), 404),
        (lambda: client.predict("nowhere", [[0.0]]), 404),
        (lambda: client.job("019a0000-0000-7000-8000-000000000000"), 404),
    ]
    for ask, status in asked:
        with pytest.raises(ProblemError) as refused:
            ask()
        assert refused.value.status == status, refused.value.detail
        assert refused.value.detail


def processes_of(data: Path) -> dict[int, str]:
    """The processes of an embedded server: id -> command line. Linux.

    They were told the data folder in their environment. The broker writes its title over that, but
    works in the folder.
    """
    told = f"ODENESS_DATA_DIR={data}".encode()
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if told in (folder / "environ").read_bytes().split(b"\0") or (folder / "cwd").readlink() == data:
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue  # it has ended, or is another user's
    return found
