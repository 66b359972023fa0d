"""Runs the reconciler beside the API, so that lost messages and lost workers are noticed."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

_STOP_SECONDS = 5.0


class ReconcilerThread:
    """Calls ``reconcile`` every ``seconds`` seconds until stopped; the first time at once.

    Any number may run, here and in the workers: reconciling is idempotent.
    """

    def __init__(self, reconcile: Callable[[], object], seconds: float) -> None:
        self._reconcile = reconcile
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and wait for a pass that is under way."""
        self._stopped.set()
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._reconcile()
            except Exception:  # the database may be away; the next pass does the work
                log.exception("the reconciler's pass failed")
            self._stopped.wait(self._seconds)
