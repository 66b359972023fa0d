"""Data sets: those that there are, and new ones from arrays."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from api.client.answers import UploadedVersion
from api.client.files import FileTransport, file_content
from api.client.transport import if_given, part


class DatasetRequests(FileTransport):
    """Data sets, the server's and uploaded ones."""

    def datasets(self) -> list[dict[str, Any]]:
        """Return the data sets, ours and those uploaded, and whether the server has their files."""
        return list(self._pages("/v1/datasets", {}))

    def dataset(self, name: str) -> dict[str, Any]:
        """Return an uploaded data set with its versions, newest first."""
        return cast(dict[str, Any], self._get(f"/v1/datasets/{part(name)}"))

    def upload_dataset(
        self,
        name: str,
        file: Path | str | bytes | Mapping[str, Any],
        *,
        input_scale: float = 1.0,
        label: str | None = None,
        test_fraction: float | None = None,
        split_seed: int | None = None,
        idempotency_key: str | None = None,
    ) -> UploadedVersion:
        """Upload arrays as the next version of a data set, and return the version.

        Args:
            name: a job names it as ``{"kind": "uploaded", "name": name}``.
            file: path or content of an npz or a Parquet file; or arrays by name: ``inputs`` and ``labels``, and
                ``test_inputs`` and ``test_labels`` if they are not to be drawn.
            input_scale: factor from the inputs' own units to what a model computes with.
            label: a Parquet file's column of labels; None: ``label``.
            test_fraction: share of each class that is held out; None: 0.2.
            split_seed: of the draw of the test samples; None: 0.
            idempotency_key: makes a repetition by the caller safe; those by the client always are.
        """
        query = if_given(
            name=name, input_scale=input_scale, label=label, test_fraction=test_fraction, split_seed=split_seed
        )
        return cast(UploadedVersion, self._upload("/v1/datasets", file_content(file), query, idempotency_key))
