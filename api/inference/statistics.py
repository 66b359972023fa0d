"""What each version served has been asked and how long it took, for the statistics of the inference protocol."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from api.inference.waiting_calls import CheckedCall


@dataclass
class Spent:
    """How often something was done, and how long it took in all."""

    count: int = 0
    nanoseconds: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count it."""
        self.count += count
        self.nanoseconds += round(seconds * 1e9)


@dataclass
class VersionStatistics:
    """Of one version since this process started.

    Attributes:
        model: its model's name.
        version: its number.
        last_inference: milliseconds since 1970.
        inferences: rows predicted.
        executions: batches computed.
        success: calls answered, with the time from arrival to answer.
        fail: calls whose computation failed.
        queue: time that calls waited.
        compute: time in which calls were computed, with the rest of their batches.
        batches: by rows of a batch, the batches computed.
    """

    model: str
    version: int
    last_inference: int = 0
    inferences: int = 0
    executions: int = 0
    success: Spent = field(default_factory=Spent)
    fail: Spent = field(default_factory=Spent)
    queue: Spent = field(default_factory=Spent)
    compute: Spent = field(default_factory=Spent)
    batches: dict[int, Spent] = field(default_factory=dict)


class InferenceStatistics:
    """Counts; written by the model thread, read by any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions: dict[str, VersionStatistics] = {}

    def succeeded(self, batch: Sequence[CheckedCall], started: float, seconds: float) -> None:
        """Count a batch that was computed from ``started`` on, by the monotonic clock, in ``seconds``."""
        rows = sum(map(len, batch))
        with self._lock:
            found = self._of(batch)
            found.last_inference = round(time.time() * 1000)
            found.inferences += rows
            found.executions += 1
            found.batches.setdefault(rows, Spent()).add(seconds)
            waited = sum(started - call.ticket.arrived for call in batch)
            found.queue.add(waited, len(batch))
            found.compute.add(seconds * len(batch), len(batch))
            found.success.add(waited + seconds * len(batch), len(batch))

    def failed(self, batch: Sequence[CheckedCall]) -> None:
        """Count calls whose computation failed."""
        now = time.monotonic()
        with self._lock:
            self._of(batch).fail.add(sum(now - call.ticket.arrived for call in batch), len(batch))

    def of(self, version_id: str) -> VersionStatistics | None:
        """Return what is known of a version; None if it was not asked for yet."""
        with self._lock:
            return self._versions.get(version_id)

    def all(self) -> list[VersionStatistics]:
        """Return what is known of all versions."""
        with self._lock:
            return list(self._versions.values())

    def _of(self, batch: Sequence[CheckedCall]) -> VersionStatistics:
        version = batch[0].served.version
        found = self._versions.get(version.id)
        if found is None:
            found = self._versions[version.id] = VersionStatistics(version.model, version.version)
        return found
