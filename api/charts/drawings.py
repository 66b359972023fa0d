"""How each figure of the catalogue is drawn."""

from collections.abc import Callable

from api.charts.adaptation import step_adaptation, tolerance_adaptation
from api.charts.audit import audit_ladder, crossing_map, error_transport
from api.charts.catalogue import STEP_ADAPTATION, TOLERANCE_ADAPTATION
from api.charts.clusters import output_clusters
from api.charts.decision_regions import decision_regions
from api.charts.error_fan import error_fan
from api.charts.figure import Figure
from api.charts.gradient_comparison import training_progress
from api.charts.material import Audit, Material, NothingToDraw, Source, Training
from api.charts.seed_groups import study_rows
from api.charts.solver_choice import agreement_against_cost
from api.charts.study_accuracy import accuracy_of_study
from api.charts.test_steps import accuracy_against_steps
from api.charts.trajectories import trajectories_with_crossings
from api.charts.vector_field import vector_field


def _accuracy_of_results(material: Material) -> Figure:
    """Draw one model version by test method; of several, a curve for each training configuration."""
    versions = {(row["model"], row["version"]) for row in material.results}
    if len(versions) > 1:
        return accuracy_of_study(study_rows(material.results), material.x)
    rows = [dict(row) | {"model": f"{row['model']} version {row['version']}"} for row in material.results]
    return accuracy_against_steps(rows, None, "Accuracy on held-out samples under other solvers", material.x)


def _accuracy_of_study(material: Material) -> Figure:
    if not material.study:
        raise NothingToDraw(
            "no model of the study has been tested yet: wait for the first; a study without a sweep tests none, submit "
            "one with a sweep"
        )
    return accuracy_of_study(material.study, material.x)


def _training_with(metrics: frozenset[str], material: Material) -> Training:
    """Return the first training with the metrics, as that of another seed may have diverged at once."""
    for training in material.trainings:
        if all(training.series.get(name) for name in metrics):
            return training
    raise NothingToDraw(f"no training has a point of {', '.join(sorted(metrics))} yet")


def _audit(material: Material) -> Audit:
    if material.audit is None:
        raise NothingToDraw("this version has not been audited: submit an audit of it")
    return material.audit


def _step_adaptation(material: Material) -> Figure:
    training = _training_with(STEP_ADAPTATION, material)
    return step_adaptation(training.series, training.label, training.adaptation)


def _tolerance_adaptation(material: Material) -> Figure:
    training = _training_with(TOLERANCE_ADAPTATION, material)
    return tolerance_adaptation(training.series, training.label, training.adaptation)


def _solver_choice(material: Material) -> Figure:
    choice = _audit(material).get("solver_choice")
    if choice is None:
        raise NothingToDraw("this audit compared no solvers to serve the model with: audit it again")
    return agreement_against_cost(choice)


DRAWINGS: dict[tuple[Source, str], Callable[[Material], Figure]] = {
    ("results", "accuracy"): _accuracy_of_results,
    ("study", "accuracy"): _accuracy_of_study,
    ("portrait", "trajectories"): lambda material: trajectories_with_crossings(material.portraits),
    ("portrait", "vector-field"): lambda material: vector_field(material.portraits[0]),
    ("portrait", "error-fan"): lambda material: error_fan(material.portraits[0]),
    ("portrait", "clusters"): lambda material: output_clusters(material.portraits[0]),
    ("portrait", "decision-regions"): lambda material: decision_regions(material.portraits[0]),
    ("audit", "solver-choice"): _solver_choice,
    ("training", "training"): lambda material: training_progress(material.trainings),
    ("training", "step-adaptation"): _step_adaptation,
    ("training", "tolerance-adaptation"): _tolerance_adaptation,
    ("audit", "audit-ladder"): lambda material: audit_ladder(_audit(material)),
    ("audit", "crossing-map"): lambda material: crossing_map(_audit(material)),
    ("audit", "error-transport"): lambda material: error_transport(_audit(material)),
}
"""By source and name; each raises ``NothingToDraw``."""
