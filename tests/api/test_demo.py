import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from api.charts.render import to_png, to_svg
from api.charts.test_steps import accuracy_against_steps
from api.client import Client, JobNotSucceeded, Predictions, ResultRow
from api.demo.digit_images import Digit, held_out_digits
from api.demo.findings import Answers, Finding, accuracy_table, prediction_table
from api.demo.plan import DEMO, QUICK, TEST_METHODS
from api.demo.report import write_report
from api.progress_display import follow
from ode_core.datasets.load import load_dataset
from ode_core.specs import DigitsSpec, SolverSpec
from tests.api.conftest import DIGITS_JOB, Served, claim

ROOT = Path(__file__).parents[2]
STEPS = (1, 2, 4)


def row(model: str, method: str, steps: int | None, accuracy: float | None, trained: int = 2) -> ResultRow:
    row: dict[str, Any] = {"model": model, "test_method": method, "test_steps": steps, "accuracy": accuracy}
    return row | {"train_method": "euler", "train_steps": trained}  # type: ignore[return-value]


def sweep(model: str, trained: int = 2) -> list[ResultRow]:
    return [row(model, method, steps, 0.25 * steps, trained) for method in TEST_METHODS for steps in STEPS]


def predictions(*labels: int | None) -> Predictions:
    answers = [{"label": label, "status": "success" if label is not None else "non_finite"} for label in labels]
    return {"predictions": answers, "nfe": 2.0}  # type: ignore[typeddict-item]


@pytest.fixture
def digits() -> list[Digit]:
    return held_out_digits(DigitsSpec(), 2)


@pytest.fixture
def findings(digits: list[Digit]) -> list[Finding]:
    audit = {
        "verdict": "discrete",
        "sentence": "This <model> is not an ODE.",
        "flip_rate": 0.9,
        "train_accuracy": 0.95,
        "samples": 360,
        "reference": {"reason": "it settles"},
    }
    own, other = SolverSpec(method="euler", steps=2), SolverSpec(method="dopri5", rtol=1e-5, atol=1e-5)
    right = digits[0].label
    plain = Finding(
        name="plain",
        version=1,
        solver=own,
        adapted=False,
        rows=sweep("plain"),
        audit=audit,
        answers=(
            Answers(own, True, predictions(right, (digits[1].label + 1) % 10)),
            Answers(other, False, predictions(right, None)),
        ),
    )
    adapted = replace(
        plain, name="adapted", adapted=True, solver=SolverSpec(method="euler", steps=23), rows=sweep("adapted", 23)
    )
    return [plain, adapted]


def printed(renderable: object) -> str:
    output = io.StringIO()
    Console(file=output, width=120).print(renderable)
    return output.getvalue()


class TestDigits:
    def test_come_from_the_test_split_that_no_model_was_trained_on(self) -> None:
        spec = DigitsSpec(split_seed=7, test_fraction=0.3)
        dataset = load_dataset(spec, None)

        digits = held_out_digits(spec, 5)

        assert len(digits) == 5
        for digit, image, label in zip(digits, dataset.test_inputs, dataset.test_labels, strict=False):
            assert np.array_equal(digit.pixels, image[0].numpy())
            assert digit.label == int(label)

    def test_are_drawn_two_pixels_a_character(self) -> None:
        pixels = np.zeros((8, 8), dtype=np.uint8)
        pixels[0, 0] = pixels[1, 1] = pixels[2, 2] = pixels[3, 2] = 16
        digit = Digit(pixels, 1)

        assert [line.rstrip() for line in digit.drawn().split("\n")] == ["▀▄", "  █", "", ""]
        assert digit.drawn(ascii_only=True).split("\n")[:3] == ["#.......", ".#......", "..#....."]


