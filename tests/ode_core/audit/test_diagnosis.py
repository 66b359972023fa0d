import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ode_core.audit import mechanism
from ode_core.audit.audit import AuditReport, audit
from ode_core.audit.cause import cause, cause_in_words
from ode_core.audit.diagnosis import MOST_SAMPLES, PARTS, Diagnosis, affordable_samples, diagnose, is_to_repair
from ode_core.audit.interventions import InterventionalSplit, Outcome, Shares
from ode_core.audit.step_grid import StepGrid
from ode_core.audit.step_spectrum import StepSpectrum, step_spectrum
from ode_core.models.classifier import Classifier, build_classifier
from ode_core.models.modified_classifier import with_modified_field
from ode_core.models.predictions import predict
from ode_core.solvers.step_map import StepMap
from ode_core.specs import ClassifierSpec, ConcentricSpheresSpec, MlpField, ModifiedFieldSpec, SolverSpec
from tests.ode_core.audit.linear_models import LinearField, circle, classifier_around, rotation

SMALL = 2_000


def diagnosed(
    model: Classifier, solver: SolverSpec, samples: int = 200, **options: Any
) -> tuple[AuditReport, Diagnosis]:
    inputs = circle(samples)
    labels = predict(model, inputs, solver).labels
    report = audit(model, inputs, labels, solver)
    return report, diagnose(model, inputs, labels, report, operations=SMALL, **options)


def spiral(real: float, angle: float) -> Classifier:
    """A field whose eigenvalues are ``real +- i angle``."""
    return classifier_around(LinearField([[real, -angle], [angle, real]]))


def test_a_rotation_is_said_to_accumulate_and_when_it_turns_the_predictions() -> None:
    report, found = diagnosed(rotation(2.0), SolverSpec(method="euler", steps=4))
    told = found.to_json()["mechanism"]
    assert report.verdict == "discrete"
    assert told["cause"] == "accumulation"
    assert told["crossing"]["flagged_share"] == 0
    assert told["sentence"].startswith("Errors accumulate: no step was found")
    assert told["when"]["flagged"] is None
    assert told["when"]["turned"]["p90"] in (0.25, 0.5, 0.75, 1.0)  # a step's end, of four


def test_shares_in_sentences_have_the_decimal_that_charts_have() -> None:
    shares = cause_in_words(split_with(0.725, 0.125), flagged_share=0.0625)
    assert "72.5%" in shares
    assert "12.5%" in shares


def test_no_time_is_told_where_all_predictions_are_turned_in_the_last_step() -> None:
    # One step: whatever changes is turned in it. Eight steps of a rotation turn some before.
    _, at_once = diagnosed(rotation(2.0), SolverSpec(method="euler", steps=1))
    _, in_turn = diagnosed(rotation(2.0), SolverSpec(method="euler", steps=8))
    assert at_once.mechanism is not None
    assert in_turn.mechanism is not None
    assert at_once.mechanism.to_json()["when"]["turned"]["p10"] == 1
    assert "are turned by time" not in at_once.mechanism.sentence
    assert "are turned by time" in in_turn.mechanism.sentence


def test_a_step_that_throws_states_over_the_origin_is_said_to_cross() -> None:
    # h J has the eigenvalue -3 in one direction alone: x goes to -2 x, and the determinant is negative.
    model = classifier_around(LinearField([[-3.0, 0.0], [0.0, 0.0]]))
    _, found = diagnosed(model, SolverSpec(method="euler", steps=1))
    told = found.to_json()["mechanism"]
    assert told["cause"] == "crossing"
    assert told["crossing"]["flagged_share"] == told["crossing"]["certified_share"] == 1
    assert told["split"]["by_flips"]["crossing"] == 1
    assert "100.0% of the steps are such as no flow can make" in told["sentence"]


