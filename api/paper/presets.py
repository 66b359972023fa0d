"""The presets, as data. Every setting that a run of ``odeness paper`` depends on is here.

The figure numbers of the paper differ between its versions, so a preset is named by what it shows.

Times are for two cores with one worker process; they come from the cost of an iteration, measured on one core: on
Sphere2 about 0.2 ms a step of Euler's method and seed in a stack of five, on CIFAR-10 0.55 s a step and batch of 64.
"""

from typing import Any

from api.paper.preset import FollowUp, PaperNumbers, Preset

CONVERGED_STEPS = 512
FAN_END_TIME = 4.0
# The two step sizes of the fan, 10^-2.5 and 10^-3.5, as numbers of steps over [0, 4].
FAN_COARSE, FAN_FINE = (round(FAN_END_TIME / 10**exponent) for exponent in (-2.5, -3.5))

SPHERE2_NUMBERS = PaperNumbers((65, 129), "98.7 ± 1.0", 100.5, "98.9 ± 0.6")
CIFAR10_NUMBERS = PaperNumbers((17, 33), "54.7 ± 0.3", 21.9, "55.0 ± 0.8")

TALK = {"kind": "step", "rule": "talk"}
LOOK_AHEAD = {"kind": "step", "rule": "look_ahead"}
CERTIFIED = {"kind": "certified"}


def _powers_of_two(last: int) -> list[int]:
    return [2**exponent for exponent in range(last.bit_length())]


# 10 step counts of three methods: 7,161 evaluations of the field for each test sample and model.
LADDER = {"methods": ["euler", "midpoint", "rk4"], "steps": _powers_of_two(CONVERGED_STEPS)}
QUICK_LADDER = {"methods": ["euler", "midpoint", "rk4"], "steps": _powers_of_two(64)}

SPHERE2 = {"dataset": {"kind": "concentric_spheres", "dimension": 2}, "model": {"kind": "preset", "name": "sphere2"}}
PAPER_TRAINING = {"iterations": 10_000, "batch_size": 128, "optimizer": "adam", "learning_rate": 1e-4}
# Too short for the paper's learning rate.
QUICK_TRAINING = {"iterations": 600, "batch_size": 128, "optimizer": "adam", "learning_rate": 2e-3}


def _sphere2(training: dict[str, Any], sweep: dict[str, Any], seeds: int, **rest: Any) -> dict[str, Any]:
    gradient = rest.pop("gradient", "backprop")
    base = SPHERE2 | {"training": dict(training), "gradient": gradient}
    return {"base": base, "sweep": dict(sweep), "seeds": seeds, **rest}


def _sphere2_grid(method: str, last: int, quick_steps: list[int], **words: Any) -> Preset:
    return Preset(
        name=f"{method}-grid",
        table="studies",
        full=(_sphere2(PAPER_TRAINING, LADDER, 5, train={"methods": [method], "steps": _powers_of_two(last)}),),
        quick=(_sphere2(QUICK_TRAINING, QUICK_LADDER, 2, train={"methods": [method], "steps": quick_steps}),),
        **words,
    )


EULER_GRID = _sphere2_grid(
    "euler",
    128,
    [2, 8, 32],
    aliases=("figure-4a",),
    shows="Sphere2 trained with Euler, 1 to 128 steps, tested with euler, midpoint and rk4 up to 512 steps: from which "
    "step on a model is an ODE",
    paper_says="critical between 65 and 129 function evaluations an iteration; grid accuracy 98.7 ± 1.0 %",
    numbers=SPHERE2_NUMBERS,
    time="30 min",
    quick_time="30 s",
)
RK4_GRID = _sphere2_grid(
    "rk4",
    32,
    [1, 4, 16],
    shows="Sphere2 trained with rk4, 1 to 32 steps, tested like euler-grid",
    paper_says="a figure without numbers in the text",
    time="30 min",
    quick_time="60 s",
)
MIDPOINT_GRID = _sphere2_grid(
    "midpoint",
    32,
    [1, 4, 16],
    shows="Sphere2 trained with midpoint, 1 to 32 steps, tested like euler-grid",
    paper_says="a figure without numbers in the text",
    time="15 min",
    quick_time="40 s",
)

