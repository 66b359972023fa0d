"""How many infer requests each model version has answered, and how long their parts took."""

import threading
import time
from dataclasses import dataclass, field

from api.inference.prediction_call import Execution


@dataclass
class Durations:
    """How often something was done, and the nanoseconds it took together."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Count one more."""
        self.count += 1
        self.ns += ns


@dataclass
class VersionStatistics:
    """What one version has done in this process.

    Attributes:
        samples: predicted.
        last_inference: milliseconds since 1970; 0: never.
        success: whole requests that were answered.
        fail: requests that were understood, but refused or not computed.
        compute_input: reading and checking.
        queue: waiting for the model.
        compute_infer: predicting, with the rest of the batch.
        compute_output: writing the answer.
        batches: computing a batch, once however many requests are in it, by its rows.
    """

    samples: int = 0
    last_inference: int = 0
    success: Durations = field(default_factory=Durations)
    fail: Durations = field(default_factory=Durations)
    compute_input: Durations = field(default_factory=Durations)
    queue: Durations = field(default_factory=Durations)
    compute_infer: Durations = field(default_factory=Durations)
    compute_output: Durations = field(default_factory=Durations)
    batches: dict[int, Durations] = field(default_factory=dict)

    @property
    def executions(self) -> int:
        """How many batches were computed."""
        return sum(batch.count for batch in self.batches.values())


class InferenceStatistics:
    """The statistics of one process, by model and version."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions: dict[tuple[str, int], VersionStatistics] = {}

    def of(self, model: str, version: int) -> VersionStatistics:
        """Return the statistics of a version; of one never asked, zeros."""
        with self._lock:
            return self._versions.get((model, version)) or VersionStatistics()

    def known(self) -> list[tuple[str, int]]:
        """Return the versions that were asked for, by name."""
        with self._lock:
            return sorted(self._versions)

    def failed(self, model: str, version: int, ns: int) -> None:
        """Count a request that had no answer."""
        with self._lock:
            self._of(model, version).fail.add(ns)

    def succeeded(
        self,
        model: str,
        version: int,
        samples: int,
        execution: Execution,
        *,
        read_ns: int,
        wait_ns: int,
        predict_ns: int,
        write_ns: int,
    ) -> None:
        """Count a request that was answered, with the nanoseconds of its parts, and its batch with the first of it."""
        with self._lock:
            statistics = self._of(model, version)
            statistics.samples += samples
            statistics.last_inference = time.time_ns() // 1_000_000
            statistics.success.add(read_ns + wait_ns + predict_ns + write_ns)
            statistics.compute_input.add(read_ns)
            statistics.queue.add(wait_ns)
            statistics.compute_infer.add(predict_ns)
            statistics.compute_output.add(write_ns)
            if not execution.counted:
                execution.counted = True
                statistics.batches.setdefault(execution.rows, Durations()).add(round(execution.seconds * 1e9))

    def _of(self, model: str, version: int) -> VersionStatistics:
        return self._versions.setdefault((model, version), VersionStatistics())
