import contextlib
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ode_core.datasets.load import load_dataset
from ode_core.specs import (
    GRADIENTS,
    METHODS,
    PRESETS,
    Budget,
    BudgetExceeded,
    Cifar10Spec,
    ClassifierSpec,
    ConcentricSpheresSpec,
    Conv1dField,
    Conv2dField,
    DatasetSpec,
    DigitsSpec,
    EvaluationJobSpec,
    GrowingEllipsesField,
    MlpField,
    MnistSpec,
    SolverSpec,
    SweepJobSpec,
    TrainingJobSpec,
    check_gradient,
    check_solve_budget,
    check_start,
    check_sweep_budget,
    check_training_budget,
    model_input_shape,
    model_state_shape,
    parameter_count,
    solve_evaluations,
)
from ode_core.specs.solver import MAX_FIXED_STEPS
from tests.ode_core.example_job import JOB, job

ANY_DATASET: TypeAdapter[DatasetSpec] = TypeAdapter(DatasetSpec)


def test_specs_load_without_torch_and_numpy():
    code = "import sys, ode_core.specs; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------- solver


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_runs_on_a_fixed_grid(method):
    spec = SolverSpec(method=method, steps=7)
    assert spec.fixed_steps() == 7
    assert not spec.adaptive


@pytest.mark.parametrize("method", list(METHODS))
def test_only_methods_with_an_error_estimate_choose_their_steps(method):
    rule = {"method": method, "rtol": 1e-5, "atol": 1e-6}
    if METHODS[method].adaptive:
        assert SolverSpec.model_validate(rule).adaptive
    else:
        with pytest.raises(ValidationError, match="has no error estimate: give steps"):
            SolverSpec.model_validate(rule)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"steps": 0}, "greater than or equal to 1"),
        ({"steps": MAX_FIXED_STEPS + 1}, "less than or equal to"),
        ({"steps": 2.5}, "integer"),
        ({"step_size": 0.0}, "greater than 0"),
        ({"step_size": -0.1}, "greater than 0"),
        ({"step_size": float("inf")}, "finite"),
        ({"steps": 2, "step_size": 0.5}, "either steps or step_size"),
        ({"steps": 2, "rtol": 1e-3}, "makes a fixed grid"),
        ({"steps": 2, "grid": "truncate"}, "give step_size, or leave grid out"),
        ({"rtol": 1e-3, "atol": 1e-3, "grid": "uniform"}, "give step_size, or leave grid out"),
        ({"steps": 2, "max_steps": 10}, "makes a fixed grid"),
        ({}, "needs steps, or both rtol and atol"),
        ({"rtol": 1e-3}, "needs steps, or both rtol and atol"),
        ({"rtol": 0.0, "atol": 1e-3}, "greater than 0"),
        ({"rtol": float("nan"), "atol": 1e-3}, "finite"),
        ({"rtol": 1e-3, "atol": 1e-3, "max_steps": 0}, "greater than or equal to 1"),
        ({"steps": 2, "stpes": 3}, "Extra inputs"),
    ],
)
def test_a_solver_needs_exactly_one_step_rule_within_bounds(rule, message):
    with pytest.raises(ValidationError, match=message):
        SolverSpec.model_validate({"method": "dopri5", **rule})


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"method": "rk4", "steps": 2, "backend": "torchdiffeq"}, "torchdiffeq does not run rk4: leave backend out"),
        ({"method": "explicit_adams", "steps": 2, "backend": "odeness"}, "odeness does not run explicit_adams"),
        ({"method": "euler", "steps": 2, "backend": "scipy"}, "'odeness' or 'torchdiffeq'"),
        ({"method": "dopri5", "steps": 2, "backend": "torchdiffeq"}, "runs dopri5 with tolerances only: give rtol"),
        (
            {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3, "controller": "pid", "backend": "torchdiffeq"},
            "torchdiffeq has the controller i only",
        ),
        ({"method": "explicit_adams", "rtol": 1e-3, "atol": 1e-3}, "has no error estimate: give steps"),
        ({"method": "rk4", "steps": 2, "max_order": 4}, "max_order belongs to the Adams methods"),
        ({"method": "explicit_adams", "steps": 2, "max_order": 5}, "explicit_adams has order 3 or 4"),
        ({"method": "implicit_adams", "steps": 2, "max_order": 3}, "implicit_adams has order 4 or 5"),
        ({"method": "implicit_adams", "steps": 2, "max_order": 12}, "has order 4 or 5"),
        ({"method": "implicit_adams", "step_size": 0.3, "grid": "truncate"}, "needs equal steps.*use the uniform grid"),
    ],
)
def test_a_backend_and_an_order_must_fit_the_method(rule, message):
    with pytest.raises(ValidationError, match=message):
        SolverSpec.model_validate(rule)