CRITICAL_STEP = Preset(
    name="critical-step",
    shows="the critical number of Euler steps on Sphere2, found by bisection instead of the whole grid, and the runs "
    "that saves",
    paper_says="between 65 and 129 function evaluations an iteration",
    numbers=SPHERE2_NUMBERS,
    time="30 min",
    quick_time="30 s",
    table="studies",
    full=(
        _sphere2(
            PAPER_TRAINING,
            {"methods": ["euler", "rk4"], "steps": _powers_of_two(CONVERGED_STEPS)},
            5,
            search={
                "method": "euler",
                "lowest": 1,
                "highest": 256,
                "criterion": "accuracy",
                "threshold": 0.1,
                "test": {"method": "rk4", "steps": CONVERGED_STEPS},
                "confirm": True,
            },
        ),
    ),
    quick=(
        _sphere2(
            QUICK_TRAINING,
            {"methods": ["euler", "rk4"], "steps": _powers_of_two(64)},
            2,
            search={"lowest": 1, "highest": 32, "test": {"method": "rk4", "steps": 64}},
        ),
    ),
)

STEP_ADAPTATION = Preset(
    name="step-adaptation",
    shows="Sphere2 trained with the step adapted by the talk's rule, the reference code's look-ahead and our certified "
    "rule (which begins at Euler-16), and what a converged solver says of each model",
    paper_says="100.5 function evaluations an iteration on average; accuracy 98.9 ± 0.6 %",
    numbers=SPHERE2_NUMBERS,
    time="40 min",
    quick_time="20 s",
    table="studies",
    full=(
        _sphere2(
            PAPER_TRAINING,
            LADDER,
            5,
            train={"methods": ["euler"], "steps": [16]},
            adaptations=[TALK, LOOK_AHEAD, CERTIFIED],
        ),
    ),
    quick=(
        _sphere2(
            QUICK_TRAINING | {"iterations": 300},
            QUICK_LADDER,
            1,
            train={"methods": ["euler"], "steps": [16]},
            adaptations=[
                TALK | {"max_steps": 64},
                LOOK_AHEAD | {"max_steps": 64},
                CERTIFIED | {"max_steps": 64},
            ],
        ),
    ),
)

_TOLERANCE_LADDER = LADDER | {
    "solvers": [{"method": "dopri5", "rtol": 10.0**-digits, "atol": 10.0**-digits} for digits in range(2, 9)]
}
TOLERANCE_ADAPTATION = Preset(
    name="tolerance-adaptation",
    shows="Sphere2 trained with Fehlberg 2(1) and dopri5 from tolerance 1e-6 on, the tolerance adapted",
    paper_says="a figure without numbers in the text",
    time="80 min",
    quick_time="60 s",
    table="studies",
    full=(
        _sphere2(
            PAPER_TRAINING,
            _TOLERANCE_LADDER,
            5,
            train={"methods": ["fehlberg2", "dopri5"], "tolerances": [1e-6]},
            adaptations=[{"kind": "tolerance"}],
        ),
    ),
    quick=(
        _sphere2(
            QUICK_TRAINING | {"iterations": 200},
            QUICK_LADDER,
            1,
            train={"methods": ["fehlberg2", "dopri5"], "tolerances": [1e-6]},
            adaptations=[{"kind": "tolerance"}],
        ),
    ),
)


def _gradient_studies(training: dict[str, Any], seeds: int, steps: int, converged: int) -> tuple[dict[str, Any], ...]:
    return tuple(
        _sphere2(
            training,
            {"methods": ["euler", "rk4"], "steps": sorted({steps, converged})},
            seeds,
            name=gradient,
            gradient=gradient,
            train={"solvers": [{"method": "euler", "steps": steps}, {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5}]},
        )
        for gradient in ("backprop", "checkpoint", "adjoint")
    )


