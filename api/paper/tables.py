"""The tables of a preset's findings."""

from api.paper.adaptation_table import adaptation_table
from api.paper.audit_table import audit_table
from api.paper.findings import Findings, StudyFindings
from api.paper.gradient_table import gradient_table
from api.paper.mechanism_table import mechanism_tables
from api.paper.portrait_tables import crossings_table, fan_accuracy_table, fan_table
from api.paper.preset import Preset
from api.paper.search_table import search_tables
from api.paper.table import Table
from api.paper.training_grid import critical_table, trained_steps, training_grid_table


def tables_of(preset: Preset, findings: Findings) -> list[Table]:
    """Return what a preset shows, the most important table first; seeds without a model and failed jobs come last."""
    match preset.table:
        case "studies":
            tables = [table for study in findings.studies for table in _of_study(preset, study)]
        case "gradients":
            tables = [gradient_table(findings)]
        case "trajectories":
            tables = [crossings_table(findings), *map(training_grid_table, findings.studies)]
        case "fan":
            tables = [fan_table(findings), fan_accuracy_table(findings)]
        case "audits":
            tables = [audit_table(findings), *map(training_grid_table, findings.studies)]
        case "mechanism":
            tables = [*mechanism_tables(findings), *map(training_grid_table, findings.studies)]
    return [*tables, *_failed_seeds(findings), *_failed_jobs(findings)]


def _of_study(preset: Preset, study: StudyFindings) -> list[Table]:
    if study.study["spec"].get("search") is not None:
        return search_tables(study, preset.numbers)
    if any(one.training.get("adaptation") is not None for one in study.configurations):
        return [adaptation_table(study, preset.numbers)]
    trained = trained_steps(study.configurations)
    return [training_grid_table(study), *([critical_table(trained, preset.numbers)] if trained else [])]


def _failed_seeds(findings: Findings) -> list[Table]:
    if not findings.failed:
        return []
    rows = tuple((one.label, str(one.seed), one.reason) for one in findings.failed)
    return [Table("Seeds without a model", ("trained with", "seed", "reason"), rows)]


def _failed_jobs(findings: Findings) -> list[Table]:
    if not findings.failed_jobs:
        return []
    rows = tuple((job.kind, job.label, str(job.seed), job.reason) for job in findings.failed_jobs)
    return [Table("Jobs without a result", ("job", "trained with", "seed", "reason"), rows)]
