"""Models and their versions: read, uploaded, repaired."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from api.client.files import FileTransport, file_content
from api.client.transport import Solver, Spec, as_json, if_given, part, version_path


class ModelRequests(FileTransport):
    """Models and their versions."""

    def models(self) -> Iterator[dict[str, Any]]:
        """Yield all models by name."""
        return self._pages("/v1/models", {})

    def model(self, name: str) -> dict[str, Any]:
        """Return a model with its versions, newest first."""
        return cast(dict[str, Any], self._get(f"/v1/models/{part(name)}"))

    def version(self, name: str, version: int | str) -> dict[str, Any]:
        """Return one version of a model: a number, an alias, or ``latest``."""
        return cast(dict[str, Any], self._get(version_path(name, version)))

    def checkpoint(self, name: str, version: int | str) -> bytes:
        """Return a version's weights as a safetensors file."""
        return self._request("GET", f"{version_path(name, version)}/checkpoint", repeatable=True).content

    def upload_model(
        self,
        name: str,
        file: Path | str | bytes,
        *,
        model: Spec,
        dataset: Spec,
        solver: Solver,
        precision: str | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Upload weights trained elsewhere as the next version of a model, and return the version.

        Args:
            name: of the model.
            file: path or content of a safetensors file with the architecture's tensors.
            model: the architecture, as in a training job.
            dataset: what it reads and is tested on.
            solver: what it was trained with.
            precision: ``float32`` or ``float64``; None: the file's.
            idempotency_key: makes a repetition by the caller safe; those by the client always are.
        """
        parts = {"model": model, "dataset": dataset, "solver": solver}
        query = {"name": name} | {part: json.dumps(as_json(spec)) for part, spec in parts.items()}
        query |= if_given(precision=precision)
        return cast(dict[str, Any], self._upload("/v1/models", file_content(file), query, idempotency_key))

    def repair(
        self, name: str, from_version: int, modified_field: Spec, *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Put a modified field in the place of a version's field, and return the version that this makes.

        Args:
            name: the model.
            from_version: the version to repair, as an audit found it.
            modified_field: a ``ModifiedFieldSpec`` or the same as a mapping, from the audit's option.
            idempotency_key: makes a repetition by the caller safe; those by the client always are.
        """
        body = {"from_version": from_version, "modified_field": as_json(modified_field)}
        return cast(dict[str, Any], self._submit(f"/v1/models/{part(name)}/versions", body, idempotency_key))
