"""What the demo found out about each model, and the same as tables for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from api.client import Predictions, ResultRow
from api.demo.digit_images import Digit
from ode_core.specs import SolverSpec


@dataclass(frozen=True)
class Answers:
    """A model's predictions of the shown digits with one solver."""

    solver: SolverSpec
    own: bool
    predictions: Predictions

    @property
    def label(self) -> str:
        """The solver's short name."""
        if self.solver.adaptive:
            return f"{self.solver.method} {self.solver.rtol:g}"
        return self.solver.label


@dataclass(frozen=True)
class Finding:
    """A model and what came out.

    Attributes:
        name: the model.
        version: the version that this run of the demo trained.
        solver: what it was trained with at the end.
        adapted: whether the step was adapted during the training.
        rows: the sweep's result rows.
        audit: the audit's result.
        answers: predictions of the shown digits.
    """

    name: str
    version: int
    solver: SolverSpec
    adapted: bool
    rows: list[ResultRow]
    audit: dict[str, Any]
    answers: tuple[Answers, ...] = ()

    @property
    def summary(self) -> str:
        """The verdict in a few words."""
        verdicts = {
            "ode": "an ODE",
            "discrete": "not an ODE",
            "inconclusive": "undecided",
            "unresolved": "no converged reference",
        }
        words = verdicts[self.audit["verdict"]]
        return f"{words}: a converged solver changes {self.audit['flip_rate']:.1%} of predictions"

    def accuracy(self, method: str, steps: int) -> float | None:
        """Return the accuracy under a solver of the sweep."""
        for row in self.rows:
            if row["test_method"] == method and row["test_steps"] == steps:
                return row["accuracy"]
        return None

    def is_own(self, method: str, steps: int) -> bool:
        """Return whether this is the solver the model was trained with."""
        return self.solver == SolverSpec(method=method, steps=steps)


def percent(value: float | None) -> str:
    """Return an accuracy for a table; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"


def accuracy_table(findings: Sequence[Finding], methods: Sequence[str], steps: Sequence[int]) -> Table:
    """Return the train x test table: a row for each model and test method, a column for each number of steps."""
    table = Table(box=box.SIMPLE_HEAD, title="Accuracy in % on held-out digits, by steps of the test solver")
    table.add_column("model", no_wrap=True)
    table.add_column("trained", no_wrap=True)
    table.add_column("tested", no_wrap=True)
    for count in steps:
        table.add_column(str(count), justify="right", no_wrap=True)
    for finding in findings:
        for number, method in enumerate(methods):
            cells = [
                Text(
                    percent(finding.accuracy(method, count)),
                    style="bold reverse" if finding.is_own(method, count) else "",
                )
                for count in steps
            ]
            first = number == 0
            table.add_row(finding.name if first else "", finding.solver.label if first else "", method, *cells)
        table.add_section()
    return table


def prediction_table(findings: Sequence[Finding], digits: Sequence[Digit], console: Console) -> Table:
    """Return the shown digits with the labels each model gives them under each solver; wrong ones are marked."""
    ascii_only = console.options.ascii_only
    table = Table(box=box.SIMPLE_HEAD, title="Held-out digits, predicted with three solvers each")
    table.add_column("model", no_wrap=True)
    table.add_column("solver", no_wrap=True)
    for digit in digits:
        table.add_column(Text(digit.drawn(ascii_only=ascii_only)), justify="center", no_wrap=True)
    for finding in findings:
        for number, answers in enumerate(finding.answers):
            cells = [
                _cell(prediction["label"], digit.label, ascii_only)
                for prediction, digit in zip(answers.predictions["predictions"], digits, strict=True)
            ]
            label = f"{answers.label} (own)" if answers.own else answers.label
            table.add_row(finding.name if number == 0 else "", label, *cells)
        table.add_section()
    return table


def _cell(label: int | None, truth: int, ascii_only: bool) -> Text:
    if label is None:
        return Text("failed", style="red")
    if label == truth:
        return Text(str(label), style="green")
    return Text(f"{label} {'x' if ascii_only else '✗'}", style="bold red")
