"""A thread of the worker's parent process that repairs what crashes left behind.

It rings again for queued jobs whose message was lost and takes jobs back from dead workers. Any
number of workers may do so at once.
"""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Reconciler:
    """Calls ``reconcile`` every ``seconds`` until stopped; survives its failures."""

    def __init__(self, reconcile: Callable[[], object], seconds: float) -> None:
        self._reconcile = reconcile
        self._seconds = seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)
        self._failing = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Ask the thread to end and wait for it, but not longer than ``timeout`` seconds."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._reconcile()
            except Exception as error:
                # The database may be away for minutes: say so once, not every few seconds.
                log.log(
                    logging.DEBUG if self._failing else logging.WARNING,
                    "reconciliation failed, going on to try: %s",
                    error,
                    exc_info=log.isEnabledFor(logging.DEBUG),
                )
                self._failing = True
            else:
                if self._failing:
                    log.info("reconciliation works again")
                self._failing = False
            self._stopping.wait(self._seconds)