GRADIENTS = Preset(
    name="gradients",
    shows="Sphere2 trained with backpropagation, checkpoints and the adjoint equation, with Euler-64 and dopri5: "
    "accuracy and time",
    paper_says="the run with the adjoint is a figure without numbers in the text",
    time="40 min",
    quick_time="30 s",
    table="gradients",
    full=_gradient_studies(PAPER_TRAINING | {"iterations": 3000, "learning_rate": 1e-3}, 3, 64, CONVERGED_STEPS),
    quick=_gradient_studies(QUICK_TRAINING | {"iterations": 60}, 1, 16, 64),
    accuracy_charts=False,
    compares_trainings=True,
)

TRAJECTORIES = Preset(
    name="trajectories",
    shows="Sphere2 trained with 2 and with 256 Euler steps: trajectories with their crossings, vector field, clusters "
    "and decision regions at h and h/2",
    paper_says="two pictures",
    time="20 min",
    quick_time="90 s",
    table="trajectories",
    full=(_sphere2(PAPER_TRAINING, LADDER, 1, train={"methods": ["euler"], "steps": [2, 256]}),),
    quick=(_sphere2(QUICK_TRAINING, QUICK_LADDER, 1, train={"methods": ["euler"], "steps": [2, 64]}),),
    follow_ups=(FollowUp({"kind": "portrait"}, of="first seeds"),),
    portrait_charts=("trajectories", "vector-field", "clusters", "decision-regions"),
)


def _fan_study(iterations: int, learning_rate: float) -> dict[str, Any]:
    solvers = [{"method": "euler", "steps": steps} for steps in (FAN_COARSE, FAN_FINE)]
    return {
        "base": {
            "dataset": {"kind": "xor"},
            "model": {"kind": "preset", "name": "xor_fan"},
            "training": {
                "iterations": iterations,
                "batch_size": 4,
                "learning_rate": learning_rate,
                "precision": "float64",
            },
        },
        "train": {"solvers": solvers},
        "sweep": {"solvers": [*solvers, {"method": "rk4", "steps": 4096}]},
        "seeds": 1,
    }


XOR_FAN = Preset(
    name="xor-fan",
    shows="XOR under a fixed field with Euler steps of 10^-2.5 and 10^-3.5: the errors spread like a fan until a line "
    "separates the classes, which no line does for the exact flow",
    paper_says="separable with the coarse step, not with the fine one. With constants that show the paper's effect the "
    "relative margins are +0.42, -0.32, and -0.38 for the exact flow",
    time="4 min",
    quick_time="60 s",
    table="fan",
    full=(_fan_study(300, 0.1),),
    quick=(_fan_study(30, 0.3),),
    follow_ups=(
        FollowUp({"kind": "portrait", "finer": {"method": "euler", "steps": FAN_FINE}, "samples": 4}, of="first model"),
    ),
    portrait_charts=("error-fan", "clusters"),
)


def _three_minima(training: dict[str, Any], seeds: int, steps: int, sweep: dict[str, Any]) -> dict[str, Any]:
    return {
        "base": {
            "dataset": {"kind": "three_minima"},
            "model": {"kind": "preset", "name": "sphere2"},
            "training": training,
        },
        "train": {"solvers": [{"method": "euler", "steps": 2}, {"method": "rk4", "steps": steps}]},
        "sweep": sweep,
        "seeds": seeds,
    }


THREE_MINIMA = Preset(
    name="three-minima",
    shows="the positive control: labels that come from a flow, learned with rk4-32, pass the audit; learned with "
    "Euler-2 they do not",
    paper_says="the data set whose labels a flow can give; no numbers in the text",
    time="20 min",
    quick_time="50 s",
    table="audits",
    full=(_three_minima(PAPER_TRAINING | {"learning_rate": 1e-3}, 3, 32, LADDER),),
    quick=(_three_minima(QUICK_TRAINING, 1, 16, QUICK_LADDER),),
    follow_ups=(FollowUp({"kind": "audit", "epsilon": 0.01, "mechanism": False}, of="every seed"),),
)

