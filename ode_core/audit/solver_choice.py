"""The cheapest solver that is good enough to serve a model with, of those an audit tried.

Only a model that was shown to be an ODE may change its solver freely: there the flow is what it predicts, and whoever
computes the flow is right. What a solver is held against follows from the verdict:

* ``ode``: the converged reference.
* ``inconclusive``: reference and training solver at once, so that the answer is right whichever way the verdict falls.
* ``discrete``: the training solver, of whose steps the model consists. On the tested samples another may give the same
  predictions, but nothing ties it to them, so that no other is chosen.
* ``unresolved``: the same, as there is no reference.

Loads no torch: the choice is made where the answer is given, from what the audit stored.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ode_core.specs.audited_agreement import Evidence as Evidence  # part of what is asked here
from ode_core.specs.solver import SolverSpec

if TYPE_CHECKING:  # its statistics load SciPy, which a server that answers from what is stored has no use for
    from ode_core.audit.verdict import Verdict

AgreementWith = Literal["reference", "reference_and_training", "training"]
"""What predictions are held against."""

DEFAULT_AGREEMENT = 0.999
# An interval's lower end reaches this agreement with 3,688 samples, more than most test sets have.
DEFAULT_EVIDENCE: Evidence = "estimate"
USUAL_AGREEMENTS = (0.99, DEFAULT_AGREEMENT, 1.0)
TAIL = 0.025  # of a two-sided 95 % interval

_WITH: "dict[Verdict, AgreementWith]" = {
    "ode": "reference",
    "inconclusive": "reference_and_training",
    "discrete": "training",
    "unresolved": "training",
}
_WITH_IN_WORDS: dict[AgreementWith, str] = {
    "reference": "the converged solution",
    "reference_and_training": "both the converged solution and the solver of the training",
    "training": "the solver of the training",
}


def agreement_with(verdict: "Verdict") -> AgreementWith:
    """Return what a solver's predictions are held against."""
    return _WITH[verdict]


@dataclass(frozen=True)
class Candidate:
    """A solver that was tried.

    Attributes:
        solver: the solver.
        nfe: evaluations of the field for one sample, on average.
        seconds: wall time for one sample; None where it was not measured.
        accuracy: share of right labels.
        agreeing: samples on which it agrees; a failed solve does not.
        interval: exact 95 % interval of the agreement.
        failures: samples whose solve failed.
    """

    solver: SolverSpec
    nfe: float
    seconds: float | None
    accuracy: float
    agreeing: int
    interval: tuple[float, float]
    failures: int


@dataclass(frozen=True)
class Timing:
    """How the times were measured: the least of ``rounds`` solves of ``batch_size`` samples, on ``device``."""

    batch_size: int
    rounds: int
    device: str


@dataclass(frozen=True)
class ChosenSolver:
    """The answer to which solver to take.

    Attributes:
        asked: the least agreement.
        evidence: what has to reach it.
        candidate: what to take, or None where nothing is good enough.
        samples_needed: samples without a disagreement that show the asked agreement with 95 % confidence; None for 1,
            which no number shows.
        reason: why, in words.
    """

    asked: float
    evidence: Evidence
    candidate: Candidate | None
    samples_needed: int | None
    reason: str