class TestChart:
    def test_is_a_png_and_an_svg_that_names_models_solvers_and_the_training_point(self) -> None:
        figure = accuracy_against_steps(
            [*sweep("plain"), *sweep("adapted", 23), row("adapted", "euler", 23, 0.9, 23)],
            {"plain": "a verdict"},
            "All",
        )

        png, svg = to_png(figure.document()), to_svg(figure.document())

        assert png.startswith(b"\x89PNG")
        shown = {text.text for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
        assert {"plain", "adapted", "a verdict", "All", "trained with euler-2", "trained with euler-23"} <= shown
        assert {"euler", "midpoint", "rk4", "steps of the test solver"} <= shown
        assert {"1", "2", "4", "8", "16", "0%", "100%"} <= shown
        assert "32" not in shown

    def test_leaves_out_what_has_no_place_in_it(self) -> None:
        adaptive = row("a", "dopri5", None, 0.9) | {"test_solver": {"method": "dopri5", "rtol": 1e-5}}
        figure = accuracy_against_steps([adaptive, row("a", "rk4", 4, None), row("a", "rk4", 2, 0.5)], x="steps")

        text = json.dumps(figure.document())
        assert '"rk4"' in text
        assert '"dopri5"' not in text
        assert '"steps": 4' not in text
        assert "left out: 1 test solver with tolerances" in figure.subtitle


class TestTables:
    def test_the_train_x_test_table_has_each_accuracy_where_it_belongs(self, findings: list[Finding]) -> None:
        lines = printed(accuracy_table(findings, TEST_METHODS, STEPS)).splitlines()

        rows = [line.split() for line in lines if "rk4" in line or "euler " in line]
        assert rows[0] == ["plain", "euler-2", "euler", "25.0", "50.0", "100.0"]
        assert rows[1] == ["rk4", "25.0", "50.0", "100.0"]
        assert rows[2] == ["adapted", "euler-23", "euler", "25.0", "50.0", "100.0"]

    def test_predictions_are_marked_where_they_are_wrong_or_failed(
        self, findings: list[Finding], digits: list[Digit]
    ) -> None:
        table = printed(prediction_table(findings[:1], digits, Console(file=io.StringIO())))

        own, other = (line for line in table.splitlines() if "euler-2" in line or "dopri5" in line)
        assert own.split()[-3:] == [str(digits[0].label), str((digits[1].label + 1) % 10), "✗"]
        assert other.split()[-2:] == [str(digits[0].label), "failed"]


class TestReport:
    def test_stands_alone_and_shows_everything(
        self, findings: list[Finding], digits: list[Digit], tmp_path: Path
    ) -> None:
        written = write_report(tmp_path / "new", QUICK, findings, digits, data=tmp_path / "data", seconds=12)

        page = written.report.read_text(encoding="utf-8")
        assert "This &lt;model&gt; is not an ODE." in page
        assert page.count("<svg") == 1 + len(digits)
        assert "odeness serve --data" in page
        assert not re.search(r'(src|href)="|<script|@import|url\((?!#)', page), "it needs something from elsewhere"
        assert written.png.read_bytes().startswith(b"\x89PNG")
        ElementTree.fromstring(written.svg.read_text(encoding="utf-8"))


class TestFollow:
    @pytest.fixture
    def client(self, served: Served) -> Iterator[Client]:
        with Client(served.url) as connected:
            yield connected

    def finish(self, served: Served, job_id: str, *, failed: bool = False) -> None:
        with served.store.reading() as tx:
            attempt = claim(served.store, tx.jobs.require(job_id))
        with served.store.transaction() as tx:
            if failed:
                tx.jobs.fail(job_id, attempt, {"code": "out_of_memory", "message": "too large"})
            else:
                tx.jobs.succeed(job_id, attempt, {"model": "tiny", "version": 1})

    @pytest.mark.parametrize("terminal", [False, True], ids=["in a file", "in a terminal"])
    def test_ends_when_all_jobs_and_those_that_build_on_them_have_succeeded(
        self, served: Served, client: Client, terminal: bool
    ) -> None:
        output = io.StringIO()
        console = Console(file=output, force_terminal=terminal, width=100)
        first, second = (client.submit_training(DIGITS_JOB)["id"] for _ in range(2))
        succeeded = []

        def then(label: str, job: Any) -> dict[str, str]:
            succeeded.append(label)
            if label == "first":
                self.finish(served, second)
                return {"second": second}
            return {}

        self.finish(served, first)
        follow(console, client, ["first", "second"], {"first": first}, then)

        assert succeeded == ["first", "second"]
        assert "first" in output.getvalue()
        assert ("\x1b" in output.getvalue()) == terminal

    def test_says_which_job_failed_and_why(self, served: Served, client: Client) -> None:
        job_id = client.submit_training(DIGITS_JOB)["id"]
        self.finish(served, job_id, failed=True)

        with pytest.raises(JobNotSucceeded, match="tiny failed: too large"):
            follow(Console(file=io.StringIO()), client, ["a"], {"a": job_id}, lambda label, job: {})


class TestPlan:
    def test_differs_between_its_models_only_in_name_and_adaptation(self) -> None:
        for plan in (DEMO, QUICK):
            plain, adapted = plan.models
            assert plain.adaptation is None
            assert adapted.adaptation is not None
            assert adapted.model_copy(update={"name": plain.name, "adaptation": None}) == plain

    def test_sweeps_the_own_solver_too_and_none_twice(self) -> None:
        grid = len(TEST_METHODS) * len(DEMO.test_steps)
        for own, count in (
            (SolverSpec(method="euler", steps=2), grid),
            (SolverSpec(method="euler", steps=23), grid + 1),
        ):
            solvers = DEMO.sweep("model", 1, own).solvers
            assert own in solvers
            assert len(solvers) == len(set(solvers)) == count


def test_the_demo_runs_from_the_start_of_its_server_to_the_report(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ODENESS_")}
    # A database of the user's own must not be touched.
    environment |= {"ODENESS_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/x", "ODENESS_TORCH_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-m", "api.command_line", "demo", "--quick", "--data", tmp_path / "data"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )

    assert (finished.returncode, finished.stderr) == (0, ""), finished.stdout
    assert "\x1b" not in finished.stdout
    assert "\r" not in finished.stdout
    for part in ("digits-euler2", "digits-adaptive", "midpoint", "rk4-64", "dopri5", "Under a converged solver"):
        assert part in finished.stdout
    for name in ("accuracy.png", "accuracy.svg", "report.html"):
        assert str(tmp_path / "data" / name) in finished.stdout
        assert (tmp_path / "data" / name).stat().st_size > 1000
    assert (tmp_path / "data/odeness.db").exists()


def test_the_demo_stopped_with_ctrl_c_stops_its_server(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "api.command_line", "demo", "--data", tmp_path / "data"],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell without job control lets its background jobs ignore SIGINT, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        killer = threading.Timer(120, process.kill)
        killer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if "queued" in line:
                    break
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
        finally:
            process.wait()
            killer.cancel()

    assert process.returncode not in (0, -signal.SIGKILL)
    assert "Traceback" not in rest
    assert not (tmp_path / "data/broker.sock").exists(), "its server still runs"
