"""Findings as a server would give them, with numbers that are easy to add up."""

from collections.abc import Mapping
from typing import Any

from api.paper.findings import Configuration, FailedSeed, StudyFindings, TrainedSeed

CONVERGED = {"method": "rk4", "steps": 512}


def row(seed: int, train: dict[str, Any], test: dict[str, Any], accuracy: float, flip_rate: float) -> dict[str, Any]:
    return {
        "seed": seed,
        "train_solver": train,
        "test_solver": test,
        "accuracy": accuracy,
        "flip_rate": flip_rate,
        "samples": 1000,
    }


def trained_with(
    steps: int, seeds: Mapping[int, tuple[float, float, float] | None], method: str = "euler"
) -> Configuration:
    """One number of training steps; seed -> accuracy with the same solver, with the converged one, flip rate.

    None: the training diverged.
    """
    own = {"method": method, "steps": steps}
    label = f"{method}-{steps}"
    rows = []
    for seed, numbers in seeds.items():
        if numbers is not None:
            rows += [
                row(seed, own, own, numbers[0], 0.0),
                row(seed, own, {"method": "rk4", "steps": 4}, 0.123, 0.5),
                row(seed, own, CONVERGED, numbers[1], numbers[2]),
            ]
    return Configuration(
        label=label,
        training={"dataset": {"kind": "concentric_spheres"}, "solver": own, "adaptation": None, "gradient": "backprop"},
        seeds=tuple(
            TrainedSeed(label, seed, f"paper.{label}", seed + 1, own, {"test_accuracy": numbers[0]})
            for seed, numbers in seeds.items()
            if numbers is not None
        ),
        failed=tuple(
            FailedSeed(label, seed, "in iteration 3 the loss is not finite")
            for seed, numbers in seeds.items()
            if numbers is None
        ),
        rows=tuple(rows),
    )


def study_of(*configurations: Configuration, **answer: Any) -> StudyFindings:
    times = {"created_at": "2025-01-01T00:00:00Z", "finished_at": "2025-01-01T00:10:00Z"}
    study = {"id": "an-id", "name": "paper.test", "status": "succeeded", "spec": {}, **times, **answer}
    return StudyFindings(study, configurations)
