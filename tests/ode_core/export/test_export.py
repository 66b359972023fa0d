"""Exported files against torchdiffeq, against our own answers, and in a process that does not know this package."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor
from torchdiffeq import odeint

import ode_core
import ode_core.export.export
from ode_core.export import onnx_file
from ode_core.export.agreement import ExportFailed, require_agreement
from ode_core.export.export import ExportUnavailable, export_classifier
from ode_core.models.classifier import Classifier, build_classifier
from ode_core.models.modified_classifier import with_modified_field
from ode_core.models.predictions import NO_LABEL, predict
from ode_core.specs import (
    ClassifierSpec,
    ConcentricSpheresSpec,
    Conv2dField,
    ConvStem,
    DigitsSpec,
    ExportFormat,
    GrowingEllipsesField,
    MlpField,
    ModifiedFieldSpec,
    SolverSpec,
)

RK4 = SolverSpec(method="rk4_38", steps=6)
PLANE = ConcentricSpheresSpec(dimension=2)
FORMATS: list[ExportFormat] = ["onnx", "torch"]


def perceptron() -> Classifier:
    field = MlpField(hidden=[12], activation="tanh", time_dependent=True)
    return build_classifier(ClassifierSpec(field=field, end_time=2.0), PLANE, seed=3)


def images() -> Classifier:
    spec = ClassifierSpec(stem=ConvStem(channels=3), field=Conv2dField(channels=4))
    return build_classifier(spec, DigitsSpec(), seed=5)


def samples_of(model: Classifier, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(number, *model.input_shape, generator=generator).to(model.dtype) / model.input_scale


def in_onnxruntime(data: bytes) -> Callable[[np.ndarray], list[np.ndarray]]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["probabilities", "logits"], {"inputs": inputs})


def in_torch(data: bytes) -> Callable[[np.ndarray], list[np.ndarray]]:
    module = torch.export.load(io.BytesIO(data)).module()
    return lambda inputs: [each.numpy() for each in module(torch.from_numpy(inputs))]


RUNTIMES: dict[str, Callable[[bytes], Callable[[np.ndarray], list[np.ndarray]]]] = {
    "onnx": in_onnxruntime,
    "torch": in_torch,
}


def by_torchdiffeq(model: Classifier, inputs: Tensor, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and logits by another solver library, through the field's plain forward pass."""
    with torch.no_grad():
        z0 = inputs * model.input_scale
        z0 = z0 if model.stem is None else model.stem(z0)
        times = torch.linspace(0.0, model.end_time, steps + 1, dtype=model.dtype)
        logits = model.head(odeint(model.field, z0, times, method="rk4")[-1])
        return torch.softmax(logits, 1).numpy(), logits.numpy()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("build", [perceptron, images])
def test_a_file_gives_what_torchdiffeq_gives_on_the_same_grid_for_batches_of_any_size(
    build: Callable[[], Classifier], format: ExportFormat
) -> None:
    model = build()
    exported = export_classifier(model, RK4, samples_of(model, 5), format)
    run = RUNTIMES[format](exported.data)

    for size in (1, 2, 50):
        inputs = samples_of(model, size)
        probabilities, logits = run(inputs.numpy())
        expected_probabilities, expected_logits = by_torchdiffeq(model, inputs, 6)
        np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(probabilities, expected_probabilities, atol=1e-5)
        ours = predict(model, inputs, RK4).logits.numpy()
        np.testing.assert_allclose(logits, ours, rtol=1e-4, atol=1e-4)
    assert exported.agreement.logits < 1e-4
    assert exported.agreement.labels == exported.agreement.failed == 0


@pytest.mark.parametrize(
    "solver",
    [
        SolverSpec(method="euler", steps=1),
        SolverSpec(method="dopri5", steps=3),
        SolverSpec(method="midpoint", step_size=0.3),
    ],
    ids=["euler", "dopri5", "step_size"],
)
def test_every_explicit_method_and_step_rule_is_written_as_it_is(solver: SolverSpec) -> None:
    model = perceptron().double()
    exported = export_classifier(model, solver, samples_of(model, 4), "torch")

    _, logits = in_torch(exported.data)(samples_of(model, 9).numpy())

    expected = predict(model, samples_of(model, 9), solver).logits.numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-11, atol=1e-11)
    assert exported.description["solver"] == solver.document()


def scaled() -> Classifier:
    model = perceptron()
    model.input_scale = 1 / 3
    return model


def repaired() -> Classifier:
    field = ModifiedFieldSpec(solver=SolverSpec(method="ralston", steps=7), kind="iterates", terms=2)
    return with_modified_field(perceptron(), field)


def ellipses() -> Classifier:
    return build_classifier(ClassifierSpec(field=GrowingEllipsesField()), PLANE, seed=6)


@pytest.mark.parametrize(
    ("build", "solver"),
    [
        (perceptron, SolverSpec(method="rk4", steps=6)),
        (scaled, SolverSpec(method="ralston", steps=7)),
        (repaired, SolverSpec(method="euler", steps=7)),
        (ellipses, SolverSpec(method="rk4", steps=6)),
    ],
    ids=["rk4", "input scale", "modified field", "ellipses"],
)
def test_a_float64_model_keeps_every_digit_of_its_numbers_in_onnx(
    build: Callable[[], Classifier], solver: SolverSpec
) -> None:
    model = build().double()
    exported = export_classifier(model, solver, samples_of(model, 4), "onnx")
    inputs = samples_of(model, 20)

    probabilities, logits = in_onnxruntime(exported.data)(inputs.numpy())

    expected = model.predict(inputs, solver).logits
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(probabilities, torch.softmax(expected, 1).numpy(), rtol=1e-12, atol=1e-12)


