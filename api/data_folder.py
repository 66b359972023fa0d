"""The embedded mode's data folder: made, checked, and held by one server at a time."""

import fcntl
import os
from pathlib import Path
from types import TracebackType


class DataFolderUnavailable(Exception):
    """The folder cannot be used; the message says why and what to do."""


class DataFolder:
    """A context manager that holds the folder's lock.

    The kernel drops the lock with the process, however that ends; the file stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self._descriptor = -1

    def __enter__(self) -> "DataFolder":
        """Make the folder if need be and take its lock.

        Raises:
            DataFolderUnavailable: it cannot be written to, or another server uses it.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            self._descriptor = os.open(self.path / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            reason = (error.strerror or "unknown error").lower()
            raise DataFolderUnavailable(
                f"cannot use {self.path} as data folder: {reason}; choose another with --data"
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._descriptor, 20, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise DataFolderUnavailable(
                f"another odeness server{f' (process {holder})' if holder else ''} uses {self.path}: "
                "stop it, or choose another folder with --data"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back."""
        os.close(self._descriptor)
