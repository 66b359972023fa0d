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


class MetricsFolderUnavailable(Exception):
    """The folder that the environment names cannot be used; the message says what to do."""


def named_folder() -> Path | None:
    """Return the folder that the environment names, made where it is missing; None where it names none.

    Raises:
        MetricsFolderUnavailable: it cannot be made.
    """
    if not (named := os.environ.get(FOLDER_VARIABLE)):
        return None
    folder = Path(named)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MetricsFolderUnavailable(
            f"{FOLDER_VARIABLE} names {named}, which cannot be made a folder ({error.strerror}): name one that this "
            f"process may write to, or leave the variable out"
        ) from error
    return folder


@contextmanager
def measured_together() -> Iterator[None]:
    """Let processes that are started within measure together: in the environment's folder, or one that is removed."""
    if named_folder() is not None:
        yield
        return
    folder = tempfile.mkdtemp(prefix="odeness-metrics-")
    os.environ[FOLDER_VARIABLE] = folder
    try:
        yield
    finally:
        del os.environ[FOLDER_VARIABLE]
        shutil.rmtree(folder, ignore_errors=True)