def test_the_first_backend_of_a_method_runs_it_unless_another_is_named():
    assert SolverSpec(method="euler", steps=2).runs_on == "odeness"
    assert SolverSpec(method="euler", steps=2, backend="torchdiffeq").runs_on == "torchdiffeq"
    assert SolverSpec(method="explicit_adams", steps=2).runs_on == "torchdiffeq"


def test_more_steps_keep_backend_and_order():
    spec = SolverSpec(method="implicit_adams", steps=2, backend="torchdiffeq", max_order=5)
    assert spec.with_steps(9) == spec.model_copy(update={"steps": 9})


def test_a_sweep_takes_solvers_of_torchdiffeq():
    solvers = [
        {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5, "backend": "torchdiffeq"},
        {"method": "rk4_38", "step_size": 0.3, "grid": "truncate", "backend": "torchdiffeq"},
        {"method": "implicit_adams", "steps": 16, "max_order": 5},
    ]
    sweep = SweepJobSpec.model_validate({"model": "m", "solvers": solvers})
    assert [solver.runs_on for solver in sweep.solvers] == ["torchdiffeq"] * 3
    assert SweepJobSpec.model_validate_json(sweep.model_dump_json()) == sweep


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(ValidationError, match=r"'euler', 'midpoint'.*'dopri5'"):
        SolverSpec.model_validate({"method": "rk5", "steps": 2})


@pytest.mark.parametrize(("h", "steps"), [(0.5, 2), (0.3, 4), (1 / 3, 3), (0.1, 10), (1.0, 1), (7.0, 1), (0.1001, 10)])
def test_a_step_size_becomes_a_whole_number_of_steps(h, steps):
    assert SolverSpec(method="euler", step_size=h).fixed_steps() == steps


@given(steps=st.integers(1, MAX_FIXED_STEPS), end=st.floats(1e-3, 1e3))
def test_a_step_size_that_divides_the_interval_gives_exactly_that_many_steps(steps, end):
    assert SolverSpec(method="euler", step_size=end / steps).fixed_steps(0.0, end) == steps
    assert SolverSpec(method="euler", step_size=end / steps).fixed_steps(end, 0.0) == steps


@pytest.mark.parametrize("h", [1 / 100_000.3, 1e-6, 1e-300, 5e-324])
def test_a_step_size_with_too_many_steps_is_refused(h):
    with pytest.raises(ValueError, match="the limit is 100000: use a larger step_size"):
        SolverSpec(method="euler", step_size=h).fixed_steps()
    with pytest.raises(ValidationError, match="use a larger step_size"):
        job(solver={"method": "euler", "step_size": h}, adaptation=None)


def test_an_adaptive_solver_has_no_step_count_beforehand():
    with pytest.raises(ValueError, match="chooses its steps itself"):
        SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3).fixed_steps()


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ({"method": "rk4", "steps": 64}, "rk4-64"),
        ({"method": "rk4", "step_size": 0.25}, "rk4 h=0.25"),
        ({"method": "rk4", "step_size": 0.25, "grid": "uniform"}, "rk4 h=0.25"),
        ({"method": "heun", "steps": 2, "backend": "odeness"}, "heun-2"),
        ({"method": "heun", "steps": 2, "backend": "torchdiffeq"}, "heun-2 torchdiffeq"),
        ({"method": "implicit_adams", "steps": 2}, "implicit_adams-2"),
        ({"method": "implicit_adams", "steps": 2, "max_order": 5}, "implicit_adams-2 order=5"),
        ({"method": "rk4", "step_size": 0.25, "grid": "truncate"}, "rk4 h=0.25 truncate"),
        ({"method": "dopri5", "rtol": 1e-5, "atol": 1e-6}, "dopri5 rtol=1e-05 atol=1e-06"),
    ],
)
def test_a_solver_has_a_short_name(spec, label):
    assert SolverSpec.model_validate(spec).label == label


# ---------------------------------------------------------------- data sets


