"""What the processes of one server have measured together, those that have died included.

Each process writes its counters into files of its own in one folder (prometheus-client's multiprocess mode, which
``PROMETHEUS_MULTIPROC_DIR`` switches on), and whichever is asked adds them up. The counts of a process that is gone
must stay, or the sums would go down; its files must not, or each restart would leave some more.

Whoever merges them may die over it, and so writes down what is merged before anything of it is removed: what the list
names is finished by whoever looks next, and without a list nothing has happened.
"""

import fcntl
import json
import os
import re
import uuid
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


# A process that is killed before it has made its file as long as this has counted nothing.
_SMALLEST_BYTES = 8


class ProcessMetrics:
    """The measurements of all processes that write into one folder.

    Args:
        folder: where their files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._merged = folder / "merged.json"  # names of files whose counts are in those that are to be kept

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
        if self._merged.exists():
            with self._locked(fcntl.LOCK_EX):
                self._finish()
        with self._locked(fcntl.LOCK_SH):
            MultiProcessCollector(registry, str(self._folder))  # type: ignore[no-untyped-call]
            return generate_latest(registry)

    def take_over_from_the_dead(self) -> None:
        """Add what dead processes have counted to one file, and remove theirs. Their gauges are gone with them."""
        with self._locked(fcntl.LOCK_EX):
            self._finish()
            self._set_dead_aside()
            merged = {kind: list(self._folder.glob(f"{kind}_dead-*.db")) for kind in _SUMMED}
            for kind, files in merged.items():
                self._new(kind).unlink(missing_ok=True)  # of one that died before its list
                if files:
                    self._merge(kind, files)
            if any(merged.values()):
                listed = self._folder / "merged.new"
                listed.write_text(json.dumps([path.name for files in merged.values() for path in files]))
                listed.replace(self._merged)
            self._finish()

    def _set_dead_aside(self) -> None:
        """Name what the dead have summed so that no process, whose number may be theirs, ever writes to it again."""
        for path in list(self._folder.iterdir()):
            found = _OF_PROCESS.fullmatch(path.name)
            if found is None or _is_alive(int(found[2])):
                continue
            if found[1] in _SUMMED and path.stat().st_size >= _SMALLEST_BYTES:
                path.rename(self._folder / f"{found[1]}_dead-{uuid.uuid4().hex}.db")
            else:
                path.unlink()

    def _finish(self) -> None:
        """Keep what is merged, and remove what it was merged from; does nothing twice."""
        if not self._merged.exists():
            return
        names = json.loads(self._merged.read_text())
        for kind in _SUMMED:
            if (new := self._new(kind)).exists():
                new.replace(self._kept(kind))
        for name in names:
            (self._folder / name).unlink(missing_ok=True)
        self._merged.unlink()

    def _kept(self, kind: str) -> Path:
        return self._folder / f"{kind}_dead.db"

    def _new(self, kind: str) -> Path:
        return self._folder / f"{kind}.new"

    def _merge(self, kind: str, files: Sequence[Path]) -> None:
        kept = self._kept(kind)
        sums: dict[str, float] = defaultdict(float)
        for path in [kept, *files] if kept.exists() else files:
            for key, value, *_ in MmapedDict.read_all_values_from_file(path):  # type: ignore[no-untyped-call]
                sums[key] += value
        merged = MmapedDict(str(self._new(kind)))  # type: ignore[no-untyped-call]
        for key, value in sums.items():
            merged.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
        merged.close()  # type: ignore[no-untyped-call]

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