@dataclass(frozen=True)
class SolverChoice:
    """The solvers an audit tried, from which the cheapest that is good enough is chosen.

    Attributes:
        verdict: the audit's.
        train_solver: what the model was trained with.
        samples: on how many the predictions were compared.
        timing: how times were measured.
        candidates: the solvers by their evaluations, the training solver among them.
    """

    verdict: "Verdict"
    train_solver: SolverSpec
    samples: int
    timing: Timing
    candidates: tuple[Candidate, ...]

    @property
    def agreement_with(self) -> AgreementWith:
        """What agreement is meant."""
        return agreement_with(self.verdict)

    @property
    def eligible(self) -> tuple[Candidate, ...]:
        """The solvers that may be chosen: all, or the training solver alone."""
        if self.agreement_with != "training":
            return self.candidates
        return tuple(candidate for candidate in self.candidates if candidate.solver == self.train_solver)

    @property
    def front(self) -> tuple[Candidate, ...]:
        """The Pareto front of those that may be chosen and were timed."""
        return pareto_front(self.eligible)

    def cheapest(self, agreement: float = DEFAULT_AGREEMENT, evidence: Evidence = DEFAULT_EVIDENCE) -> ChosenSolver:
        """Choose by evaluations, then by measured time, among those that agree on at least ``agreement``.

        Raises:
            ValueError: the agreement is not above 0 and at most 1.
        """
        if not 0 < agreement <= 1:
            raise ValueError(f"an agreement is above 0 and at most 1, not {agreement:g}")
        eligible = self.eligible
        if self.agreement_with == "training":
            good = eligible
        else:
            good = tuple(candidate for candidate in eligible if self._shown(candidate, evidence) >= agreement)
        needed = samples_without_disagreement(agreement)
        if not good:
            return ChosenSolver(agreement, evidence, None, needed, self._refusal(agreement, evidence, needed))
        chosen = min(good, key=_cost)
        if self.agreement_with == "training":
            reason = self._why_the_training_solver(chosen)
        else:
            reason = self._why(chosen, agreement, evidence, needed)
        return ChosenSolver(agreement, evidence, chosen, needed, reason)

    def usual_choices(self) -> list[ChosenSolver]:
        """Return the choices at agreements that are often asked for."""
        return [self.cheapest(agreement) for agreement in USUAL_AGREEMENTS]

    def _shown(self, candidate: Candidate, evidence: Evidence) -> float:
        return candidate.interval[0] if evidence == "lower_bound" else candidate.agreeing / self.samples

    def _why(self, chosen: Candidate, agreement: float, evidence: Evidence, needed: int | None) -> str:
        sure = " with 95% confidence" if evidence == "lower_bound" else ""
        more = ""
        if chosen.interval[0] < agreement:
            more = (
                "; no number of samples shows more"
                if needed is None
                else f"; to show {_percent(agreement)} takes {needed:,} samples without a disagreement"
            )
        return (
            f"Of the {len(self.eligible)} solvers tried {chosen.solver.label} takes the fewest evaluations among those "
            f"that agree with {_WITH_IN_WORDS[self.agreement_with]} on {_share(agreement)}{sure}: "
            f"{_cost_in_words(chosen)}. It agrees on {self._counted(chosen)}{more}."
        )

    def _counted(self, candidate: Candidate) -> str:
        return (
            f"{candidate.agreeing:,} of {self.samples:,}, which shows at least "
            f"{_percent(candidate.interval[0], down=True)} with 95% confidence"
        )

    def _why_the_training_solver(self, chosen: Candidate) -> str:
        because = {
            "discrete": "The model is not an ODE: its predictions are those of this solver's steps, and no other is "
            "right for it.",
            "unresolved": "No converged reference was found, so that no other solver is known to be right.",
        }[self.verdict]
        failed = f" On {chosen.failures:,} of {self.samples:,} samples its solve fails." if chosen.failures else ""
        return f"{chosen.solver.label}, the solver of the training, whatever agreement is asked. {because}{failed}"

    def _refusal(self, agreement: float, evidence: Evidence, needed: int | None) -> str:
        closest = min(self.eligible, key=lambda one: (-self._shown(one, evidence), *_cost(one)))
        said = (
            f"None of the {len(self.eligible)} solvers tried agrees with {_WITH_IN_WORDS[self.agreement_with]} on "
            f"{_share(agreement)}"
        )
        found = f"{closest.solver.label} with {_cost_in_words(closest)} comes closest, on {self._counted(closest)}"
        if evidence == "estimate":
            return f"{said}. {found}. Ask for less, or predict with {self.train_solver.label}, as trained."
        more = (
            "no number of samples shows that"
            if needed is None
            else f"that takes at least {needed:,} samples, all of which agree"
        )
        return (
            f"{said} with 95% confidence; {more}. {found}. Audit more samples, ask for less, or take the estimate as "
            f"evidence."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the candidates, which of them are on the front, and the usual choices, as JSON values."""
        front = self.front
        return {
            "verdict": self.verdict,
            "agreement_with": self.agreement_with,
            "train_solver": self.train_solver.document(),
            "samples": self.samples,
            "timing": asdict(self.timing),
            "candidates": [
                {
                    "solver": one.solver.document(),
                    "nfe": one.nfe,
                    "seconds_per_sample": one.seconds,
                    "accuracy": one.accuracy,
                    "agreement": one.agreeing / self.samples,
                    "agreeing": one.agreeing,
                    "interval": list(one.interval),
                    "failures": one.failures,
                    "on_front": one in front,
                }
                for one in self.candidates
            ],
            "choices": [
                {
                    "asked": chosen.asked,
                    "evidence": chosen.evidence,
                    "solver": None if chosen.candidate is None else chosen.candidate.solver.document(),
                    "reason": chosen.reason,
                }
                for chosen in self.usual_choices()
            ],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "SolverChoice":
        """Return what ``to_json`` wrote."""
        return cls(
            verdict=document["verdict"],
            train_solver=SolverSpec.model_validate(document["train_solver"]),
            samples=document["samples"],
            timing=Timing(**document["timing"]),
            candidates=tuple(
                Candidate(
                    solver=SolverSpec.model_validate(one["solver"]),
                    nfe=one["nfe"],
                    seconds=one["seconds_per_sample"],
                    accuracy=one["accuracy"],
                    agreeing=one["agreeing"],
                    interval=(one["interval"][0], one["interval"][1]),
                    failures=one["failures"],
                )
                for one in document["candidates"]
            ),
        )


def pareto_front(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return those of the timed candidates that no other beats: in evaluations, in time and in agreement.

    One beats another that is nowhere worse and somewhere better; of equals all stay.
    """
    timed = [(one, one.seconds) for one in candidates if one.seconds is not None]

    def beats(one: Candidate, seconds: float, other: Candidate, other_seconds: float) -> bool:
        nowhere_worse = one.nfe <= other.nfe and seconds <= other_seconds and one.agreeing >= other.agreeing
        return nowhere_worse and (one.nfe < other.nfe or seconds < other_seconds or one.agreeing > other.agreeing)

    return tuple(
        other
        for other, other_seconds in timed
        if not any(beats(one, seconds, other, other_seconds) for one, seconds in timed)
    )


def samples_without_disagreement(agreement: float) -> int | None:
    """Return how many samples, all of which agree, show ``agreement`` with 95 % confidence; None for 1.

    The Clopper-Pearson interval of ``n`` hits in ``n`` begins at ``0.025^(1/n)``.
    """
    return None if agreement >= 1 else max(1, math.ceil(math.log(TAIL) / math.log(agreement)))


def _cost(candidate: Candidate) -> tuple[float, float, str]:
    seconds = math.inf if candidate.seconds is None else candidate.seconds
    return candidate.nfe, seconds, candidate.solver.label


def _cost_in_words(candidate: Candidate) -> str:
    evaluations = f"{candidate.nfe:,.4g} {'evaluation' if candidate.nfe == 1 else 'evaluations'}"
    return evaluations if candidate.seconds is None else f"{evaluations} and {_time(candidate.seconds)} a sample"


def _time(seconds: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.3g} us"


def _share(agreement: float) -> str:
    return "all samples" if agreement == 1 else f"at least {_percent(agreement)} of the samples"


def _percent(share: float, *, down: bool = False) -> str:
    """Return a share in words; ``down``: rounded so that it is not more than it is."""
    percent = 100 * share
    return f"{math.floor(percent * 100) / 100:.2f}%" if down else f"{round(percent, 8):.8g}%"
