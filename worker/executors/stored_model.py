"""Reads what an evaluation job needs: a model version and the data to test it on."""

from dataclasses import dataclass

from torch import Tensor

from ode_core.models.classifier import Classifier
from ode_core.models.modified_classifier import with_modified_field
from ode_core.models.weights import load_classifier
from ode_core.specs import ModifiedFieldSpec, SolverSpec, StartFrom, TrainingJobSpec
from store.models import ModelVersion
from store.unit_of_work import Store
from worker.executors.job_data import load_job_data
from worker.failures import ModelUnavailable
from worker.running_job import RunningJob
from worker.torch_runtime import choose_device


@dataclass(frozen=True)
class Parent:
    """The version that a repaired one was made from, with its model; both have the same weights."""

    version: ModelVersion
    model: Classifier

    @property
    def solver(self) -> SolverSpec:
        """What it was trained with."""
        return SolverSpec.model_validate(self.version.solver)


@dataclass(frozen=True)
class LoadedVersion:
    """A model version, loaded.

    Attributes:
        version: the version's row.
        spec: the training job that made it, or what an upload declared.
        solver: what it was trained with at the end; of a repair, what it is served with.
        model: on its device.
        parent: of a repair, the model without the modified field and the version it is; None for others.
    """

    version: ModelVersion
    spec: TrainingJobSpec
    solver: SolverSpec
    model: Classifier
    parent: Parent | None


@dataclass(frozen=True)
class StoredModel(LoadedVersion):
    """A model version, loaded, with the test split it is judged on.

    Attributes:
        inputs: ``(samples, *sample_shape)``, on the CPU: batches move as they are needed.
        labels: ``(samples,)``, on the CPU.
        asked: how many samples the job asked for; None: all.
        held_out: how many the test split has.
    """

    inputs: Tensor
    labels: Tensor
    asked: int | None
    held_out: int

    def counts(self) -> dict[str, int | None]:
        """Return how many samples were tested, asked for, and there, as fields of a result."""
        return {"samples": len(self.labels), "samples_asked": self.asked, "test_samples": self.held_out}


def load_stored_model(running: RunningJob, samples: int | None) -> StoredModel:
    """Load the model version of an evaluation job and at most ``samples`` of its test split.

    Raises:
        ModelUnavailable: the version does not exist.
        DatasetUnavailable: its data set cannot be read.
    """
    loaded = load_version(running)
    dataset = load_job_data(running, loaded.spec.dataset)
    return StoredModel(
        **vars(loaded),
        inputs=dataset.test_inputs[:samples],
        labels=dataset.test_labels[:samples],
        asked=samples,
        held_out=len(dataset.test_labels),
    )


def load_version(running: RunningJob) -> LoadedVersion:
    """Load the model version of an evaluation job.

    Raises:
        ModelUnavailable: the version does not exist.
    """
    job = running.job
    version = _require_version(running, job.model, job.model_version)
    spec = TrainingJobSpec.model_validate(version.training_spec)
    device = choose_device(running.settings.device)
    weights = running.keep_trying(lambda: running.store.read_blob(version.blob_id))
    model = load_classifier(spec.architecture, spec.dataset, weights, device=device)
    parent = None
    if version.modified_field is not None:
        parent = Parent(_require_version(running, version.parent_model, version.parent_version), model)
        model = with_modified_field(model, ModifiedFieldSpec.model_validate(version.modified_field))
    return LoadedVersion(version, spec, SolverSpec.model_validate(version.solver), model, parent)


def read_start_weights(running: RunningJob, start: StartFrom) -> bytes:
    """Return the weights a training begins with, as a safetensors file.

    Raises:
        ModelUnavailable: the version does not exist.
    """
    version = _require_version(running, start.model, start.version)
    return running.keep_trying(lambda: running.store.read_blob(version.blob_id))


def start_version(spec: TrainingJobSpec) -> tuple[str, int] | None:
    """Return model and version whose weights a training began with, or None; an accepted job names the version."""
    start = spec.start_from
    return None if start is None or start.version is None else (start.model, start.version)


def _require_version(running: RunningJob, model: str | None, number: int | None) -> ModelVersion:
    version = running.keep_trying(lambda: _find_version(running.store, model, number))
    if version is None:
        raise ModelUnavailable(
            f"there is no model {model!r} with version {number or 'latest'}; GET /v1/models lists the models"
        )
    return version


def _find_version(store: Store, model: str | None, number: int | None) -> ModelVersion | None:
    if model is None:
        return None
    with store.reading() as tx:
        return tx.models.version(model, number)
