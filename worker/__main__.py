"""``python -m worker``: start a worker that runs jobs until SIGTERM or Ctrl-C."""

import logging
import os
import sys
import warnings
from typing import Any

from celery import signals
from celery.platforms import SecurityWarning

from store.errors import SchemaNotAtHead
from store.reconciliation import reconcile
from store.schema_version import require_head
from store.settings import RUN_JOB_TASK, Settings, SettingsInvalid
from store.tracing import TelemetryUnavailable, tracing_of
from store.unit_of_work import Store
from worker.celery_app import create_celery
from worker.doorbell import make_ring
from worker.drain import DrainMark
from worker.reconciler import Reconciler

log = logging.getLogger("worker")


def main() -> int:
    """Run the worker; return the exit status."""
    # Celery warns about running as root because of pickle; this worker takes JSON only.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    try:
        settings = Settings.load()
        tracing_of(settings, "odeness-worker")  # each process makes its own; here it only has to be possible
        store = Store.connect(settings.database, keep_checkpoints=settings.keep_checkpoints)
        require_head(store.engine)
    except (SettingsInvalid, SchemaNotAtHead, TelemetryUnavailable) as error:
        sys.stderr.write(f"the worker cannot start: {error}\n")
        return os.EX_CONFIG
    app = create_celery(settings)
    ring = make_ring(app, RUN_JOB_TASK)
    reconciler = Reconciler(lambda: reconcile(store, settings, ring), settings.reconcile_seconds)
    drain = DrainMark.for_this_worker()

    stopped_on_request = False

    def start_draining(how: str, **_: Any) -> None:
        nonlocal stopped_on_request
        stopped_on_request = how == "Warm"
        drain.set()

    def say_ready(**_: Any) -> None:
        log.info("worker ready, %d processes", settings.worker_processes)

    signals.worker_shutting_down.connect(start_draining, weak=False)
    signals.worker_ready.connect(say_ready, weak=False)
    worker = app.Worker(
        quiet=True,
        loglevel=settings.log_level.upper(),
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    reconciler.start()
    try:
        worker.start()
    finally:
        reconciler.stop()
        drain.remove()
        store.close()
    # Celery reports a failure after Ctrl-C.
    return 0 if stopped_on_request else int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main())