@pytest.mark.parametrize(
    ("spec", "shape", "classes", "largest"),
    [
        (DigitsSpec(), (1, 8, 8), 10, 16),
        (MnistSpec(), (1, 28, 28), 10, 255),
        (Cifar10Spec(), (3, 32, 32), 10, 255),
        (ConcentricSpheresSpec(dimension=7), (7,), 2, 1),
    ],
)
def test_a_data_set_states_its_shape_classes_and_scale(spec, shape, classes, largest):
    assert (spec.input_shape, spec.classes) == (shape, classes)
    assert spec.input_scale == pytest.approx(1 / largest)
    assert ANY_DATASET.validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "imagenet"},
        {},
        {"kind": "concentric_spheres", "dimension": 1},
        {"kind": "concentric_spheres", "train_samples": 0},
        {"kind": "concentric_spheres", "version": 2},
        {"kind": "three_minima", "version": 0},
        {"kind": "three_minima", "test_samples": 3},
        {"kind": "xor", "version": 2},
        {"kind": "xor", "seed": 0},
        {"kind": "digits", "test_fraction": 1.0},
        {"kind": "mnist", "train_limit": 60_001},
        {"kind": "cifar10", "test_limit": 0},
    ],
)
def test_a_data_set_out_of_bounds_is_refused(spec):
    with pytest.raises(ValidationError):
        ANY_DATASET.validate_python(spec)


# ---------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("field", "sample", "shape"),
    [
        (GrowingEllipsesField(), (2,), (2,)),
        (GrowingEllipsesField(), (1, 2), (2,)),
        (MlpField(), (3, 4, 5), (60,)),
        (MlpField(), (7,), (7,)),
        (Conv1dField(), (7,), (1, 7)),
        (Conv1dField(), (3, 4, 5), (3, 20)),
        (Conv2dField(), (3, 4, 5), (3, 4, 5)),
    ],
)
def test_a_model_takes_samples_in_the_shape_of_its_field(field, sample, shape):
    model = ClassifierSpec(field=field)
    assert model_input_shape(model, sample) == model_state_shape(model, sample) == shape


def test_an_image_field_over_points_is_refused_with_the_remedy():
    with pytest.raises(ValidationError, match="use a conv1d or mlp field"):
        job(dataset={"kind": "concentric_spheres"})


@pytest.mark.parametrize(
    ("field", "stem", "message"),
    [
        ({"kind": "mlp"}, {"kind": "conv", "channels": 3}, "needs a linear stem"),
        ({"kind": "conv2d"}, {"kind": "linear", "features": 3}, "needs a conv stem"),
    ],
)
def test_a_stem_that_does_not_fit_its_field_is_refused(field, stem, message):
    with pytest.raises(ValidationError, match=message):
        ClassifierSpec.model_validate({"field": field, "stem": stem})


@pytest.mark.parametrize(
    ("name", "dataset", "parameters"),
    [("sphere2", ConcentricSpheresSpec(), 3207), ("cifar10", Cifar10Spec(), 179_213)],
)
def test_presets_have_the_papers_number_of_parameters(name, dataset, parameters):
    spec = job(dataset=dataset, model={"kind": "preset", "name": name}, adaptation=None)
    assert spec.architecture == PRESETS[name]
    assert parameter_count(spec.architecture, dataset.input_shape, dataset.classes) == parameters


# ---------------------------------------------------------------- jobs


def test_the_issues_training_job_reads_and_writes_unchanged():
    spec = job()
    assert TrainingJobSpec.model_validate_json(spec.model_dump_json()) == spec
    written = json.loads(spec.model_dump_json())
    for key, value in JOB.items():
        if isinstance(value, dict):
            assert {name: written[key][name] for name in value if name != "field"} == {
                name: part for name, part in value.items() if name != "field"
            }
        else:
            assert written[key] == value


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a b", "x" * 101, "../x", "ä"])
def test_a_name_that_is_no_plain_word_is_refused(name):
    with pytest.raises(ValidationError):
        job(name=name)


def test_momentum_for_adam_is_refused():
    with pytest.raises(ValidationError, match="adam has no momentum"):
        job(training={"optimizer": "adam", "momentum": 0.9})
    assert job(training={"optimizer": "sgd", "momentum": 0.9}).training.momentum == 0.9


