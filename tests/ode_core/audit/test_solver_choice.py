import itertools
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ode_core.audit.shown_agreement import samples_that_show, samples_without_disagreement
from ode_core.audit.solver_choice import Candidate, Evidence, SolverChoice, Timing, pareto_front
from ode_core.audit.statistics import clopper_pearson, samples_to_decide
from ode_core.audit.verdict import Verdict
from ode_core.specs import SolverSpec

EULER64 = SolverSpec(method="euler", steps=64)
SAMPLES = 1000


def candidate(steps: int, nfe: float, seconds: float | None, agreeing: int, method: str = "rk4") -> Candidate:
    return Candidate(
        solver=SolverSpec(method=method, steps=steps),  # type: ignore[arg-type]
        nfe=nfe,
        seconds=seconds,
        accuracy=0.9,
        agreeing=agreeing,
        interval=clopper_pearson(agreeing, SAMPLES),
        failures=0,
    )


TRAINED = candidate(64, 64, 2e-4, 998, "euler")
LADDER = (
    candidate(1, 4, 1e-5, 900),
    candidate(2, 8, 3e-5, 990),
    candidate(4, 8, 2e-5, 990, "midpoint"),
    candidate(3, 12, 4e-5, 999),
    candidate(4, 16, 5e-5, 1000),
    TRAINED,
    candidate(256, 1024, None, 1000),
)


def choice(verdict: Verdict, candidates: tuple[Candidate, ...] = LADDER) -> SolverChoice:
    return SolverChoice(verdict, EULER64, SAMPLES, Timing(64, 3, "cpu"), candidates)


CANDIDATES = st.lists(
    st.tuples(
        st.integers(1, 6),
        st.one_of(st.none(), st.integers(1, 6).map(float)),
        st.integers(0, 6),
    ),
    min_size=1,
    max_size=12,
).map(lambda rows: [candidate(k + 1, float(nfe), time, agrees) for k, (nfe, time, agrees) in enumerate(rows)])


@given(CANDIDATES)
def test_the_front_is_what_no_other_beats(candidates: list[Candidate]) -> None:
    # By the definition, with the sum of the signs of the three differences: none negative, and one positive.
    def gains(one: Candidate, other: Candidate) -> list[float]:
        assert one.seconds is not None
        assert other.seconds is not None
        return [other.nfe - one.nfe, other.seconds - one.seconds, one.agreeing - other.agreeing]

    timed = [one for one in candidates if one.seconds is not None]
    beaten = {
        other.solver
        for one, other in itertools.permutations(timed, 2)
        if min(gains(one, other)) >= 0 and max(gains(one, other)) > 0
    }

    assert [one.solver for one in pareto_front(candidates)] == [one.solver for one in timed if one.solver not in beaten]


@given(CANDIDATES, st.integers(1, 6))
def test_nothing_cheaper_agrees_well_enough(candidates: list[Candidate], agreeing: int) -> None:
    made = SolverChoice("ode", EULER64, 6, Timing(64, 3, "cpu"), tuple(candidates))

    chosen = made.cheapest(agreeing / 6).candidate

    good = [one for one in candidates if one.agreeing >= agreeing]
    if chosen is None:
        assert good == []
    else:
        assert chosen in good
        assert chosen.nfe == min(one.nfe for one in good)
        equals = [one.seconds for one in good if one.nfe == chosen.nfe and one.seconds is not None]
        assert chosen.seconds == min(equals, default=None)


@pytest.mark.parametrize(
    ("agreement", "label"),
    [(0.5, "rk4-1"), (0.9, "rk4-1"), (0.95, "midpoint-4"), (0.99, "midpoint-4"), (0.999, "rk4-3"), (1.0, "rk4-4")],
)
def test_an_ode_takes_the_fewest_evaluations_then_the_least_time(agreement: float, label: str) -> None:
    chosen = choice("ode").cheapest(agreement)

    assert chosen.candidate is not None
    assert chosen.candidate.solver.label == label
    assert label in chosen.reason
    assert "the converged solution" in chosen.reason


