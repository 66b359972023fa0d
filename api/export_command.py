"""What ``odeness export`` does: submits an export to a running server, waits for it, and saves its file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.client import Client, JobNotSucceeded, ProblemError, ServerUnreachable
from store.settings import Settings


class ExportNotMade(Exception):
    """There is no file; the message says why."""


@dataclass(frozen=True)
class ExportRequest:
    """What is asked for on the command line.

    Attributes:
        model: its name.
        version: a number or an alias; None or ``latest`` is the latest.
        method: with ``steps`` the solver; both None: what the version was trained with.
        steps: of equal length.
        format: ``onnx`` or ``torch``.
        output: the file, or None for the name that the server gives it, in the current folder.
    """

    model: str
    version: str | None
    method: str | None
    steps: int | None
    format: str
    output: Path | None


def save_export(request: ExportRequest, url: str, say: Callable[[str], None]) -> None:
    """Have a version exported, save the file, and say where it is and how near its answers are to the server's.

    Raises:
        ExportNotMade: the server cannot be reached, refuses, or fails; or half of a solver is named.
    """
    if (request.method is None) != (request.steps is None):
        raise ExportNotMade("a solver is a method and a number of steps: give both --method and --steps, or neither")
    solver = None if request.method is None else {"method": request.method, "steps": request.steps}
    spec = {
        "kind": "export",
        "model": request.model,
        "version": request.version,
        "solver": solver,
        "format": request.format,
    }
    key = Settings.load().api_key
    try:
        with Client(url, None if key is None else key.get_secret_value()) as client:
            job = client.wait(client.submit_evaluation(spec)["id"])
            path = client.artifact(job, request.output)
            result = client.result(job["id"])
    except (ProblemError, ServerUnreachable, JobNotSucceeded) as error:
        raise ExportNotMade(str(error)) from error
    except OSError as error:
        raise ExportNotMade(f"the file cannot be written: {error}") from error
    _describe(result, path, say)


def _describe(result: dict[str, Any], path: Path, say: Callable[[str], None]) -> None:
    check, taken = result["check"], result["input"]
    say(f"{path}: {result['model']} version {result['version']} with {result['solver']['method']}-{result['steps']}")
    say(f"takes {taken['name']} {taken['shape']} ({taken['type']})")
    say(
        f"run by {check['runtime']}: probabilities differ from the server's by at most {check['probabilities']:.1e}, "
        f"logits by {check['logits']:.1e}"
    )
