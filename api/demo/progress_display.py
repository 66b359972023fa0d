"""Follows jobs with a bar each; in a log file, with a line each few seconds."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from api.client import Client, Job, JobNotSucceeded

POLL_SECONDS = 0.25
LINE_SECONDS = 5.0


def follow(console: Console, client: Client, jobs: Mapping[str, str]) -> None:
    """Show how far the jobs (label -> id) are until all have succeeded.

    Raises:
        JobNotSucceeded: one failed or was cancelled.
    """
    display = _Bars(console, list(jobs)) if console.is_terminal else _Lines(console)
    with display:
        open_jobs = dict(jobs)
        while open_jobs:
            for label, job_id in list(open_jobs.items()):
                job = client.job(job_id)
                display.show(label, job)
                if job["status"] == "succeeded":
                    del open_jobs[label]
                elif job["status"] in ("failed", "cancelled"):
                    raise JobNotSucceeded(job)
            if open_jobs:
                time.sleep(POLL_SECONDS)


class _Bars:
    def __init__(self, console: Console, labels: list[str]) -> None:
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[message]}"),
            console=console,
        )
        self._tasks = {
            label: self._progress.add_task(label, total=None, message="waiting", start=False) for label in labels
        }

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, label: str, job: Job) -> None:
        task, progress = self._tasks[label], job["progress"]
        if job["status"] == "queued":
            return
        self._progress.start_task(task)
        done = job["status"] == "succeeded"
        total = progress["total"] or None
        self._progress.update(
            task,
            total=total,
            completed=total if done and total else progress["step"],
            message="done" if done else progress["message"],
        )
        if done:
            self._progress.stop_task(task)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, label: str, job: Job) -> None:
        status, now = job["status"], time.monotonic()
        last_status, last_time = self._last.get(label, ("", 0.0))
        if status == last_status and (status != "running" or now - last_time < LINE_SECONDS):
            return
        self._last[label] = (status, now)
        progress = job["progress"]
        how_far = f" {progress['step']}/{progress['total']} {progress['message']}" if status == "running" else ""
        self._console.print(f"  {label}: {status}{how_far}", highlight=False, soft_wrap=True)