@pytest.mark.parametrize(
    ("gradient", "solver", "message"),
    [
        (
            "reversible",
            {"method": "rk4", "steps": 4},
            "use asynchronous_leapfrog instead of rk4, or gradient checkpoint",
        ),
        ("adjoint", {"method": "asynchronous_leapfrog", "steps": 4}, "does not know reversible methods"),
        ("bptt", {"method": "rk4", "steps": 4}, "'backprop', 'checkpoint', 'adjoint', 'adjoint_seminorm'"),
    ],
)
def test_a_gradient_that_the_solver_does_not_allow_is_refused_with_what_it_does(gradient, solver, message):
    with pytest.raises(ValidationError, match=message):
        job(gradient=gradient, solver=solver, adaptation=None)


@pytest.mark.parametrize(
    "method", [name for name, facts in METHODS.items() if facts.family in ("explicit", "reversible")]
)
def test_every_method_has_an_exact_gradient_that_needs_less_memory_than_the_graph(method):
    solver = SolverSpec(method=method, steps=4)
    allowed = []
    for mode in GRADIENTS:
        with contextlib.suppress(ValueError):
            check_gradient(mode, solver)
            allowed.append(mode)
    assert allowed[0] == "backprop"
    assert len([mode for mode in allowed if GRADIENTS[mode].exact]) >= 2


def test_specs_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        job().solver.steps = 5


def test_evaluation_jobs_are_told_apart_by_kind():
    adapter: TypeAdapter[EvaluationJobSpec] = TypeAdapter(EvaluationJobSpec)
    sweep = adapter.validate_python(
        {"kind": "sweep", "model": "m", "version": None, "solvers": [{"method": "rk4", "steps": 64}]}
    )
    assert isinstance(sweep, SweepJobSpec)
    assert adapter.validate_python({"kind": "audit", "model": "m", "epsilon": 0.01}).epsilon == 0.01
    assert adapter.validate_python({"kind": "audit", "model": "m"}).mechanism is None
    for wrong in ({"kind": "sweep", "model": "m", "solvers": []}, {"kind": "audit", "model": "m", "epsilon": 1.0}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


@pytest.mark.parametrize(
    ("rule", "default"),
    [
        ({"method": "rk4", "step_size": 0.3}, {"grid": "uniform"}),
        ({"method": "dopri5", "rtol": 1e-3, "atol": 1e-3}, {"controller": "i"}),
        ({"method": "heun", "steps": 2}, {"backend": "odeness"}),
        ({"method": "explicit_adams", "steps": 2}, {"max_order": 4, "backend": "torchdiffeq"}),
    ],
)
def test_a_default_that_is_given_makes_no_other_solver(rule, default):
    short, long = (SolverSpec.model_validate(given) for given in (rule, {**rule, **default}))
    assert short == long
    assert len({short, long}) == 1
    assert short.label == long.label
    assert short.model_dump_json() == long.model_dump_json()


@pytest.mark.parametrize("method", ["asynchronous_leapfrog", "implicit_midpoint", "trapezoid"])
def test_a_method_that_takes_equal_steps_refuses_a_grid_with_a_short_one(method):
    with pytest.raises(ValidationError, match=f"{method} takes equal steps.*use the uniform grid"):
        SolverSpec(method=method, step_size=0.3, grid="truncate")


# ---------------------------------------------------------------- weights from elsewhere


def test_a_training_that_starts_from_the_same_architecture_may_differ_in_everything_else():
    other = job(
        solver={"method": "rk4", "steps": 9},
        adaptation=None,
        training={"learning_rate": 0.5, "seed": 9},
        dataset={"kind": "digits", "split_seed": 3},
        model={"kind": "classifier", "field": {"kind": "conv2d", "channels": 32}, "field_arithmetic": "bfloat16"},
    )
    check_start(job(), other)
    sphere = {"dataset": {"kind": "concentric_spheres"}, "adaptation": None}
    preset = job(model={"kind": "preset", "name": "sphere2"}, **sphere)
    written_out = job(model=preset.architecture.model_dump(), **sphere)
    check_start(preset, written_out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": {"kind": "classifier", "field": {"kind": "conv2d", "channels": 8}}},
            r"architecture .*: model\.field\.channels 8 instead of 32; give",
        ),
        (
            {"model": {"kind": "classifier", "field": {"kind": "mlp", "hidden": [4]}}},
            r'model\.field {"kind": "mlp", .*} instead of {"kind": "conv2d", .*}',
        ),
        (
            {"model": {"kind": "classifier", "field": {"kind": "conv2d", "channels": 32}, "end_time": 2.0}},
            r"version it starts from: model\.end_time 2.0 instead of 1.0; give",
        ),
        ({"dataset": {"kind": "mnist"}}, r"inputs of shape \[1, 28, 28\], that of the version .* \[1, 8, 8\]"),
        ({"training": {"precision": "float64"}}, "precision is float64, that of the version it starts from float32"),
    ],
)
def test_a_training_that_does_not_fit_the_weights_it_starts_from_says_where(change, message):
    with pytest.raises(ValueError, match=message):
        check_start(job(**change), job())


