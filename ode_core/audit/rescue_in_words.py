"""What the trials of modified fields gave, as sentences with their evidence."""

from collections.abc import Sequence

from ode_core.audit.rescue import OFFERED_AGREEMENT, OFFERED_FROM, Rescue
from ode_core.audit.statistics import clopper_pearson


def given_back(trial: Rescue) -> str:
    """Return which share of the trained predictions a trial gave, with its exact 95 % interval.

    Of samples that were chosen there is no interval: they are no draw from the data.
    """
    kept = round(trial.agreement * trial.samples)
    if trial.agreement_of_all is not None:
        return f"the trained prediction for {kept} of {trial.samples} samples{_in_all(trial)}"
    low, high = clopper_pearson(kept, trial.samples)
    return (
        f"the trained prediction for {kept} of {trial.samples} samples ({trial.agreement:.1%}, 95% interval {low:.1%} "
        f"to {high:.1%})"
    )


def offered_in_words(best: Rescue) -> str:
    """Return what a modified field gives that is offered."""
    return (
        f"Under a converged solver {best.spec.label} gives {given_back(best)}{_won_back(best)}. Whether "
        f"the model with this field is an ODE, an audit of it decides. An evaluation of the field takes "
        f"{best.evaluations_in_field} of the trained field's, a converged solve {best.cost:,.0f} of them."
    )


def refused_in_words(tried: Sequence[Rescue]) -> str:
    """Return why none of the modified fields that were tried is offered."""
    best = max(tried, key=lambda trial: trial.agreement)
    if not best.enough_changed:
        few = f"only {best.changed} of the predictions looked at change: there is too little to give back"
        return f"No modified field is offered: {few}."
    unsettled = "" if best.unsettled == 0 else f"; {best.unsettled} predictions did not settle"
    return (
        f"Of the modified fields that were tried the best, {best.spec.label}, gives the trained prediction for "
        f"{best.agreement:.1%} of the {_tried_on(best)}{_in_all(best)}{_won_back(best)}{unsettled}; it would be "
        f"offered from {OFFERED_AGREEMENT:.0%} of the predictions{_looked_at(best)} or {OFFERED_FROM:.0%} of the "
        f"accuracy lost. The step is too long for these series, which proves no more than that."
    )


def _tried_on(trial: Rescue) -> str:
    return f"{trial.samples} samples drawn at random, after which the trial was stopped" if trial.stopped else "samples"


def _looked_at(trial: Rescue) -> str:
    return "" if trial.agreement_of_all is None else " looked at, and of all,"


def _in_all(trial: Rescue) -> str:
    if trial.agreement_of_all is None:
        return ""
    return (
        f" looked at, among which more change than among all, and for an estimated {trial.agreement_of_all:.1%} of all"
    )


def _won_back(trial: Rescue) -> str:
    if trial.score is None:
        return ""
    return f", and wins back {min(1.0, max(0.0, trial.score)):.1%} of the accuracy that the field itself loses"