@pytest.mark.parametrize(("real", "angle", "paired"), [(-3.0, 0.5, 0), (-3.0, 0.0, 1), (-0.5, 0.0, 0)])
def test_pairs_of_eigenvalues_left_of_minus_one_are_no_crossing(real: float, angle: float, paired: int) -> None:
    # One Euler step: D = I + h J has the eigenvalues 1 + real +- i angle. Without the angle it is a half turn.
    model, inputs, solver = spiral(real, angle), circle(50), SolverSpec(method="euler", steps=1)
    labels = predict(model, inputs, solver).labels
    found = mechanism.find_mechanism(model, inputs, labels, solver, labels)
    assert found.spectrum.flagged_share == 0
    assert found.to_json()["crossing"]["paired_share"] == paired


def test_findings_are_json_without_nan_and_name_the_samples_they_are_of() -> None:
    _, found = diagnosed(rotation(2.0), SolverSpec(method="euler", steps=4), samples=MOST_SAMPLES + 100)
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["mechanism"]["samples"] == found.samples == MOST_SAMPLES
    assert told["mechanism_reason"] is None


@pytest.mark.parametrize(
    ("solver", "words"),
    [
        (SolverSpec(method="asynchronous_leapfrog", steps=1), "only the steps of Runge-Kutta methods"),
        (SolverSpec(method="implicit_adams", steps=2), "elsewhere"),
        (SolverSpec(method="euler", steps=1, backend="torchdiffeq"), "elsewhere"),
    ],
)
def test_steps_that_cannot_be_taken_apart_have_the_reason(solver: SolverSpec, words: str) -> None:
    _, found = diagnosed(rotation(1.0), solver, samples=20)
    assert found.mechanism is None
    assert words in str(found.reason)


def test_a_model_trained_by_an_implicit_method_is_repaired_by_its_modified_field() -> None:
    # A step turns by 2 atan(3/8) and not by 3/4.
    report, found = diagnosed(rotation(6.0), SolverSpec(method="implicit_midpoint", steps=8), samples=200)
    assert report.verdict == "discrete"
    assert found.mechanism is not None
    assert found.to_json()["mechanism"]["cause"] == "accumulation"
    assert [trial.spec.kind for trial in found.rescues] == ["local_error", "iterates"]
    assert [trial.offered for trial in found.rescues] == [False, True]
    assert found.rescues[1].agreement >= 0.99


def test_a_modified_field_of_an_implicit_method_that_is_too_dear_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ode_core.audit.diagnosis.TRIAL_MULTIPLICATIONS", 1.0)
    _, found = diagnosed(rotation(3.0), SolverSpec(method="implicit_midpoint", steps=2), samples=100)
    assert found.mechanism is not None
    assert found.rescues == []
    assert found.no_rescue == "it would take too long"


def test_larger_models_are_looked_into_with_fewer_samples_and_the_largest_not_at_all() -> None:
    report, _ = diagnosed(rotation(2.0), SolverSpec(method="euler", steps=4))

    def samples(operations: int, size: int = 2) -> int:
        return affordable_samples(report, (size,), 1.0, operations)

    counts = [samples(10**power) for power in range(3, 12)]
    assert counts[0] == 200
    assert counts[-1] == 0
    assert counts == sorted(counts, reverse=True)
    assert samples(SMALL, size=2**26) == 0


@pytest.mark.parametrize(
    ("steps", "size", "operations", "evaluations"),
    [
        # Multiplications and evaluations of the reference, of fields 1 x 1, 3 x 3, 1 x 1 after a short training.
        (2, 64, 64 * (32 + 9 * 32 * 32 + 32), 413),
        (16, 64, 64 * (32 + 9 * 32 * 32 + 32), 230),
        (2, 784, 784 * (16 + 9 * 16 * 16 + 16), 146),
        (2, 3072, 1024 * (3 * 16 + 9 * 16 * 16 + 16 * 3), 93),
    ],
    ids=["digits", "digits, 16 steps", "MNIST", "CIFAR-10"],
)
def test_all_200_samples_of_an_image_data_set_are_looked_into(
    steps: int, size: int, operations: int, evaluations: float
) -> None:
    report, _ = diagnosed(rotation(2.0), SolverSpec(method="euler", steps=4))
    solver = SolverSpec(method="euler", steps=steps)
    like = replace(report, train_solver=solver, reference=replace(report.reference, evaluations=evaluations))
    assert affordable_samples(like, (size,), 1.0, operations) == MOST_SAMPLES