def test_the_default_asks_for_999_of_1000_by_the_estimate_and_says_what_it_does_not_show() -> None:
    chosen = choice("ode").cheapest()

    assert (chosen.asked, chosen.evidence) == (0.999, "estimate")
    low = stats.binomtest(999, 1000).proportion_ci(method="exact").low
    assert f"shows at least {100 * low:.2f}%" in chosen.reason
    assert chosen.samples_needed == 3688
    # One of the thousand disagrees: if every thousandth does, no sample is large enough for 99.9 %.
    assert "if that share stays as it is, no number of samples shows 99.9%" in chosen.reason


@pytest.mark.parametrize(
    ("agreeing", "agreement", "evidence", "said"),
    [
        # All agree: as many as it takes without a disagreement.
        (1000, 0.999, "estimate", "to show 99.9% takes 3,688 samples without a disagreement"),
        (1000, 0.999, "lower_bound", "to show 99.9% takes 3,688 samples without a disagreement"),
        # Disagreements were seen, so nothing is said of samples without one.
        (905, 0.9, "estimate", "if that share stays as it is, about "),
        (905, 0.9, "lower_bound", "if that share stays as it is, about "),
        (900, 0.9, "estimate", "if that share stays as it is, no number of samples shows 90%"),
        (890, 0.9, "lower_bound", "if that share stays as it is, no number of samples shows 90%"),
        (1000, 1.0, "estimate", "no number of samples shows 100%"),
        (999, 1.0, "lower_bound", "no number of samples shows 100%"),
    ],
)
def test_the_reason_says_what_would_show_the_agreement_given_what_was_seen(
    agreeing: int, agreement: float, evidence: Evidence, said: str
) -> None:
    reason = choice("ode", (candidate(1, 4, 1e-5, agreeing),)).cheapest(agreement, evidence).reason

    assert said in reason
    assert (agreeing == SAMPLES) or "without a disagreement" not in reason


def test_nothing_more_is_said_where_the_agreement_is_shown() -> None:
    assert choice("ode").cheapest(0.9, "lower_bound").reason.endswith("with 95% confidence.")


@pytest.mark.parametrize(
    ("disagreeing", "agreement"), [(1, 0.99), (95, 0.9), (3, 0.995), (40, 0.95), (49, 0.95), (399, 0.6)]
)
def test_as_many_samples_show_an_agreement_as_by_the_intervals_of_scipy(disagreeing: int, agreement: float) -> None:
    found = samples_that_show(agreement, disagreeing, SAMPLES)

    assert found is not None
    assert found == samples_to_decide(disagreeing / SAMPLES, 1 - agreement, more_than=SAMPLES)
    shown = stats.binomtest(found - round(disagreeing / SAMPLES * found), found).proportion_ci(method="exact").low
    assert shown >= agreement


@pytest.mark.parametrize("agreement", [5e-324, 1e-17, 1e-16, 0.1])
def test_an_agreement_next_to_none_is_shown_by_one_sample_more(agreement: float) -> None:
    # The interval of 101 hits in 101 begins at 0.025^(1/101) = 0.964.
    assert samples_that_show(agreement, 0, 100) == 101


def test_by_time_the_least_time_counts_and_then_the_evaluations() -> None:
    quick = candidate(1, 20, 3e-5, 1000, "dopri5"), candidate(2, 30, 3e-5, 1000, "bosh3")
    made = choice("ode", (*LADDER, *quick))

    by_evaluations, by_time = made.cheapest(0.995), made.cheapest(0.995, by="time")

    assert by_evaluations.candidate is not None
    assert by_time.candidate is not None
    assert by_evaluations.candidate.solver.label == "rk4-3"
    assert by_time.candidate.solver.label == "dopri5-1"
    assert (by_evaluations.by, by_time.by) == ("evaluations", "time")
    assert "dopri5-1 takes the least time among those that agree" in by_time.reason
    assert "rk4-3 takes the fewest evaluations" in by_evaluations.reason


@given(CANDIDATES, st.integers(1, 6))
def test_nothing_quicker_agrees_well_enough(candidates: list[Candidate], agreeing: int) -> None:
    made = SolverChoice("ode", EULER64, 6, Timing(64, 3, "cpu"), tuple(candidates))

    chosen = made.cheapest(agreeing / 6, by="time").candidate

    good = [one for one in candidates if one.agreeing >= agreeing]
    timed = [one for one in good if one.seconds is not None]
    if chosen is None:
        assert good == []
    elif timed:
        least = min(one.seconds for one in timed if one.seconds is not None)
        assert chosen.seconds == least
        assert chosen.nfe == min(one.nfe for one in timed if one.seconds == least)
    else:
        assert chosen.nfe == min(one.nfe for one in good)
        assert "the fewest evaluations" in made.cheapest(agreeing / 6, by="time").reason


