"""What the parent process is made of, and what travels to its children."""

import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from store.settings import RUN_JOB_TASK, Settings
from worker.celery_app import WorkerApp, create_celery
from worker.drain import DrainMark
from worker.reconciler import Reconciler


def test_the_parent_imports_neither_torch_nor_the_web() -> None:
    program = (
        "import json, sys; import worker.__main__; from store.settings import Settings; "
        "from worker.celery_app import create_celery; app = create_celery(Settings()); app.finalize(); "
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert not {"torch", "fastapi", "uvicorn", "api"} & set(json.loads(output))


def test_a_database_without_its_schema_is_refused_in_a_sentence(tmp_path: Path) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "worker"],
        cwd=Path(__file__).parents[2],
        env={"ODENESS_DATA_DIR": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert refused.returncode != 0
    assert "odeness migrate" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_task_has_the_options_that_keep_jobs_safe(settings: Settings) -> None:
    for app in (create_celery(settings), pickle.loads(pickle.dumps(create_celery(settings)))):
        assert isinstance(app, WorkerApp)
        task = app.tasks[RUN_JOB_TASK]
        assert task.acks_late is True
        assert task.reject_on_worker_lost is False
        assert app.conf.worker_pool_start_method == "spawn"
        assert app.conf.worker_prefetch_multiplier == 1
        assert app.conf.accept_content == ["json"]
        assert app.conf.worker_enable_remote_control is False
        assert app.conf.broker_url == settings.broker


def test_children_see_the_drain_mark_of_their_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODENESS_WORKER_DRAIN_FILE", "")
    parent = DrainMark.for_this_worker()
    child = DrainMark.of_parent()

    assert not child.is_set()
    parent.set()
    parent.set()
    assert child.is_set()

    parent.remove()
    assert not parent.path.exists()


def test_the_reconciler_goes_on_after_a_failure() -> None:
    calls: list[int] = []
    enough = threading.Event()

    def reconcile() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("the database is away")
        enough.set()

    reconciler = Reconciler(reconcile, seconds=0.01)
    reconciler.start()
    try:
        assert enough.wait(10)
    finally:
        reconciler.stop()
