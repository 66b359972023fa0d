"""Loads the data set of a job."""

from ode_core.datasets.files import DatasetUnavailable
from ode_core.datasets.load import Dataset, load_dataset
from ode_core.specs import DatasetSpec, UploadedSpec
from store.errors import BlobCorrupt, NotFound
from store.unit_of_work import Store
from worker.running_job import RunningJob


def load_job_data(running: RunningJob, spec: DatasetSpec) -> Dataset:
    """Return the data set that a job's spec names: generated, from published files, or uploaded.

    Raises:
        DatasetUnavailable: it cannot be read, or is not what it was when the job was accepted.
    """

    def read_upload(uploaded: UploadedSpec) -> bytes:
        return running.keep_trying(lambda: _stored_bytes(running.store, uploaded))

    return load_dataset(spec, running.settings.datasets, read_upload)


def _stored_bytes(store: Store, spec: UploadedSpec) -> bytes:
    with store.reading() as tx:
        version = tx.datasets.version(spec.name, spec.version)
    if version is None:
        raise DatasetUnavailable(f"there is no uploaded data set {spec.name} with version {spec.version}: upload it")
    try:
        return store.read_blob(version.blob_id)
    except (BlobCorrupt, NotFound) as error:
        raise DatasetUnavailable(f"{spec.name} version {spec.version} is damaged: upload it anew") from error
