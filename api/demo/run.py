"""``odeness demo``: the whole idea on real data, as a client of the HTTP API."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from api.client import Client, Job, JobNotSucceeded, ProblemError, ServerUnreachable
from api.demo.digit_images import Digit, held_out_digits
from api.demo.findings import Answers, Finding, accuracy_table, prediction_table
from api.demo.own_server import ServerDidNotStart, own_server
from api.demo.plan import DEMO, QUICK, TEST_METHODS, Plan
from api.demo.report import write_report
from api.progress_display import follow
from ode_core.specs import DigitsSpec, SolverSpec
from store.settings import Settings

INTRODUCTION = (
    "Two neural ODEs learn to read handwritten digits. Both are trained with Euler's method: one with 2 steps "
    "throughout, the other with steps that get smaller whenever a more accurate solver disagrees. "
    "If a model is an ODE, any good solver must give the same answers."
)


class DemoFailed(Exception):
    """The demo did not come to its end; the message says why."""


def run_demo(*, data: Path, output: Path, url: str | None, quick: bool) -> None:
    """Train, test, judge and use two models; print what comes out and leave picture and report in ``output``.

    Raises:
        DemoFailed: anything of it did not work.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=100)  # tables in a log file need no wrapping at 80
    try:
        with _server(console, data, url) as (address, api_key), Client(address, api_key) as client:
            _run(console, client, QUICK if quick else DEMO, output, data if url is None else None)
    except (JobNotSucceeded, ProblemError, ServerUnreachable, ServerDidNotStart) as error:
        raise DemoFailed(str(error)) from error
    except OSError as error:
        raise DemoFailed(f"cannot write the report: {error}") from error


@contextmanager
def _server(console: Console, data: Path, url: str | None) -> Iterator[tuple[str, str | None]]:
    if url is not None:
        key = Settings.load().api_key
        secret = None if key is None else key.get_secret_value()
        with Client(url, secret, patience=0) as client:
            client.ready()
        yield url, secret
        return
    console.print(f"Starting odeness in {data} ...", highlight=False)
    with own_server(data) as address:
        console.print(f"It serves at {address} while the demo runs.\n", highlight=False)
        yield address, None


def _run(console: Console, client: Client, plan: Plan, output: Path, data: Path | None) -> None:
    started = time.monotonic()
    console.print(INTRODUCTION, highlight=False)

    console.print()
    findings = _train_test_and_judge(console, client, plan)
    dataset = plan.models[0].dataset
    assert isinstance(dataset, DigitsSpec)
    digits = held_out_digits(dataset, plan.digits)
    findings = [_with_predictions(client, plan, finding, digits) for finding in findings]

    console.print()
    console.print(accuracy_table(findings, TEST_METHODS, plan.test_steps))
    for finding in findings:
        console.print(f"[bold]{finding.name}[/bold]: {finding.audit['sentence']}\n", highlight=False)
    console.print(prediction_table(findings, digits, console))

    seconds = time.monotonic() - started
    written = write_report(output, plan, findings, digits, data=data, seconds=seconds)
    console.print(f"Done in {seconds:.0f} seconds. Look at", highlight=False)
    for path in (written.png, written.svg, written.report):
        console.print(f"  {path.absolute()}", highlight=False, soft_wrap=True)
    if data is not None:
        console.print(f"Go on with these models: odeness serve --data {data}", highlight=False, soft_wrap=True)


def _train_test_and_judge(console: Console, client: Client, plan: Plan) -> list[Finding]:
    """Train all models at once; sweep and audit each as soon as it is trained."""
    names = [spec.name for spec in plan.models]
    training = {f"train {spec.name}": client.submit_training(spec)["id"] for spec in plan.models}
    jobs = dict(training)
    trained: dict[str, dict[str, Any]] = {}

    def test_what_is_trained(label: str, job: Job) -> dict[str, str]:
        if label not in training:
            return {}
        result = client.result(job["id"])
        name, version = result["model"], result["version"]
        trained[name] = result
        new = {
            f"sweep {name}": client.submit_evaluation(plan.sweep(name, version, _solver_of(result)))["id"],
            f"audit {name}": client.submit_evaluation(plan.audit(name, version))["id"],
        }
        jobs.update(new)
        return new

    labels = [f"{what} {name}" for name in names for what in ("train", "sweep", "audit")]
    follow(console, client, labels, training, test_what_is_trained)
    return [
        Finding(
            name=spec.name,
            version=trained[spec.name]["version"],
            solver=_solver_of(trained[spec.name]),
            adapted=spec.adaptation is not None,
            rows=list(client.results(job=jobs[f"sweep {spec.name}"])),
            audit=client.result(jobs[f"audit {spec.name}"]),
        )
        for spec in plan.models
    ]


def _solver_of(result: dict[str, Any]) -> SolverSpec:
    return SolverSpec.model_validate(result["solver"])


def _with_predictions(client: Client, plan: Plan, finding: Finding, digits: Sequence[Digit]) -> Finding:
    inputs = [digit.as_input for digit in digits]
    answers = []
    for given in (None, *plan.predict_with):
        predictions = client.predict(finding.name, inputs, given, version=finding.version)
        answers.append(Answers(SolverSpec.model_validate(predictions["solver"]), given is None, predictions))
    return replace(finding, answers=tuple(answers))
