"""Where the processes of one server leave their measurements for each other.

Set before a process loads prometheus-client, which looks for it once.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@contextmanager
def measured_together() -> Iterator[None]:
    """Let processes that are started within measure together: in the environment's folder, or one that is removed."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield
        return
    folder = tempfile.mkdtemp(prefix="odeness-metrics-")
    os.environ[FOLDER_VARIABLE] = folder
    try:
        yield
    finally:
        del os.environ[FOLDER_VARIABLE]
        shutil.rmtree(folder, ignore_errors=True)