# Few test solvers: the audit has a reference and a ladder of its own.
MECHANISM_LADDER = {"methods": ["euler", "rk4"], "steps": [2, 4, 8, 16, 32, 64, 128, CONVERGED_STEPS]}
MECHANISM = Preset(
    name="mechanism",
    shows="why Sphere2, trained with 2 to 128 Euler steps, is no ODE: trajectories cross where steps are long, errors "
    "add up where they are short; and where the modified field gives the trained predictions back",
    paper_says="both reasons are named and not told apart",
    time="60 min",
    quick_time="90 s",
    table="mechanism",
    full=(
        _sphere2(
            PAPER_TRAINING,
            MECHANISM_LADDER,
            5,
            train={"methods": ["euler"], "steps": [2, 4, 8, 16, 32, 64, 128]},
        ),
    ),
    quick=(_sphere2(QUICK_TRAINING, QUICK_LADDER, 1, train={"methods": ["euler"], "steps": [2, 16]}),),
    follow_ups=(FollowUp({"kind": "audit", "epsilon": 0.01, "mechanism": True}, of="every seed"),),
)


def _images(
    dataset: dict[str, Any],
    model: dict[str, Any],
    training: dict[str, Any],
    *,
    seeds: int,
    highest: int,
    adaptations: list[dict[str, Any]],
    start: int,
) -> tuple[dict[str, Any], ...]:
    """Return a search for the critical step up to ``highest`` steps, and adapted ones from ``start`` on."""
    base = {"dataset": dataset, "model": model, "training": training}
    sweep = {"methods": ["euler", "rk4"], "steps": _powers_of_two(2 * highest)}
    search = {"lowest": 1, "highest": highest, "test": {"method": "rk4", "steps": 2 * highest}}
    return (
        {"name": "search", "base": base, "search": search, "sweep": sweep, "seeds": seeds},
        {
            "name": "adaptation",
            "base": base,
            "train": {"methods": ["euler"], "steps": [start]},
            "adaptations": adaptations,
            "sweep": sweep,
            "seeds": seeds,
        },
    )


def _conv2d(channels: int) -> dict[str, Any]:
    return {"kind": "classifier", "field": {"kind": "conv2d", "channels": channels}}


DIGITS = Preset(
    name="digits",
    shows="8x8 handwritten digits (no download), 32 channels, 300 iterations: critical step and adaptation",
    paper_says="not in the paper",
    time="25 min",
    quick_time="10 s",
    table="studies",
    full=_images(
        {"kind": "digits"},
        _conv2d(32),
        {"iterations": 300, "batch_size": 128, "learning_rate": 2e-3},
        seeds=3,
        highest=32,
        # Often and strictly: of 300 iterations the paper's own settings make six checks.
        adaptations=[
            TALK | {"interval": 10, "threshold": 0.03, "max_steps": 64},
            CERTIFIED | {"interval": 25, "max_steps": 64},
        ],
        start=4,
    ),
    quick=_images(
        {"kind": "digits"},
        _conv2d(8),
        {"iterations": 60, "batch_size": 64, "learning_rate": 5e-3},
        seeds=1,
        highest=8,
        adaptations=[TALK | {"interval": 10, "max_steps": 8}],
        start=2,
    ),
)

MNIST = Preset(
    name="mnist",
    shows="MNIST, 4,000 images for training and 500 for tests, 16 channels, 300 iterations of 64: critical step and "
    "adaptation. The server needs its files (ODENESS_DATASETS_DIR)",
    paper_says="not in the paper",
    time="25 min",
    quick_time="15 s",
    table="studies",
    full=_images(
        {"kind": "mnist", "train_limit": 4000, "test_limit": 500},
        _conv2d(16),
        {"iterations": 300, "batch_size": 64, "learning_rate": 2e-3},
        seeds=2,
        highest=16,
        adaptations=[TALK | {"interval": 10, "threshold": 0.03, "max_steps": 32}],
        start=4,
    ),
    quick=_images(
        {"kind": "mnist", "train_limit": 500, "test_limit": 100},
        _conv2d(8),
        {"iterations": 30, "batch_size": 32, "learning_rate": 5e-3},
        seeds=1,
        highest=4,
        adaptations=[TALK | {"interval": 10, "max_steps": 4}],
        start=2,
    ),
)


