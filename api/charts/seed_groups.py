"""Which of several model versions are the same training with other seeds."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from api.charts.figure import Row

Result = Mapping[str, Any]
Configuration = tuple[str, str, str]  # model, data set and training solver


def study_rows(results: Sequence[Result]) -> list[Row]:
    """Return result rows of several model versions as the rows of a study.

    Versions of one model, on the same data set and trained with the same solver, are its seeds. Models of other names
    are other trainings, whatever their solvers.

    Args:
        results: result rows, as ``GET /v1/results`` gives them.
    """
    groups: dict[Configuration, dict[str, dict[int, Result]]] = defaultdict(lambda: defaultdict(dict))
    for row in results:
        configuration = (row["model"], _key(row["dataset"]), _key(row["train_solver"]))
        groups[configuration][_key(row["test_solver"])][row["version"]] = row
    labels = _labels(groups)
    rows = [
        _row(labels[configuration], by_version)
        for configuration, by_solver in groups.items()
        for by_version in by_solver.values()
    ]
    return sorted(rows, key=lambda row: (row["train_method"], row["train_steps"] or 0, row["test_steps"] or row["nfe"]))


def _row(label: str, by_version: Mapping[int, Result]) -> Row:
    accuracies = {
        f"version {version}": row["accuracy"] for version, row in by_version.items() if row["accuracy"] is not None
    }
    values = list(accuracies.values())
    first = next(iter(by_version.values()))
    same = ("train_solver", "train_method", "train_steps", "test_solver", "test_method", "test_steps")
    return {name: first[name] for name in same} | {
        "label": label,
        "adaptation": None,  # the solver of a version is what its training ended with
        "nfe": float(np.mean([row["nfe"] for row in by_version.values()])),
        "accuracy": {
            "mean": float(np.mean(values)) if values else None,
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "n": len(values),
            "by_seed": accuracies,
        },
        "failed_seeds": [],
    }


def _labels(configurations: Mapping[Configuration, Mapping[str, Mapping[int, Result]]]) -> dict[Configuration, str]:
    """Return a name for each: its solver, the model where there are several, and a number where that is not enough."""
    several = len({model for model, _, _ in configurations}) > 1
    labels: dict[Configuration, str] = {}
    for configuration, by_solver in configurations.items():
        first = next(iter(next(iter(by_solver.values())).values()))
        label = _solver_label(first["train_solver"])
        label = f"{configuration[0]}, {label}" if several else label
        alike = sum(known == label or known.startswith(f"{label} (") for known in labels.values())
        labels[configuration] = f"{label} ({alike + 1})" if alike else label
    return labels


def _key(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True)


def _solver_label(solver: Mapping[str, Any]) -> str:
    rule = next(
        (f"-{solver['steps']}" if name == "steps" else f" {name}={solver[name]:g}")
        for name in ("steps", "step_size", "rtol")
        if solver.get(name) is not None
    )
    return f"{solver['method']}{rule}"
