"""What the processes of one server have measured together, those that have died included.

Each process writes its counters into files of its own in one folder (prometheus-client's multiprocess mode, which
``PROMETHEUS_MULTIPROC_DIR`` switches on), and whichever is asked adds them up. The counts of a process that is gone
must stay, or the sums would go down; its files must not, or each restart would leave some more.
"""

import fcntl
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from api.measuring_together import named_folder

_OF_PROCESS = re.compile(r"(counter|histogram|summary|gauge_[a-z]+)_([0-9]+)\.db")
_SUMMED = ("counter", "histogram", "summary")


class ProcessMetrics:
    """The measurements of all processes that write into one folder.

    Args:
        folder: where their files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of_environment(cls) -> "ProcessMetrics | None":
        """Return those of the folder that the environment names; None where this process measures for itself.

        Raises:
            MetricsFolderUnavailable: the folder is missing and cannot be made.
        """
        folder = named_folder()
        return None if folder is None else cls(folder)

    def exposition(self, others: Sequence[Collector]) -> bytes:
        """Return everything in Prometheus' text format.

        Args:
            others: what is the same for all processes, and not to be added up.
        """
        registry = CollectorRegistry()
        for other in others:
            registry.register(other)
        with self._locked(fcntl.LOCK_SH):
            MultiProcessCollector(registry, str(self._folder))  # type: ignore[no-untyped-call]
            return generate_latest(registry)

    def take_over_from_the_dead(self) -> None:
        """Add what dead processes have counted to one file, and remove theirs. Their gauges are gone with them."""
        with self._locked(fcntl.LOCK_EX):
            dead = [
                (found[1], path)
                for path in self._folder.iterdir()
                if (found := _OF_PROCESS.fullmatch(path.name)) and not _is_alive(int(found[2]))
            ]
            for kind in _SUMMED:
                if files := [path for of, path in dead if of == kind]:
                    self._merge(kind, files)
            for _, path in dead:
                path.unlink(missing_ok=True)

    def _merge(self, kind: str, files: Sequence[Path]) -> None:
        kept = self._folder / f"{kind}_dead.db"
        sums: dict[str, float] = defaultdict(float)
        for path in [kept, *files] if kept.exists() else files:
            for key, value, *_ in MmapedDict.read_all_values_from_file(path):  # type: ignore[no-untyped-call]
                sums[key] += value
        new = self._folder / f"{kind}.new"
        new.unlink(missing_ok=True)
        merged = MmapedDict(str(new))  # type: ignore[no-untyped-call]
        for key, value in sums.items():
            merged.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
        merged.close()  # type: ignore[no-untyped-call]
        new.replace(kept)

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Keep files from being read while they are merged."""
        with (self._folder / "lock").open("a") as file:
            fcntl.flock(file, how)
            yield


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True
