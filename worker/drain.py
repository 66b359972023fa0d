"""Tells the pool processes of a worker that it wants to stop.

Celery's warm shutdown only waits for running tasks; a training job would hold it up for hours. The
parent therefore leaves a mark that every child looks at. It is a file, because spawned children
share neither memory nor pipes with the parent, and a signal would hit a child that is still
starting before its handler is there.
"""

import os
import secrets
import tempfile
from pathlib import Path

_ENVIRONMENT_NAME = "ODENESS_WORKER_DRAIN_FILE"


class DrainMark:
    """A file that exists once the worker drains; its path travels to the children by environment."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def for_this_worker(cls) -> "DrainMark":
        """Choose the mark's path in the parent, before the children start."""
        # Nothing is made yet, so that a killed worker leaves nothing behind.
        mark = cls(Path(tempfile.gettempdir()) / f"odeness-worker-drains-{secrets.token_hex(16)}")
        os.environ[_ENVIRONMENT_NAME] = str(mark.path)
        return mark

    @classmethod
    def of_parent(cls) -> "DrainMark":
        """Return the mark that the parent made; in a child.

        Raises:
            KeyError: this process was not started by ``python -m worker``.
        """
        return cls(Path(os.environ[_ENVIRONMENT_NAME]))

    def set(self) -> None:
        """Ask the children to drain. Safe in a signal handler, and more than once."""
        self.path.touch()

    def is_set(self) -> bool:
        """Return whether the worker drains."""
        return self.path.exists()

    def remove(self) -> None:
        """Remove the file, when all children are gone."""
        self.path.unlink(missing_ok=True)
