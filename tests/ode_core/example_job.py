from ode_core.specs import TrainingJobSpec

# The training job of the first issue, word for word.
JOB = {
    "name": "digits-euler2",
    "dataset": {"kind": "digits"},
    "model": {"kind": "classifier", "field": {"kind": "conv2d", "channels": 32}},
    "solver": {"method": "euler", "steps": 2},
    "training": {"iterations": 600, "batch_size": 128, "optimizer": "adam", "learning_rate": 0.001, "seed": 0},
    "adaptation": {"kind": "step", "rule": "talk", "interval": 50, "threshold": 0.1},
    "gradient": "backprop",
}


def job(**changes: object) -> TrainingJobSpec:
    return TrainingJobSpec.model_validate({**JOB, **changes})
