"""Jobs: submitted, waited for, and what they found."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

from api.client.answers import Event, Job, MetricSeries, SamplePrediction
from api.client.errors import JobNotSucceeded
from api.client.files import FileTransport
from api.client.transport import Spec, part
from api.client.waiting import wait_until_finished


class JobRequests(FileTransport):
    """Trainings and evaluations."""

    def submit_training(self, spec: Spec, *, idempotency_key: str | None = None) -> Job:
        """Submit a training job; when it has succeeded, the model it names has one version more.

        Args:
            spec: a ``TrainingJobSpec`` or the same as a mapping.
            idempotency_key: makes a repetition by the caller safe; those by the client always are.
        """
        return cast(Job, self._submit("/v1/training-jobs", spec, idempotency_key))

    def submit_evaluation(self, spec: Spec, *, idempotency_key: str | None = None) -> Job:
        """Submit a sweep, an audit, a portrait, the prediction of a data set or an export.

        Args:
            spec: ``SweepJobSpec`` and so on, or the same as a mapping with ``kind``.
            idempotency_key: makes a repetition by the caller safe; those by the client always are.
        """
        return cast(Job, self._submit("/v1/evaluation-jobs", spec, idempotency_key))

    def job(self, job_id: str) -> Job:
        """Return a job."""
        return cast(Job, self._get(f"/v1/jobs/{part(job_id)}"))

    def jobs(self, **filters: Any) -> Iterator[Job]:
        """Yield jobs, newest first; filters are ``kind``, ``status``, ``model``, ``name`` and ``study``."""
        return cast(Iterator[Job], self._pages("/v1/jobs", filters))

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop and return it as it is now; it stops within seconds."""
        return cast(Job, self._request("POST", f"/v1/jobs/{part(job_id)}/cancel", repeatable=True).json())

    def wait(
        self,
        job_id: str,
        on_progress: Callable[[Job], None] | None = None,
        *,
        timeout: float | None = None,
        poll_seconds: float = 0.5,
    ) -> Job:
        """Wait for a job to succeed and return it.

        Args:
            job_id: the job.
            on_progress: called with the job each time it was looked at.
            timeout: seconds after which ``TimeoutError`` is raised; the job goes on.
            poll_seconds: pause between two looks.

        Raises:
            JobNotSucceeded: the job failed or was cancelled.
        """
        job = wait_until_finished(
            lambda: self.job(job_id),
            on_progress,
            lambda job: (
                f"job {job_id} is still {job['status']} after {timeout:g} seconds, "
                f"at step {job['progress']['step']} of {job['progress']['total']}"
            ),
            timeout=timeout,
            poll_seconds=poll_seconds,
        )
        if job["status"] != "succeeded":
            raise JobNotSucceeded(job)
        return job

    def result(self, job_id: str) -> dict[str, Any]:
        """Return what a job found."""
        return cast(dict[str, Any], self._get(f"/v1/jobs/{part(job_id)}/result"))

    def predictions(self, job_id: str, *, after: int | None = None) -> Iterator[SamplePrediction]:
        """Yield the predictions that a job of the kind ``predict`` has stored so far, in the data set's order.

        Args:
            job_id: the job.
            after: only those of samples numbered above.
        """
        return cast(Iterator[SamplePrediction], self._pages(f"/v1/jobs/{part(job_id)}/predictions", {"after": after}))

    def predictions_file(
        self, job_id: str, to: Path | str | None = None, *, format: Literal["csv", "npz"] = "npz"
    ) -> Path:
        """Write all predictions of an ended job into a file, and return its path.

        Args:
            job_id: the job.
            to: the file; by default the current folder and a name made of the model's.
            format: ``npz`` for ``numpy.load``, or ``csv``.
        """
        return self._download_in_pieces(f"/v1/jobs/{part(job_id)}/predictions", to, {"format": format})

    def metrics(
        self, job_id: str, *names: str, after_step: int = 0, max_points: int = 10_000
    ) -> dict[str, list[tuple[int, float | None]]]:
        """Return a job's metrics by name, each as points ``(step, value)``; all metrics if none is named."""
        query = {"name": list(names), "after_step": after_step, "max_points": max_points}
        data: list[MetricSeries] = self._get(f"/v1/jobs/{part(job_id)}/metrics", query)["data"]
        return {series["name"]: [(step, value) for step, value in series["points"]] for series in data}

    def events(self, job_id: str, after: int = 0) -> list[Event]:
        """Return what happened to a job, from event ``after`` on."""
        events: list[Event] = []
        while True:
            page = self._get(f"/v1/jobs/{part(job_id)}/events", {"after": after})
            events += page["data"]
            if not page["has_more"]:
                return events
            after = events[-1]["sequence"]

    def report(self, job: str | Job, to: Path | str | None = None) -> Path:
        """Write an audit's report, a page that needs nothing else, and return the file's path.

        Args:
            job: the audit, or its id.
            to: the file; by default the current folder and a name made of the model's.
        """
        job_id = job if isinstance(job, str) else job["id"]
        return self._download(f"/v1/jobs/{part(job_id)}/report", to, {"download": True})

    def artifact(self, job: str | Job, to: Path | str | None = None) -> Path:
        """Write the file that an export made and return its path.

        Args:
            job: the export, or its id.
            to: the file; by default the current folder and the name that the server gives it.
        """
        job_id = job if isinstance(job, str) else job["id"]
        return self._download(f"/v1/jobs/{part(job_id)}/artifact", to)