@pytest.mark.parametrize("verdict", ["discrete", "unresolved"])
def test_by_time_too_only_the_training_solver_is_right_for_what_is_not_an_ode(verdict: Verdict) -> None:
    assert choice(verdict).cheapest(0.5, by="time").candidate == TRAINED


def test_a_thousand_samples_cannot_show_999_in_a_thousand_and_the_answer_says_how_many_do() -> None:
    refused = choice("ode").cheapest(0.999, "lower_bound")
    shown = choice("ode").cheapest(0.99, "lower_bound")

    assert refused.candidate is None
    assert "None of the 7 solvers" in refused.reason
    assert "3,688 samples" in refused.reason
    assert shown.candidate is not None
    assert shown.candidate.solver.label == "rk4-3"  # 990 of 1,000 show 98.2 %
    assert choice("ode").cheapest(1.0, "lower_bound").samples_needed is None


def test_where_none_is_good_enough_the_answer_names_the_closest_and_the_way_out() -> None:
    chosen = choice("ode", (LADDER[0], LADDER[1], TRAINED)).cheapest(0.999)

    assert chosen.candidate is None
    assert "euler-64 with 64 evaluations" in chosen.reason
    assert "998 of 1,000" in chosen.reason
    assert "Ask for less" in chosen.reason


@pytest.mark.parametrize("verdict", ["discrete", "unresolved"])
@pytest.mark.parametrize("evidence", ["estimate", "lower_bound"])
@pytest.mark.parametrize("agreement", [0.5, 0.999, 1.0])
def test_only_the_training_solver_is_right_for_what_is_not_an_ode(
    verdict: Verdict, agreement: float, evidence: str
) -> None:
    made = choice(verdict)

    chosen = made.cheapest(agreement, evidence)  # type: ignore[arg-type]

    assert chosen.candidate == TRAINED
    assert "euler-64, the solver of the training" in chosen.reason
    assert made.front == (TRAINED,)
    assert made.agreement_with == "training"


def test_the_answer_says_where_the_training_solver_itself_fails() -> None:
    failing = replace(TRAINED, agreeing=990, failures=10)

    assert "On 10 of 1,000 samples its solve fails" in choice("discrete", (failing,)).cheapest().reason


def test_an_inconclusive_model_is_served_with_what_agrees_with_both() -> None:
    made = choice("inconclusive")

    assert made.agreement_with == "reference_and_training"
    assert "both the converged solution and the solver of the training" in made.cheapest().reason


@pytest.mark.parametrize("agreement", [0.0, -0.1, 1.0001, float("nan")])
def test_an_agreement_is_a_share(agreement: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        choice("ode").cheapest(agreement)


@pytest.mark.parametrize("agreement", [0.5, 0.9, 0.99, 0.999])
def test_so_many_samples_show_an_agreement_and_no_fewer_do(agreement: float) -> None:
    needed = samples_without_disagreement(agreement)

    assert needed is not None
    assert clopper_pearson(needed, needed)[0] >= agreement > clopper_pearson(needed - 1, needed - 1)[0]


@pytest.mark.parametrize("samples", [1, 2, 10, 360, 1000, 12_345, 500_000])
def test_as_many_samples_show_an_agreement_that_is_the_end_of_their_interval(samples: int) -> None:
    low = stats.binomtest(samples, samples).proportion_ci(method="exact").low

    assert samples_without_disagreement(low) == samples


def test_what_is_stored_is_what_was_found() -> None:
    made = choice("ode")
    document = json.loads(json.dumps(made.to_json(), allow_nan=False))

    assert SolverChoice.from_json(document) == made
    assert [one["solver"]["steps"] for one in document["candidates"] if one["on_front"]] == [1, 4, 3, 4]
    assert [usual["asked"] for usual in document["choices"]] == [0.99, 0.999, 1.0]


def test_a_choice_is_made_without_torch_or_scipy() -> None:
    program = "import sys, ode_core.audit.solver_choice; print({'torch', 'scipy'} & set(sys.modules))"

    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"
    )
