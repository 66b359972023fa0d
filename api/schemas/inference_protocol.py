"""What the Open Inference Protocol's operations take and answer, for the description in OpenAPI and for short answers.

Infer requests and their answers are read and written in ``api.inference_protocol`` without pydantic, because they are
mostly numbers.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.inference_protocol.signature import (
    CERTIFICATE_OUTPUTS,
    INPUT,
    OUTPUTS,
    TRAJECTORY,
    Signature,
    TensorFacts,
)
from api.inference_protocol.statistics import Durations, VersionStatistics
from api.inference_protocol.tensors import DATATYPES
from api.schemas.answer import Answer, JsonObject
from store.models import ModelVersion

PLATFORM = "odeness"
Parameters = dict[str, str | int | float | bool]


class ProtocolError(Answer):
    """An error of the Open Inference Protocol."""

    error: str = Field(description="what is wrong, and what to do about it")


class ServerMetadata(Answer):
    """What the server is."""

    name: str
    version: str
    extensions: list[str] = Field(description="of the protocol, by the names that Triton gave them")


class ServerLive(Answer):
    """Whether the server runs."""

    live: bool


class ServerReady(Answer):
    """Whether the server can predict."""

    ready: bool


class ModelReady(Answer):
    """Whether a model can predict."""

    name: str
    ready: bool


class TensorMetadata(Answer):
    """An input or output."""

    name: str
    datatype: str = Field(description=", ".join(DATATYPES))
    shape: list[int] = Field(description="-1: as many samples as the request has")

    @classmethod
    def of(cls, facts: TensorFacts) -> "TensorMetadata":
        """Return the answer about an input or output."""
        return cls(name=facts.name, datatype=facts.datatype, shape=list(facts.shape))


class ModelMetadata(Answer):
    """A model version's tensors."""

    name: str
    versions: list[str] = Field(description="all that can be asked for")
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: Parameters = Field(description="`version`: the one described; `solver`: the one it predicts with")

    @classmethod
    def of(cls, version: ModelVersion, numbers: Sequence[int], solver: str) -> "ModelMetadata":
        """Return the metadata of a version; ``numbers`` are those of all versions of its model."""
        signature = Signature.of(version)
        return cls(
            name=version.model,
            versions=[str(number) for number in numbers],
            platform=PLATFORM,
            inputs=[TensorMetadata.of(facts) for facts in signature.inputs],
            outputs=[TensorMetadata.of(facts) for facts in signature.outputs],
            parameters={"version": str(version.version), "solver": solver},
        )


class Reshape(Answer):
    """The shape of one sample's part of a tensor, where `dims` cannot say it."""

    shape: list[int]


class ConfiguredTensor(Answer):
    """An input or output of one sample."""

    name: str
    data_type: str = Field(description="TYPE_ and the datatype; TYPE_STRING for BYTES")
    dims: list[int] = Field(
        description="without the number of samples; [1] for a single value, as it must not be empty"
    )
    reshape: Reshape | None = Field(default=None, description="only of a single value: its shape is empty")

    @classmethod
    def of(cls, facts: TensorFacts) -> "ConfiguredTensor":
        """Return the answer about an input or output."""
        kind = "STRING" if facts.datatype == "BYTES" else facts.datatype
        dims = list(facts.shape[1:])
        reshape = None if dims else Reshape(shape=dims)
        return cls(name=facts.name, data_type=f"TYPE_{kind}", dims=dims or [1], reshape=reshape)


class ConfiguredText(Answer):
    """A parameter's value."""

    string_value: str


class ModelConfig(Answer):
    """A model version's configuration, in Triton's form."""

    name: str
    platform: str
    backend: str
    version_policy: JsonObject = Field(description="all versions are served")
    max_batch_size: int = Field(description="samples in one request, at most")
    input: list[ConfiguredTensor]
    output: list[ConfiguredTensor]
    parameters: dict[str, ConfiguredText] = Field(description="`version` and `solver`, as in the metadata")

    @classmethod
    def of(cls, version: ModelVersion, most_samples: int, solver: str) -> "ModelConfig":
        """Return the configuration of a version."""
        signature = Signature.of(version)
        return cls(
            name=version.model,
            platform=PLATFORM,
            backend=PLATFORM,
            version_policy={"all": {}},
            max_batch_size=most_samples,
            input=[ConfiguredTensor.of(facts) for facts in signature.inputs],
            output=[ConfiguredTensor.of(facts) for facts in signature.outputs],
            parameters={
                "version": ConfiguredText(string_value=str(version.version)),
                "solver": ConfiguredText(string_value=solver),
            },
        )


class DurationsAnswer(Answer):
    """How often, and how long together."""

    count: int
    ns: int

    @classmethod
    def of(cls, durations: Durations) -> "DurationsAnswer":
        """Return the answer about durations."""
        return cls(count=durations.count, ns=durations.ns)


class InferenceStats(Answer):
    """How long the parts of requests took; of those computed together each counts the whole batch's time."""

    success: DurationsAnswer = Field(description="whole requests that were answered")
    fail: DurationsAnswer = Field(description="requests that were understood, but refused or not computed")
    queue: DurationsAnswer = Field(description="waiting for the model")
    compute_input: DurationsAnswer = Field(description="reading and checking")
    compute_infer: DurationsAnswer = Field(description="predicting, with the rest of the batch")
    compute_output: DurationsAnswer = Field(description="writing the answer")
    cache_hit: DurationsAnswer = Field(description="always 0: no answer is kept")
    cache_miss: DurationsAnswer = Field(description="always 0")


