"""The adaptation of one training run: its rule, what its checks came to, and the certified weights it keeps."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ode_core.specs.adaptation import CONFIDENCE, CertifiedAdaptation
from ode_core.specs.solver import SolverSpec
from ode_core.training.adaptation.rule import AdaptationRule, Certificate, Decision, Flips, Probe

_KEPT = "certified."


@dataclass(frozen=True)
class CertifiedWeights:
    """The weights of a check that certified them.

    Attributes:
        iteration: finished iterations of the training then.
        certificate: the solver that belongs to them, and what the check saw under it.
        tensors: the model's state.
    """

    iteration: int
    certificate: Certificate
    tensors: dict[str, Tensor]


class RunningAdaptation:
    """Lets a rule check and adapt, counts, and keeps the last certified weights.

    Attributes:
        evaluations: evaluations of the field of all checks, for one sample.
        kept: the last certified weights; None before there are any, and with rules that do not certify.
    """

    def __init__(self, rule: AdaptationRule) -> None:
        self._rule = rule
        self.evaluations = 0.0
        self.kept: CertifiedWeights | None = None
        self._checks = self._rejects = 0
        self._last_flips: Flips | None = None

    @property
    def solver(self) -> SolverSpec:
        """The solver to train with now."""
        return self._rule.solver

    def due(self, iteration: int) -> bool:
        """Return whether to check after ``iteration`` finished iterations."""
        return self._rule.due(iteration)

    def check(self, iteration: int, model: nn.Module, probe: Probe) -> dict[str, float]:
        """Check ``model`` after ``iteration`` finished iterations and return the check's metrics by name."""
        decision = self._rule.check(iteration, probe)
        self._checks += 1
        self._rejects += not decision.accepted
        self.evaluations += decision.evaluations
        self._last_flips = decision.flips
        # Weights that nothing was trained on yet may well pass; they are not what a training is for.
        if decision.certificate is not None and iteration > 0:
            tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
            self.kept = CertifiedWeights(iteration, decision.certificate, tensors)
        return _metrics(decision)

    def tensors(self) -> dict[str, Tensor]:
        """Return what ``restore`` needs as tensors."""
        kept = {} if self.kept is None else self.kept.tensors
        return {_KEPT + name: tensor for name, tensor in kept.items()}

    def state(self) -> dict[str, Any]:
        """Return what else ``restore`` needs, as JSON values."""
        kept = self.kept
        return {
            "rule": self._rule.state(),
            "checks": self._checks,
            "rejects": self._rejects,
            "evaluations": self.evaluations,
            "last_flips": None if self._last_flips is None else _flips_state(self._last_flips),
            "kept": None
            if kept is None
            else {
                "iteration": kept.iteration,
                "solver": kept.certificate.solver.document(),
                "flips": _flips_state(kept.certificate.flips),
            },
        }

    def restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on from what ``state`` and ``tensors`` returned; other tensors are left alone."""
        self._rule.restore(state["rule"])
        self._checks, self._rejects = state["checks"], state["rejects"]
        self.evaluations = state["evaluations"]
        self._last_flips = None if state["last_flips"] is None else Flips(**state["last_flips"])
        self.kept = None
        if (kept := state["kept"]) is not None:
            weights = {
                name.removeprefix(_KEPT): tensor.clone() for name, tensor in tensors.items() if name.startswith(_KEPT)
            }
            certificate = Certificate(SolverSpec.model_validate(kept["solver"]), Flips(**kept["flips"]))
            self.kept = CertifiedWeights(kept["iteration"], certificate, weights)

    def summary(self, spec: object, iterations: int) -> dict[str, Any]:
        """Return what a model's metadata tell of the adaptation after ``iterations``, as JSON values."""
        told: dict[str, Any] = {
            "rule": self._rule.name,
            "checks": self._checks,
            "rejects": self._rejects,
            "evaluations": self.evaluations,
        }
        if not isinstance(spec, CertifiedAdaptation):
            return told
        flips = self._last_flips if self.kept is None else self.kept.certificate.flips
        return told | {
            "certified": self.kept is not None,
            "certified_iteration": None if self.kept is None else self.kept.iteration,
            "epsilon": spec.epsilon,
            "confidence": CONFIDENCE,
            "audit_samples": spec.audit_samples,
            "flip_rate": None if flips is None else flips.rate,
            "flip_interval": None if flips is None else list(flips.interval),
            "reason": self._reason(spec, iterations),
        }

    def _reason(self, spec: CertifiedAdaptation, iterations: int) -> str | None:
        """Return why the weights after the last iteration are not certified; None where they are."""
        if self.kept is not None and self.kept.iteration == iterations:
            return None
        if self._last_flips is None:
            return "no check has been made yet"
        flips = self._last_flips
        unsettled = flips.most - flips.fewest
        seen = f"at the last check {flips.fewest} of {flips.samples} predictions differed from the converged ones"
        if unsettled:
            seen += f" and {unsettled} more had no settled reference"
        seen += f": their share may be {flips.interval[1]:.2%}, and epsilon is {spec.epsilon:.2%}"
        if self.kept is not None:
            return f"these are the weights of iteration {self.kept.iteration}; {seen}"
        return f"no check certified the weights; {seen}. Train longer, or raise max_steps, audit_samples or epsilon"


def _metrics(decision: Decision) -> dict[str, float]:
    metrics = decision.measures | {
        "adaptation_accepted": float(decision.accepted),
        "adaptation_evaluations": decision.evaluations,
        "adaptation_action": float(decision.action),
    }
    if decision.flips is not None:
        metrics["certified"] = float(decision.certificate is not None)
    return metrics


def _flips_state(flips: Flips) -> dict[str, Any]:
    return {
        "fewest": flips.fewest,
        "most": flips.most,
        "samples": flips.samples,
        "evaluations": flips.evaluations,
    }