def test_a_model_that_is_not_looked_into_has_the_reason() -> None:
    model, inputs = rotation(2.0), circle(50)
    solver = SolverSpec(method="euler", steps=4)
    labels = predict(model, inputs, solver).labels
    report = audit(model, inputs, labels, solver)
    found = diagnose(model, inputs, labels, report, operations=10**12)
    assert found.mechanism is None
    assert "too long" in str(found.reason)


def test_where_no_prediction_changes_the_steps_are_looked_at_but_no_cause_is_told_and_nothing_is_tried() -> None:
    report, found = diagnosed(rotation(0.001), SolverSpec(method="euler", steps=4), samples=40)
    assert report.flip_rate == 0
    told = found.to_json()["mechanism"]
    assert told["sentence"] == "None of the 40 predictions looked at changes, so there is no cause to look for."
    assert (told["cause"], told["crossing"]["flagged_share"]) == ("unknown", 0)
    assert found.rescues == []
    assert "nothing to give back" in str(found.no_rescue)
    assert report.verdict == "inconclusive"
    assert is_to_repair(report, found)  # it was looked into, and may be no ODE


def test_of_a_repaired_model_no_further_modified_field_is_tried() -> None:
    # One term of the iterates is, for Euler's method, the field itself.
    solver = SolverSpec(method="euler", steps=4)
    model = with_modified_field(rotation(2.0), ModifiedFieldSpec(solver=solver, kind="iterates", terms=1))
    _, found = diagnosed(model, solver)
    assert found.rescues == []
    assert found.no_rescue == "this version is itself a repair: its field has been exchanged already"


def test_what_accumulates_is_won_back_by_a_modified_field_and_what_crosses_is_not() -> None:
    _, rotated = diagnosed(rotation(8.0), SolverSpec(method="euler", steps=30))
    _, thrown = diagnosed(
        classifier_around(LinearField([[-3.0, 0.0], [0.0, 0.0]])), SolverSpec(method="euler", steps=1)
    )
    assert [(trial.spec.kind, trial.offered) for trial in rotated.rescues] == [("iterates", True)]
    # The others are tried where they may still help.
    assert [trial.spec.kind for trial in thrown.rescues] == ["iterates", "iterates", "series"]
    assert not any(trial.offered for trial in thrown.rescues)


@pytest.fixture(scope="module")
def ordinary() -> tuple[Classifier, Tensor, Tensor, AuditReport]:
    """A model as they are stored, whose field tells of every evaluation; with inputs, labels and audit.

    One prediction is told to change, so that there is a cause to look for.
    """
    model = build_classifier(ClassifierSpec(field=MlpField(hidden=(4,))), ConcentricSpheresSpec()).requires_grad_(False)
    inputs, solver = circle(50), SolverSpec(method="euler", steps=4)
    labels = predict(model, inputs, solver).labels
    report = audit(model, inputs, labels, solver)
    changed = report.trained.labels.clone()
    changed[0] = 1 - changed[0]
    return model, inputs, labels, replace(report, trained=replace(report.trained, labels=changed))


