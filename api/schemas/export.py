"""What an export found, and wrote into its file."""

from typing import Any

from pydantic import Field

from api.schemas.answer import Answer, JsonObject
from ode_core.specs import ExportFormat


class TensorDescription(Answer):
    """An input or output of an exported file."""

    name: str = Field(description="its name in an ONNX model; of a torch program, the argument's, or just its place")
    shape: list[str | int] = Field(description="`batch` is any number")
    type: str = Field(description="`float32` or `float64`")


class ExportedFile(Answer):
    """The file of an export."""

    name: str = Field(description="what a download is saved as")
    bytes: int = Field(description="its size")
    sha256: str = Field(description="of its bytes, hexadecimal; also its ETag")


class ExportCheck(Answer):
    """How far the file's answers are from the server's own, on test samples."""

    runtime: str = Field(description="what ran the file, with its version")
    batch_sizes: list[int] = Field(description="the batches compared")
    logits: float = Field(description="largest difference of two logits")
    probabilities: float = Field(description="largest difference of two probabilities")
    labels: int = Field(description="samples of the largest batch whose predicted class differs")
    failed: int = Field(description="samples of the largest batch whose solve fails, in the file as in the server")
    tolerance: float = Field(
        description="the job would have failed at a larger difference of probabilities, or of logits in terms of the "
        "largest logit or 1"
    )


class ExportResult(Answer):
    """What an export wrote; all but `format`, `file` and `check` is inside the file, too."""

    model: str = Field(description="the model exported")
    version: int = Field(description="its version")
    format: ExportFormat
    file: ExportedFile = Field(description="download it at `/v1/jobs/{id}/artifact`")
    solver: JsonObject = Field(description="the solver inside the file")
    steps: int = Field(description="the equal steps it takes")
    end_time: float = Field(description="it solves over `[0, end_time]`")
    train_solver: JsonObject = Field(description="what the version was trained with; of a repair, is served with")
    modified_field: dict[str, Any] | None = Field(description="of a repaired version")
    input: TensorDescription = Field(description="in the data set's own units, as `predict` takes them")
    outputs: list[TensorDescription] = Field(
        description="probabilities and logits; a row of NaN is where a prediction would have failed"
    )
    check: ExportCheck
    odeness: str = Field(description="version of this package")
    torch: str = Field(description="version of torch; a `.pt2` file needs it or a later one")
    opset: int | None = Field(default=None, description="of an ONNX model, of the domain `ai.onnx`")
    onnx: str | None = Field(default=None, description="of an ONNX model: version of onnx")
    onnxscript: str | None = Field(default=None, description="of an ONNX model: version of onnxscript")
