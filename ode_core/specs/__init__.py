"""Specs: what a job, a model and a solver are made of. Importable without torch."""

from ode_core.specs.budgets import (
    Budget,
    BudgetExceeded,
    check_solve_budget,
    check_sweep_budget,
    check_training_budget,
    solve_evaluations,
)
from ode_core.specs.dataset import Cifar10Spec, ConcentricSpheresSpec, DatasetSpec, DigitsSpec, MnistSpec
from ode_core.specs.evaluation import AuditJobSpec, EvaluationJobSpec, PortraitJobSpec, SweepJobSpec
from ode_core.specs.gradient import GRADIENTS, GradientFacts, GradientMode, check_gradient
from ode_core.specs.methods import METHODS, MethodFacts, MethodName
from ode_core.specs.model import (
    PRESETS,
    ClassifierSpec,
    Conv1dField,
    Conv2dField,
    ConvStem,
    FieldSpec,
    LinearStem,
    MlpField,
    ModelSpec,
    PresetSpec,
    StemSpec,
    expand_preset,
    model_input_shape,
    model_state_shape,
    parameter_count,
)
from ode_core.specs.portrait import PortraitImpossible, check_portrait_budget, portrait_solvers
from ode_core.specs.solver import DEFAULT_MAX_STEPS, SolverSpec
from ode_core.specs.spec import Spec
from ode_core.specs.training import NAME_PATTERN, ModelName, StepAdaptation, TrainingJobSpec, TrainingSpec

__all__ = [
    "DEFAULT_MAX_STEPS",
    "GRADIENTS",
    "METHODS",
    "NAME_PATTERN",
    "PRESETS",
    "AuditJobSpec",
    "Budget",
    "BudgetExceeded",
    "Cifar10Spec",
    "ClassifierSpec",
    "ConcentricSpheresSpec",
    "Conv1dField",
    "Conv2dField",
    "ConvStem",
    "DatasetSpec",
    "DigitsSpec",
    "EvaluationJobSpec",
    "FieldSpec",
    "GradientFacts",
    "GradientMode",
    "LinearStem",
    "MethodFacts",
    "MethodName",
    "MlpField",
    "MnistSpec",
    "ModelName",
    "ModelSpec",
    "PortraitImpossible",
    "PortraitJobSpec",
    "PresetSpec",
    "SolverSpec",
    "Spec",
    "StemSpec",
    "StepAdaptation",
    "SweepJobSpec",
    "TrainingJobSpec",
    "TrainingSpec",
    "check_gradient",
    "check_portrait_budget",
    "check_solve_budget",
    "check_sweep_budget",
    "check_training_budget",
    "expand_preset",
    "model_input_shape",
    "model_state_shape",
    "parameter_count",
    "portrait_solvers",
    "solve_evaluations",
]
