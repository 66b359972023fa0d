"""Answers about which solver to serve a model version with."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from api.schemas.answer import Answer
from api.schemas.solvers import SolverAnswer
from ode_core.audit.solver_choice import AgreementWith, Candidate, ChosenSolver, Evidence, SolverChoice
from store.models import ModelVersion
from store.solver_choices import StoredSolverChoice

Verdict = Literal["ode", "discrete", "inconclusive", "unresolved"]


class CandidateAnswer(Answer):
    """A solver that the audit tried."""

    solver: SolverAnswer = Field(description="the solver")
    nfe: float = Field(description="mean evaluations of the vector field for one sample")
    seconds_per_sample: float | None = Field(description="measured as `timing` says; null: not measured")
    accuracy: float = Field(description="share of right labels under it, 0 to 1")
    agreement: float = Field(description="share of the samples on which its prediction is the one it should be")
    interval: tuple[float, float] = Field(description="exact 95 % interval of the agreement")
    failures: int = Field(description="samples whose solve failed; they do not agree")

    @classmethod
    def of(cls, candidate: Candidate, samples: int) -> "CandidateAnswer":
        """Return the answer about a candidate."""
        return cls(
            solver=candidate.solver,
            nfe=candidate.nfe,
            seconds_per_sample=candidate.seconds,
            accuracy=candidate.accuracy,
            agreement=candidate.agreeing / samples,
            interval=candidate.interval,
            failures=candidate.failures,
        )


class TimingAnswer(Answer):
    """How times were measured: the least of `rounds` solves of a batch, without compilation."""

    batch_size: int = Field(description="samples in the batch")
    rounds: int = Field(description="solves of which the quickest counts")
    device: str = Field(description="cpu or cuda")


class UsualChoice(Answer):
    """The cheapest solver for an agreement that is often asked for."""

    asked: float = Field(description="the least agreement, 0 to 1")
    evidence: Evidence = Field(description="what has to reach it: the observed share, or the interval's lower end")
    solver: SolverAnswer | None = Field(description="the cheapest good enough; null: none is")
    reason: str = Field(description="why, in words")

    @classmethod
    def of(cls, chosen: ChosenSolver) -> "UsualChoice":
        """Return the answer about a choice."""
        return cls(
            asked=chosen.asked,
            evidence=chosen.evidence,
            solver=None if chosen.candidate is None else chosen.candidate.solver,
            reason=chosen.reason,
        )


class SolverChoiceSummary(Answer):
    """What the latest finished audit found out about the solvers to serve a version with."""

    audit_job: str = Field(description="id of the audit")
    audited_at: datetime
    verdict: Verdict
    agreement_with: AgreementWith = Field(
        description="what predictions are held against: reference of an ODE, reference_and_training where that is "
        "inconclusive, training else"
    )
    samples: int = Field(description="audited samples")
    timing: TimingAnswer
    front: list[CandidateAnswer] = Field(description="those that none beats in evaluations, time and agreement at once")
    choices: list[UsualChoice]
    href: str = Field(description="chooses for any agreement")

    @classmethod
    def of(cls, version: ModelVersion, stored: StoredSolverChoice) -> "SolverChoiceSummary":
        """Return the summary of what is stored with a version."""
        choice = SolverChoice.from_json(stored.choice)
        return cls(
            audit_job=stored.job_id,
            audited_at=stored.created_at,
            verdict=choice.verdict,
            agreement_with=choice.agreement_with,
            samples=choice.samples,
            timing=TimingAnswer.model_validate(stored.choice["timing"]),
            front=[CandidateAnswer.of(one, choice.samples) for one in choice.front],
            choices=[UsualChoice.of(chosen) for chosen in choice.usual_choices()],
            href=f"/v1/models/{version.model}/versions/{version.version}/solver-choice",
        )


class SolverChoiceAnswer(Answer):
    """The cheapest solver tried that agrees well enough, and why."""

    model: str
    version: int
    asked: float = Field(description="the least agreement")
    evidence: Evidence
    solver: SolverAnswer | None = Field(description="to be named in a prediction; null: none is good enough")
    reason: str
    chosen: CandidateAnswer | None
    samples_needed: int | None = Field(
        description="samples, all of which agree, that show the asked agreement with 95 % confidence; null: none do"
    )
    verdict: Verdict
    agreement_with: AgreementWith
    train_solver: SolverAnswer
    samples: int
    timing: TimingAnswer
    audit_job: str
    audited_at: datetime

    @classmethod
    def of(
        cls, version: ModelVersion, stored: StoredSolverChoice, agreement: float, evidence: Evidence
    ) -> "SolverChoiceAnswer":
        """Choose from what is stored with a version."""
        choice = SolverChoice.from_json(stored.choice)
        chosen = choice.cheapest(agreement, evidence)
        candidate = chosen.candidate
        return cls(
            model=version.model,
            version=version.version,
            asked=chosen.asked,
            evidence=chosen.evidence,
            solver=None if candidate is None else candidate.solver,
            reason=chosen.reason,
            chosen=None if candidate is None else CandidateAnswer.of(candidate, choice.samples),
            samples_needed=chosen.samples_needed,
            verdict=choice.verdict,
            agreement_with=choice.agreement_with,
            train_solver=choice.train_solver,
            samples=choice.samples,
            timing=TimingAnswer.model_validate(stored.choice["timing"]),
            audit_job=stored.job_id,
            audited_at=stored.created_at,
        )