# ---------------------------------------------------------------- budgets


@pytest.mark.parametrize("method", [name for name, facts in METHODS.items() if facts.family == "explicit"])
def test_a_fixed_grid_costs_its_stages_a_step_less_the_one_two_steps_share(method):
    if METHODS[method].family == "reversible":
        # The slope at the start, and one in the middle of every step.
        assert solve_evaluations(SolverSpec(method=method, steps=10), 1.0) == 11
        return
    stages = {"euler": 1, "midpoint": 2, "heun": 2, "ralston": 2, "heun3": 3, "rk4": 4, "rk4_38": 4, "heun_euler": 2}
    stages |= {"fehlberg2": 3, "bosh3": 3, "fehlberg45": 6, "dopri5": 6, "tsit5": 6, "dopri8": 12}
    assert solve_evaluations(SolverSpec(method=method, steps=10), 1.0) == 10 * stages[method]


def test_an_implicit_method_is_budgeted_with_its_usual_iterations_and_in_training_with_its_jacobians():
    facts = METHODS["kvaerno3"]
    assert solve_evaluations(SolverSpec(method="kvaerno3", steps=10), 1.0) == 90 == facts.evaluations(10)
    assert facts.evaluations(10, state_size=8) == 90 + 10 * 4
    assert facts.evaluations(10, state_size=3072) == 90 + 10 * 128
    # With the default limit on steps it fits the default budget, as dopri5 does.
    check_solve_budget(SolverSpec(method="kvaerno3", rtol=1e-3, atol=1e-3), 1.0, Budget().evaluations_per_solve)


def test_a_training_with_an_implicit_method_is_estimated_with_its_jacobians():
    # The state has 64 numbers: 10 steps take 90 evaluations and 320 for Jacobians, as 102.5 steps of rk4 do.
    def multiplications(solver: dict[str, object]) -> float:
        with pytest.raises(BudgetExceeded, match="whole training") as refused:
            check_training_budget(job(solver=solver, adaptation=None), Budget(training_operations=1))
        return float(str(refused.value).split()[0].replace(",", ""))

    implicit = multiplications({"method": "kvaerno3", "steps": 10})
    assert implicit / multiplications({"method": "rk4", "steps": 100}) == pytest.approx(410 / 400)


def test_an_adams_method_costs_two_runge_kutta_steps_and_then_an_evaluation_a_step_or_up_to_five():
    for steps, explicit, implicit in ((1, 4, 4), (2, 8, 8), (3, 9, 13), (10, 16, 48)):
        assert solve_evaluations(SolverSpec(method="explicit_adams", steps=steps), 1.0) == explicit
        assert solve_evaluations(SolverSpec(method="implicit_adams", steps=steps), 1.0) == implicit


def test_an_adaptive_solve_by_torchdiffeq_is_priced_as_it_evaluates_there():
    rule = {"rtol": 1e-3, "atol": 1e-3, "max_steps": 100}
    for method, evaluations in (("fehlberg2", 202), ("bosh3", 302), ("dopri5", 602)):
        assert solve_evaluations(SolverSpec(method=method, backend="torchdiffeq", **rule), 1.0) == evaluations
    assert solve_evaluations(SolverSpec(method="fehlberg2", **rule), 1.0) == 302


def test_an_adaptive_solve_costs_at_most_its_steps_and_two_at_the_start():
    spec = SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3, max_steps=100)
    assert solve_evaluations(spec, 1.0) == 602
    check_solve_budget(spec, 1.0, 602)
    with pytest.raises(BudgetExceeded, match=r"602 evaluations.*exceed the budget of 601: use a smaller max_steps"):
        check_solve_budget(spec, 1.0, 601)