def _cifar10(
    limits: dict[str, int],
    training: dict[str, Any],
    steps: list[int],
    adaptation: dict[str, Any],
    *,
    finest: int,
    seeds: int,
) -> tuple[dict[str, Any], ...]:
    base = {
        "dataset": {"kind": "cifar10"} | limits,
        "model": {"kind": "preset", "name": "cifar10"},
        "training": training,
    }
    sweep = {"methods": ["euler", "rk4"], "steps": _powers_of_two(finest)}
    return (
        {
            "name": "grid",
            "base": base,
            "train": {"methods": ["euler"], "steps": steps},
            "sweep": sweep,
            "seeds": seeds,
        },
        {
            "name": "adaptation",
            "base": base,
            "train": {"methods": ["euler"], "steps": steps[-1:]},
            "adaptations": [adaptation],
            "sweep": sweep,
            "seeds": seeds,
        },
    )


CIFAR10 = Preset(
    name="cifar10",
    shows="CIFAR-10 at a size for CPUs: the paper's model with all its 128 channels, 2,000 images, 150 iterations of "
    "64, one seed. The server needs its files (ODENESS_DATASETS_DIR)",
    paper_says="in full size: critical between 17 and 33 function evaluations, 54.7 ± 0.3 %; adaptation 21.9 and "
    "55.0 ± 0.8 %",
    numbers=CIFAR10_NUMBERS,
    time="40 min",
    quick_time="60 s",
    table="studies",
    full=_cifar10(
        {"train_limit": 2000, "test_limit": 200},
        {"iterations": 150, "batch_size": 64, "learning_rate": 1e-3},
        [1, 2, 8],
        TALK | {"interval": 10, "max_steps": 16},
        finest=16,
        seeds=1,
    ),
    quick=_cifar10(
        {"train_limit": 64, "test_limit": 32},
        {"iterations": 5, "batch_size": 32, "learning_rate": 1e-3},
        [1, 2],
        TALK | {"interval": 2, "max_steps": 4},
        finest=4,
        seeds=1,
    ),
    hint="the paper's size, on a server with a GPU: odeness paper cifar10-full --url http://...",
)

# 153 million multiplications an evaluation and image. Grid and adaptation of five seeds come to about 1.5e18 floating
# point operations, forward and backward: about 20 hours at 20 TFLOP/s. The ceiling keeps the adaptation in the server's
# budget of operations (ODENESS_BUDGET__TRAINING_OPERATIONS).
CIFAR10_FULL = Preset(
    name="cifar10-full",
    shows="the paper's row for CIFAR-10: all images, batch 256, 7,800 iterations, Euler 8, 16, 32 and 64 steps and "
    "adaptation; for a server with a GPU",
    paper_says="critical between 17 and 33 function evaluations, 54.7 ± 0.3 %; adaptation 21.9 and 55.0 ± 0.8 %",
    numbers=CIFAR10_NUMBERS,
    time="months (a GPU: a day)",
    quick_time="60 s",
    table="studies",
    full=_cifar10(
        {},
        {"iterations": 7800, "batch_size": 256, "learning_rate": 1e-3},
        [8, 16, 32, 64],
        TALK | {"max_steps": 100},
        finest=128,
        seeds=5,
    ),
    quick=CIFAR10.quick,
)

PRESETS: tuple[Preset, ...] = (
    EULER_GRID,
    RK4_GRID,
    MIDPOINT_GRID,
    CRITICAL_STEP,
    STEP_ADAPTATION,
    TOLERANCE_ADAPTATION,
    GRADIENTS,
    TRAJECTORIES,
    XOR_FAN,
    THREE_MINIMA,
    MECHANISM,
    DIGITS,
    MNIST,
    CIFAR10,
    CIFAR10_FULL,
)
