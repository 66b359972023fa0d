"""What a pool process is made of. Imports torch: only the children import this module."""

from collections.abc import Callable

import torch

from store.settings import Settings
from store.unit_of_work import Store
from worker.drain import DrainMark
from worker.executors.audit import run_audit
from worker.executors.export import run_export
from worker.executors.portrait import run_portrait
from worker.executors.prediction import run_prediction
from worker.executors.study_run import run_of_study
from worker.executors.sweep import run_sweep
from worker.executors.training import train
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
    return JobRunner(
        settings=settings,
        store=Store.connect(settings.database, keep_checkpoints=settings.keep_checkpoints),
        executors=EXECUTORS,
        ring=ring,
        draining=DrainMark.of_parent().is_set,
        # After some errors on a GPU every later call of this process fails, too.
        spoiled=torch.cuda.is_initialized,
    )


def warm_up() -> None:
    """Do before the first job what torch puts off until an optimiser is made: a second of imports."""
    torch.optim.SGD([torch.zeros(1)], lr=1.0)