def test_the_default_number_of_steps_of_an_adaptive_solver_is_no_reason_to_refuse_it():
    solver = {"method": "dopri8", "rtol": 1e-5, "atol": 1e-5}
    check_training_budget(job(solver=solver, adaptation=None), Budget())
    check_sweep_budget(SweepJobSpec(model="m", solvers=[solver]), 1.0, Budget())
    given = {**solver, "max_steps": 10_000}
    with pytest.raises(BudgetExceeded, match=r"120,002 evaluations in a solve .*: use a smaller max_steps"):
        check_training_budget(job(solver=given, adaptation=None), Budget())
    with pytest.raises(BudgetExceeded, match=r"120,002 evaluations of dopri8 .*: use a smaller max_steps"):
        check_sweep_budget(SweepJobSpec(model="m", solvers=[given]), 1.0, Budget())


def test_a_sweep_with_an_implicit_method_is_checked_with_its_jacobians():
    sweep = SweepJobSpec(model="m", solvers=[SolverSpec(method="kvaerno3", steps=10)])
    check_sweep_budget(sweep, 1.0, Budget(evaluations_per_solve=130), state_size=8)
    with pytest.raises(BudgetExceeded, match="130 evaluations of kvaerno3-10"):
        check_sweep_budget(sweep, 1.0, Budget(evaluations_per_solve=129), state_size=8)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"parameters": 1000}, "parameters exceed the budget of 1,000: use a smaller model"),
        ({"state_size": 63}, "64 numbers in the state"),
        ({"batch_states": 8191}, "8,192 numbers in a batch"),
        ({"evaluations_per_solve": 499}, "500 evaluations"),
        ({"training_operations": 1e9}, "whole training"),
    ],
)
def test_a_training_job_beyond_its_budget_is_refused_with_the_part_that_is_too_large(budget, message):
    check_training_budget(job(), Budget())
    with pytest.raises(BudgetExceeded, match=message):
        check_training_budget(job(), Budget.model_validate(budget))


def test_a_gradient_that_computes_more_has_a_smaller_budget():
    budget = Budget(training_operations=1e14)
    check_training_budget(job(training={"iterations": 800}), budget)
    with pytest.raises(BudgetExceeded, match="whole training"):
        check_training_budget(job(training={"iterations": 800}, gradient="adjoint_seminorm"), budget)


def test_a_sweep_is_checked_solver_by_solver():
    solvers = [SolverSpec(method="rk4", steps=n) for n in (10, 100)]
    check_sweep_budget(SweepJobSpec(model="m", solvers=solvers), 1.0, Budget(evaluations_per_solve=400))
    with pytest.raises(BudgetExceeded, match="rk4-100"):
        check_sweep_budget(SweepJobSpec(model="m", solvers=solvers), 1.0, Budget(evaluations_per_solve=399))


@pytest.mark.parametrize("mode", [mode for mode in GRADIENTS if mode != "backprop"])
def test_torchdiffeq_and_its_grid_are_differentiated_by_backprop_alone(mode):
    for solver in (
        SolverSpec(method="rk4_38", steps=4, backend="torchdiffeq"),
        SolverSpec(method="rk4", step_size=0.3, grid="truncate"),
    ):
        check_gradient("backprop", solver)
        with pytest.raises(ValueError, match="backprop"):
            check_gradient(mode, solver)


@pytest.mark.parametrize("arithmetic", ["tf32", "bfloat16"])
def test_a_field_in_less_than_float32_is_refused_on_an_implicit_grid_only(arithmetic):
    model = {"kind": "classifier", "field": {"kind": "conv2d"}, "field_arithmetic": arithmetic}
    for solver in ({"method": "trapezoid", "steps": 4}, {"method": "kvaerno3", "step_size": 0.25}):
        with pytest.raises(ValidationError, match=f"{arithmetic} arithmetic of the field can tell: set field_arithm"):
            job(model=model, solver=solver, adaptation=None)
    for solver in ({"method": "kvaerno3", "rtol": 0.01, "atol": 0.01}, {"method": "rk4", "steps": 4}):
        assert job(model=model, solver=solver, adaptation=None).architecture.field_arithmetic == arithmetic


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_the_size_of_the_digits_is_known_without_loading_them(fraction: float) -> None:
    spec = DigitsSpec(test_fraction=fraction)

    assert spec.train_samples == len(load_dataset(spec, None).train_labels)