class BatchStats(Answer):
    """How often a batch of so many rows was computed, and how long that took."""

    batch_size: int = Field(description="rows, those of other requests and of /v1 among them")
    compute_input: DurationsAnswer = Field(description="always 0: each request is read by itself")
    compute_infer: DurationsAnswer = Field(description="computing the batch, once for all its requests")
    compute_output: DurationsAnswer = Field(description="always 0: each answer is written by itself")


class ModelStats(Answer):
    """What one version has done in this process, under this protocol."""

    name: str
    version: str
    last_inference: int = Field(description="milliseconds since 1970; 0: never")
    inference_count: int = Field(description="samples predicted")
    execution_count: int = Field(description="batches computed, in which one or more requests are")
    inference_stats: InferenceStats
    batch_stats: list[BatchStats] = Field(description="of each size of a batch, the smallest first")

    @classmethod
    def of(cls, model: str, version: int, statistics: VersionStatistics) -> "ModelStats":
        """Return the answer about a version."""
        none = DurationsAnswer(count=0, ns=0)
        return cls(
            name=model,
            version=str(version),
            last_inference=statistics.last_inference,
            inference_count=statistics.samples,
            execution_count=statistics.executions,
            inference_stats=InferenceStats(
                success=DurationsAnswer.of(statistics.success),
                fail=DurationsAnswer.of(statistics.fail),
                queue=DurationsAnswer.of(statistics.queue),
                compute_input=DurationsAnswer.of(statistics.compute_input),
                compute_infer=DurationsAnswer.of(statistics.compute_infer),
                compute_output=DurationsAnswer.of(statistics.compute_output),
                cache_hit=none,
                cache_miss=none,
            ),
            batch_stats=[
                BatchStats(
                    batch_size=rows, compute_input=none, compute_infer=DurationsAnswer.of(one), compute_output=none
                )
                for rows, one in sorted(statistics.batches.items())
            ],
        )


class ModelsStats(Answer):
    """What versions have done in this process, since it started."""

    model_stats: list[ModelStats]


class RepositoryEntry(Answer):
    """A model version in the repository."""

    name: str
    version: str
    state: Literal["READY"] = Field(description="every version can be asked for; the first request loads it")
    reason: str = Field(description="always empty")


class RepositoryQuery(BaseModel):
    """Which entries of the repository to list."""

    model_config = ConfigDict(extra="ignore", strict=True)

    ready: bool = Field(default=False, description="only those that are ready, which all are")


class Loaded(Answer):
    """That a model is in memory."""

    name: str
    load: bool


class Unloaded(Answer):
    """That a model is not in memory any more."""

    name: str
    unload: bool


class LoadQuery(BaseModel):
    """How to load or unload a model."""

    model_config = ConfigDict(extra="ignore", strict=True)

    parameters: dict[str, Any] | None = Field(
        default=None, description="`unload_dependents` is ignored, as no model has any; a `config` is refused"
    )


class InferTensor(BaseModel):
    """An input."""

    name: Literal["inputs"] = Field(description=f"the only one is {INPUT}")
    datatype: str = Field(description="the model's, or one that fits into it exactly", examples=["FP32"])
    shape: list[int] = Field(description="number of samples, then the shape of one", examples=[[1, 1, 2]])
    data: list[Any] | None = Field(
        default=None, description="values in row-major order, flat or nested", examples=[[0.1, 0.12]]
    )
    parameters: JsonObject | None = Field(
        default=None, description="`binary_data_size`: bytes of this input after the JSON, in place of `data`"
    )


class InferOutput(BaseModel):
    """An output asked for."""

    name: str = Field(
        description=f"{', '.join(OUTPUTS)}; of a certificate {', '.join(CERTIFICATE_OUTPUTS)}; or {TRAJECTORY}"
    )
    parameters: JsonObject | None = Field(
        default=None, description="`binary_data`: whether its values follow the JSON as bytes"
    )


class InferBody(BaseModel):
    """An infer request."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(default=None, description="is repeated in the answer")
    model_name: str | None = Field(default=None, description="ignored: the path says it")
    model_version: str | None = Field(default=None, description="ignored: the path says it")
    parameters: JsonObject | None = Field(
        default=None,
        description="`solver` with `steps`, `step_size`, or `rtol` and `atol`, and `max_steps`; or `solver` auto with "
        "`agreement`, `evidence`, `by` and `otherwise`; `certify`; `times`, a list or a text; `deadline_seconds`, or "
        "`timeout` in microseconds; `binary_data_output`: whether all outputs follow the JSON as bytes",
    )
    inputs: list[InferTensor]
    outputs: list[InferOutput] | None = Field(
        default=None, description="null: those of the metadata, and those of `certify` and `times` where they are given"
    )


class InferredTensor(Answer):
    """An output."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = Field(
        default=None, description="values in row-major order; null within it where the solve of a sample failed"
    )
    parameters: Parameters | None = Field(
        default=None, description="`binary_data_size`: bytes of this output after the JSON, in place of `data`"
    )


class InferAnswer(Answer):
    """The answer to an infer request."""

    model_name: str
    model_version: str
    id: str | None = Field(default=None, description="the request's")
    parameters: Parameters = Field(
        description="the solver (`solver`, and `steps` or the like), means of `nfe`, `accepted` and `rejected` over "
        "the samples, `failures`: samples whose solve failed, and `status`: success, partial or failed; of `auto` the "
        "`solver_reason`; of certificates `finer_solver`, its mean `finer_nfe`, and `held`: predictions that hold"
    )
    outputs: list[InferredTensor]
