"""Shows how far jobs and studies are, with a bar each; in a log file, with a line each few seconds."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from api.client import FINISHED, Client, Job, JobNotSucceeded, Progress

POLL_SECONDS = 0.25
LINE_SECONDS = 5.0
SAME_LINE_SECONDS = 30.0

OnSuccess = Callable[[str, Job], Mapping[str, str]]
"""Called with the label and the job that succeeded; returns the jobs (label -> id) to follow from now on."""


def follow(
    console: Console, client: Client, labels: Sequence[str], jobs: Mapping[str, str], on_success: OnSuccess
) -> None:
    """Show how far jobs are until all have succeeded.

    Args:
        console: where to show it.
        client: of their server.
        labels: of all jobs there will be, in the order of showing.
        jobs: those to begin with: label -> id.
        on_success: may add jobs that build on one.

    Raises:
        JobNotSucceeded: one failed or was cancelled.
    """
    with progress_display(console, labels) as display:
        followed = dict(jobs)
        while followed:
            for label, job_id in list(followed.items()):
                job = client.job(job_id)
                display.show(label, job["status"], job["progress"])
                if job["status"] == "succeeded":
                    del followed[label]
                    followed |= on_success(label, job)
                elif job["status"] in FINISHED:
                    raise JobNotSucceeded(job)
            if followed:
                time.sleep(POLL_SECONDS)


class ProgressDisplay(Protocol):
    """A display, to be entered before it is used."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """End."""

    def show(self, label: str, status: str, progress: Progress) -> None:
        """Show how far one of the things is."""


def progress_display(console: Console, labels: Sequence[str]) -> ProgressDisplay:
    """Return bars on a terminal, lines elsewhere, for things with these labels."""
    return _Bars(console, labels) if console.is_terminal else _Lines(console)


class _Bars:
    def __init__(self, console: Console, labels: Sequence[str]) -> None:
        self._progress = RichProgress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[message]}"),
            console=console,
        )
        self._tasks = {
            label: self._progress.add_task(label, total=1, count="", message="", start=False) for label in labels
        }

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, label: str, status: str, progress: Progress) -> None:
        task = self._tasks[label]
        step, total, message = progress["step"], progress["total"], progress["message"]
        if status == "queued":
            return
        self._progress.start_task(task)
        if status == "succeeded":
            self._progress.update(task, total=1, completed=1, count=f"{total}/{total}", message="done")
            self._progress.stop_task(task)
        elif total:
            self._progress.update(task, total=total, completed=step, count=f"{step}/{total}", message=message)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, tuple[str, str, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, label: str, status: str, progress: Progress) -> None:
        now = time.monotonic()
        how_far = f" {progress['step']}/{progress['total']} {progress['message']}" if status == "running" else ""
        line = f"  {label}: {status}{how_far}"
        last_status, last_line, shown_at = self._last.get(label, ("", "", 0.0))
        pause = LINE_SECONDS if line != last_line else SAME_LINE_SECONDS
        if status == last_status and now - shown_at < pause:
            return
        self._last[label] = (status, line, now)
        self._console.print(line.rstrip(), highlight=False, soft_wrap=True)
