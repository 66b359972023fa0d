"""What a pool process is made of. Imports torch: only the children import this module."""

from collections.abc import Callable

import torch
from celery import signals

from store.settings import Settings
from store.tracing import no_trace, tracing_of
from store.unit_of_work import Store
from worker.drain import DrainMark
from worker.executors.audit import run_audit
from worker.executors.export import run_export
from worker.executors.portrait import run_portrait
from worker.executors.prediction import run_prediction
from worker.executors.study_run import run_of_study
from worker.executors.sweep import run_sweep
from worker.executors.training import train
from worker.job_spans import no_span, spans_of_jobs
from worker.run_job import Executor, JobRunner
from worker.torch_runtime import configure_torch

EXECUTORS: dict[str, Executor] = {
    "training": train,
    "sweep": run_sweep,
    "audit": run_audit,
    "portrait": run_portrait,
    "export": run_export,
    "study_run": run_of_study,
    "predict": run_prediction,
}


def compose_runner(ring: Callable[[str], None]) -> JobRunner:
    """Return this process's runner, from the environment that the parent handed down."""
    settings = Settings.load()
    configure_torch(settings)
    tracing = tracing_of(settings, "odeness-worker")
    store = Store.connect(
        settings.database,
        keep_checkpoints=settings.keep_checkpoints,
        trace_context=no_trace if tracing is None else tracing.context,
    )
    if tracing is not None:
        tracing.start()
        signals.worker_process_shutdown.connect(lambda **_: tracing.close(), weak=False)
    return JobRunner(
        settings=settings,
        store=store,
        executors=EXECUTORS,
        ring=ring,
        draining=DrainMark.of_parent().is_set,
        # After some errors on a GPU every later call of this process fails, too.
        spoiled=torch.cuda.is_initialized,
        span=no_span if tracing is None else spans_of_jobs(tracing, store),
    )


def warm_up() -> None:
    """Do before the first job what torch puts off until an optimiser is made: a second of imports."""
    torch.optim.SGD([torch.zeros(1)], lr=1.0)
