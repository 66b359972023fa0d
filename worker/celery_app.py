"""The Celery application of the worker: one task, and what its processes do when they start.

Loaded by the parent process too, which stays small: torch is imported by the children only.
"""

import logging
import os
import threading
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery import Celery, Task
from celery.app.log import Logging
from celery.exceptions import CPendingDeprecationWarning
from celery.loaders.app import AppLoader

from store.settings import RUN_JOB_TASK, Settings
from worker.broker import use_forgiving_transport
from worker.doorbell import best_effort, make_ring
from worker.drain import DrainMark

if TYPE_CHECKING:
    from worker.run_job import JobRunner

log = logging.getLogger(__name__)

# A spawned child imports the worker and starts to import torch before it reports; Celery kills
# children that have not reported within this time, by default 4 s.
CHILD_START_SECONDS = 120


class WorkerLogging(Logging):  # type: ignore[misc]  # Celery has no types
    """Celery's logging without a line for each message; ours has one for each job."""

    def setup_logging_subsystem(self, loglevel: int | None = None, *args: Any, **kwargs: Any) -> Any:
        """Set up the loggers, in the parent and again in each child."""
        receivers = super().setup_logging_subsystem(loglevel, *args, **kwargs)
        if not logging.getLogger().isEnabledFor(logging.DEBUG):
            for name in ("celery", "kombu", "alembic"):
                logging.getLogger(name).setLevel(logging.WARNING)
            # Forty lines of Celery's own stack for a killed child or a message that cannot be
            # acknowledged. Of both there is a line from elsewhere, as there is of errors in a task.
            logging.getLogger("celery.worker.request").setLevel(logging.CRITICAL + 1)
            os.environ["_MP_FORK_LOGLEVEL_"] = str(logging.WARNING)  # billiard's, in spawned children
        return receivers

    def setup(self, *args: Any, **kwargs: Any) -> Any:
        """Set up logging and warnings."""
        receivers = super().setup(*args, **kwargs)
        # With each lost connection Celery would advertise a setting that we have chosen.
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
        return receivers


class WorkerLoader(AppLoader):  # type: ignore[misc]
    """Hooks into the life of the worker's processes."""

    def on_worker_process_init(self) -> None:
        """In a child: import torch while it waits for its first job."""
        self.app.warm_up()

    def on_worker_shutdown(self) -> None:
        """In the parent, whatever makes it stop: let the children drain before they are waited for."""
        DrainMark.of_parent().set()


class RunJob(Task):  # type: ignore[misc]
    """The one task."""

    name = RUN_JOB_TASK
    ignore_result = True
    typing = False  # a message with odd arguments is dropped here, not in an error of Celery's

    def run(self, *args: object, **kwargs: object) -> str:
        """Run the job that the message names."""
        return str(self.app.runner.run(args[0] if args else None))


class WorkerApp(Celery):  # type: ignore[misc]
    """Celery with our task. Travels to the children by pickle, as its configuration."""

    log_cls = "worker.celery_app:WorkerLogging"

    def on_init(self) -> None:
        """Register the task; Celery calls this in the parent and in each child."""
        self._warming: threading.Thread | None = None
        self.register_task(RunJob())

    def warm_up(self) -> None:
        """Begin to import what jobs need, in the background."""
        self._warming = threading.Thread(target=_import_pool_process, name="warm-up", daemon=True)
        self._warming.start()

    @cached_property
    def runner(self) -> "JobRunner":
        """What runs jobs in this child; made with the first one."""
        if self._warming is not None:
            self._warming.join()  # two threads importing torch at once get in each other's way
        from worker.pool_process import compose_runner  # noqa: PLC0415  # torch, in children only

        return compose_runner(best_effort(make_ring(self, RUN_JOB_TASK)))


def create_celery(settings: Settings) -> WorkerApp:
    """Return the application for ``settings``; nothing is connected yet."""
    use_forgiving_transport()
    # Given at once, not by a later ``conf.update``: the task takes its options over when registered.
    options = settings.celery_options() | {
        "worker_concurrency": settings.worker_processes,
        "worker_proc_alive_timeout": CHILD_START_SECONDS,
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "worker_redirect_stdouts": False,
        "worker_log_format": "%(asctime)s %(levelname)s %(name)s: %(message)s",
        "worker_log_color": False,
    }
    return WorkerApp("odeness", loader="worker.celery_app:WorkerLoader", changes=options)


def _import_pool_process() -> None:
    try:
        from worker.pool_process import warm_up  # noqa: PLC0415  # torch, in children only

        warm_up()
    except Exception:
        # The first job imports it again and reports.
        log.exception("the worker cannot load what its jobs need")
