"""From a spec to its rule."""

import torch

from ode_core.models.classifier import DTYPES
from ode_core.specs.adaptation import CertifiedAdaptation, StepAdaptation, ToleranceAdaptation
from ode_core.specs.solver import SolverSpec
from ode_core.specs.training import TrainingJobSpec
from ode_core.training.adaptation.certified import CertifiedRule
from ode_core.training.adaptation.look_ahead import LookAheadRule
from ode_core.training.adaptation.rule import AdaptationRule
from ode_core.training.adaptation.solver_ladder import SolverLadder, StepLadder, ToleranceLadder
from ode_core.training.adaptation.talk import TalkRule
from ode_core.training.adaptation.tolerance import ToleranceRule


def build_rule(job: TrainingJobSpec, solver: SolverSpec) -> AdaptationRule | None:
    """Return the rule that adapts ``solver``, the job's own with a whole number of steps; None where none is asked."""
    spec, iterations = job.adaptation, job.training.iterations
    eps = torch.finfo(DTYPES[job.training.precision]).eps
    match spec:
        case None:
            return None
        case StepAdaptation(rule="talk"):
            return TalkRule(spec, solver, iterations)
        case StepAdaptation():
            return LookAheadRule(spec, solver, iterations)
        case ToleranceAdaptation():
            return ToleranceRule(spec, solver, iterations, eps)
        case CertifiedAdaptation():
            end_time = job.architecture.end_time
            ladder: SolverLadder = ToleranceLadder(spec, eps) if solver.adaptive else StepLadder(spec, end_time)
            return CertifiedRule(spec, solver, ladder, iterations)