@pytest.fixture
def first_step_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples with all steps flagged, or none as here, are not run again: flag one, so that there are interventions."""

    def flagging(psi: StepMap, grid: StepGrid, states: Tensor, **options: Any) -> StepSpectrum:
        found = step_spectrum(psi, grid, states, **options)
        first = torch.zeros_like(found.flagged)
        first[0] = True
        return replace(found, flagged=first)

    monkeypatch.setattr(mechanism, "step_spectrum", flagging)


@pytest.mark.usefixtures("first_step_flagged")
def test_progress_is_told_part_by_part_and_from_within(
    ordinary: tuple[Classifier, Tensor, Tensor, AuditReport],
) -> None:
    told: list[tuple[int, int, str]] = []
    diagnose(*ordinary, operations=SMALL, on_progress=lambda *report: told.append(report))
    parts = [part for part, _, _ in told]
    assert parts == sorted(parts)
    assert all(parts.count(part) > 1 for part in range(1, PARTS - 1))  # further trials are of no use here
    assert {total for _, total, _ in told} == {PARTS}


class Stop(Exception):
    """The job is to end."""


@pytest.mark.usefixtures("first_step_flagged")
@pytest.mark.parametrize("part", range(1, PARTS - 1))
def test_an_exception_of_the_progress_ends_every_part_from_within(
    ordinary: tuple[Classifier, Tensor, Tensor, AuditReport], part: int
) -> None:
    seen: list[int] = []

    def stop(number: int, parts: int, message: str) -> None:
        seen.append(number)
        if seen.count(part) == 2:
            raise Stop

    with pytest.raises(Stop):
        diagnose(*ordinary, operations=SMALL, on_progress=stop)
    assert seen[-1] == part


def split_with(crossing: float | None, accumulation: float | None) -> InterventionalSplit:
    outcome = Outcome(0.5, 0.5)
    if crossing is None or accumulation is None:
        shares = Shares(None, None, None, "under a converged solver the predictions change for 3 of 100 samples")
    else:
        shares = Shares(crossing, accumulation, 1 - crossing - accumulation)
    return InterventionalSplit(100, outcome, outcome, outcome, outcome, shares, shares, 0)


@pytest.mark.parametrize(
    ("crossing", "accumulation", "expected", "words"),
    [
        (0.9, 0.2, "crossing", "Trajectories cross: "),
        (0.2, 0.9, "accumulation", "Errors accumulate: "),
        (0.6, 0.7, "either", "either"),
        (0.3, 0.4, "together", "only together"),
        (None, None, "unknown", "3 of 100"),
    ],
)
def test_a_cause_is_what_changes_half_of_the_predictions(
    crossing: float | None, accumulation: float | None, expected: str, words: str
) -> None:
    split = split_with(crossing, accumulation)
    assert cause(split) == expected
    told = cause_in_words(split, 0.004)
    assert words in told
    if crossing is not None:
        assert f"{100 * crossing:.1f}%" in told
        assert f"{100 * accumulation:.1f}%" in told
        assert "0.4% of the steps" in told


def test_the_cause_is_told_with_the_share_of_the_steps_of_which_nothing_is_known() -> None:
    told = cause_in_words(split_with(0.0, 1.0), 0.0, 0.75)
    assert told.startswith("Errors accumulate: no step was found")
    assert "Of 75.0% of the steps it is not known" in told
    assert "not known" not in cause_in_words(split_with(0.0, 1.0), 0.0, 0.0)


def test_turning_times_of_a_rotation_are_those_at_which_the_steps_carry_it_over_the_line() -> None:
    # An Euler step turns by atan(a/4) and the flow by a/4; what is read off the end is the sign of the cosine.
    angle = 2.0
    _, found = diagnosed(rotation(angle), SolverSpec(method="euler", steps=4))
    own = (torch.arange(200, dtype=torch.float64) + 0.5) * 2 * math.pi / 200
    ends = torch.stack([own + k * math.atan(angle / 4) + (4 - k) * angle / 4 for k in range(5)]).cos() > 0
    changed = ends[0] != ends[-1]
    last_wrong = torch.where(ends[:-1] != ends[-1], torch.arange(4).unsqueeze(1), -1).amax(dim=0)[changed]

    assert found.mechanism is not None
    assert changed.any()
    assert found.mechanism.turning_times.tolist() == ((last_wrong + 1) / 4).tolist()