def test_the_file_does_not_grow_with_the_steps() -> None:
    model = perceptron()
    few, many = (
        len(export_classifier(model, SolverSpec(method="euler", steps=steps), samples_of(model, 2), "onnx").data)
        for steps in (2, 1000)
    )
    assert many < few + 1000 * 4 + 200  # the times, in float32


def test_a_repaired_model_is_written_with_its_modified_field() -> None:
    field = ModifiedFieldSpec(solver=SolverSpec(method="euler", steps=8), kind="iterates", terms=2)
    model = with_modified_field(perceptron(), field)
    exported = export_classifier(model, SolverSpec(method="midpoint", steps=8), samples_of(model, 4), "onnx")

    inputs = samples_of(model, 20)
    _, logits = in_onnxruntime(exported.data)(inputs.numpy())

    plain = predict(perceptron(), inputs, SolverSpec(method="midpoint", steps=8)).logits.numpy()
    expected = predict(model, inputs, SolverSpec(method="midpoint", steps=8)).logits.numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(logits - plain).max() > 1e-2


@pytest.mark.parametrize("format", FORMATS)
def test_a_solve_that_fails_gives_a_row_of_nan_and_leaves_the_others_alone(format: ExportFormat) -> None:
    model = build_classifier(ClassifierSpec(field=MlpField(hidden=[4], activation="relu")), PLANE, seed=1)
    with torch.no_grad():
        for weights in model.field.parameters():
            weights *= 1e3
    solver = SolverSpec(method="euler", steps=1)
    run = RUNTIMES[format](export_classifier(model, solver, samples_of(model, 2), format).data)
    inputs = samples_of(model, 3)
    inputs[1] *= 1e36
    assert predict(model, inputs, solver).labels[1] == NO_LABEL

    probabilities, logits = run(inputs.numpy())

    assert np.isnan(probabilities).any(1).tolist() == np.isnan(logits).any(1).tolist() == [False, True, False]
    np.testing.assert_allclose(logits[[0, 2]], run(inputs[[0, 2]].numpy())[1], rtol=1e-4)


def test_an_onnx_model_says_what_it_is_and_not_where_it_was_made() -> None:
    model = perceptron()
    exported = export_classifier(model, RK4, samples_of(model, 2), "onnx", about={"model": "spheres", "version": 4})
    proto = onnx.load_model_from_string(exported.data)

    session = onnxruntime.InferenceSession(exported.data, providers=["CPUExecutionProvider"])
    said = json.loads(session.get_modelmeta().custom_metadata_map["odeness"])

    assert said == exported.description
    assert (said["model"], said["version"]) == ("spheres", 4)
    assert said["solver"] == {"method": "rk4_38", "steps": 6}
    assert said["input"] == {"name": "inputs", "shape": ["batch", 2], "type": "float32"}
    assert [(each.name, each.shape) for each in session.get_inputs()] == [("inputs", ["batch", 2])]
    assert [(each.name, each.shape) for each in session.get_outputs()] == [
        ("probabilities", ["batch", 2]),
        ("logits", ["batch", 2]),
    ]
    assert [(each.domain, each.version) for each in proto.opset_import] == [("", said["opset"])]
    assert b"stack_trace" not in exported.data
    assert b".py" not in exported.data


def test_a_torch_program_runs_in_a_process_that_does_not_know_this_package(tmp_path: Path) -> None:
    model = perceptron()
    exported = export_classifier(model, RK4, samples_of(model, 2), "torch", about={"model": "spheres"})
    (tmp_path / "model.pt2").write_bytes(exported.data)
    inputs = samples_of(model, 4)
    script = """
import json, sys, torch
sys.modules["ode_core"] = None  # what an import then finds is an error
said = {"odeness.json": ""}
module = torch.export.load("model.pt2", extra_files=said).module()
inputs = torch.tensor(json.loads(sys.argv[1]))
print(json.dumps([json.loads(said["odeness.json"])["model"], module(inputs)[1].tolist()]))
"""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, json.dumps(inputs.tolist())],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    )

    name, logits = json.loads(answer.stdout)
    assert name == "spheres"
    np.testing.assert_allclose(logits, predict(model, inputs, RK4).logits.numpy(), atol=1e-5)
    assert str(Path(ode_core.__file__).parent).encode() not in exported.data


def test_a_file_with_other_answers_is_an_error() -> None:
    model, other = perceptron(), build_classifier(ClassifierSpec(field=MlpField(hidden=[12])), PLANE, seed=4)
    run = onnx_file.load(export_classifier(other, RK4, samples_of(other, 2), "onnx").data)
    with pytest.raises(ExportFailed, match=r"logits differ by .* in a batch of 1"):
        require_agreement(model, RK4, samples_of(model, 40), run)


def test_a_file_whose_solves_fail_elsewhere_is_an_error() -> None:
    model = perceptron()

    def nothing(inputs: Tensor) -> tuple[Tensor, Tensor]:
        return (torch.full((len(inputs), 2), torch.nan),) * 2

    with pytest.raises(ExportFailed, match="fail for other inputs"):
        require_agreement(model, RK4, samples_of(model, 40), nothing)


def test_float64_that_onnxruntime_does_not_run_is_refused_with_the_remedy() -> None:
    with pytest.raises(ExportFailed, match="export the version as torch, or train it with precision float32"):
        export_classifier(images().double(), RK4, samples_of(images(), 2), "onnx")


def test_without_the_packages_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError("no module", name="onnx")

    monkeypatch.setattr(ode_core.export.export, "import_module", missing)
    with pytest.raises(ExportUnavailable, match=r"onnx is not installed there: install odeness\[export\]"):
        export_classifier(perceptron(), RK4, torch.zeros(1, 2), "onnx")
