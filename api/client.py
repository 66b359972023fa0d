"""A synchronous Python client of the HTTP API.

    from api.client import Client

    with Client("http://127.0.0.1:8000") as client:
        job = client.submit_training({"name": "mine", "dataset": {"kind": "digits"}, ...})
        client.wait(job["id"], lambda job: ...)
        client.predict("mine", images, solver={"method": "rk4", "steps": 64})

Answers are the API's JSON objects, with types for the type checker. What the server refuses is raised
as ``ProblemError``. Requests that are safe to repeat are repeated while the server is away for a
moment, for example because it is being restarted.
"""

import io
import json
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast
from urllib.parse import quote, urlsplit

import httpx
from pydantic import BaseModel

from api.client_answers import (
    Event,
    Job,
    JobFailure,
    MetricSeries,
    OverSeeds,
    Prediction,
    Predictions,
    Progress,
    ResultRow,
    SamplePrediction,
    Study,
    StudyProgress,
    StudyResultRow,
    UploadedVersion,
)

__all__ = [
    "FINISHED",
    "ChartFormat",
    "Client",
    "Event",
    "Job",
    "JobFailure",
    "JobNotSucceeded",
    "MetricSeries",
    "OverSeeds",
    "Prediction",
    "Predictions",
    "ProblemError",
    "Progress",
    "ResultRow",
    "SamplePrediction",
    "ServerUnreachable",
    "Solver",
    "Spec",
    "Study",
    "StudyNotSucceeded",
    "StudyProgress",
    "StudyResultRow",
    "UploadedVersion",
]

Spec = Mapping[str, Any] | BaseModel
Solver = Mapping[str, Any] | BaseModel
ChartFormat = Literal["png", "svg", "html", "json"]

FINISHED = frozenset({"succeeded", "failed", "cancelled"})

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 2.0
_PAGE = 200
_UPLOAD_SECONDS = 600.0  # the server reads and stores the whole file before it answers


class ProblemError(Exception):
    """The server refused a request.

    Attributes:
        status: the HTTP status.
        code: what programs act on, for example ``model_not_found``.
        detail: what to do about it.
        errors: ``{"path", "message"}`` for each wrong part of the request.
        request_id: the id under which the server's log has the request.
    """

    def __init__(
        self, status: int, code: str, detail: str, errors: Sequence[Mapping[str, str]] = (), request_id: str = ""
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = list(errors)
        self.request_id = request_id


class ServerUnreachable(Exception):
    """The server does not answer at all."""


class JobNotSucceeded(Exception):
    """A job that was waited for failed or was cancelled; ``job`` has all of it."""

    def __init__(self, job: Job) -> None:
        error = job["error"]
        reason = f": {error['message']}" if error else ""
        super().__init__(f"the {job['kind']} job {job['name'] or job['model'] or job['id']} {job['status']}{reason}")
        self.job = job


class StudyNotSucceeded(Exception):
    """A study that was waited for failed or was cancelled; ``study`` has all of it, its results stay."""

    def __init__(self, study: Study) -> None:
        undone = [
            f"{cell['label']}: {(cell['error'] or {}).get('message', cell['status'])}"
            for cell in study["cells"]
            if cell["status"] != "succeeded" and (cell["error"] or {}).get("code") != "training_diverged"
        ]
        super().__init__(f"the study {study['name']} {study['status']}; {'; '.join(undone)}")
        self.study = study


class Client:
    """Talks to one server; usable as a context manager.

    Args:
        url: of the server, for example ``http://127.0.0.1:8000``.
        api_key: sent as a bearer token.
        timeout: seconds to wait for an answer.
        patience: seconds for which a repeatable request is tried again while the server is away.
    """

    def __init__(self, url: str, api_key: str | None = None, *, timeout: float = 60.0, patience: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self._patience = patience
        self._http = httpx.Client(
            base_url=self.url,
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            timeout=timeout,
            # A proxy of the environment is not for this machine's own addresses.
            trust_env=urlsplit(self.url).hostname not in ("127.0.0.1", "localhost", "::1"),
        )

    def __enter__(self) -> "Client":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # Jobs

    def submit_training(self, spec: Spec, *, idempotency_key: str | None = None) -> Job:
        """Submit a training job; when it has succeeded, the model it names has one version more.

        Args:
            spec: a ``TrainingJobSpec`` or the same as a mapping.
            idempotency_key: makes a repetition by the caller safe; those by the client always are.
        """
        return cast(Job, self._submit("/v1/training-jobs", spec, idempotency_key))

    def submit_evaluation(self, spec: Spec, *, idempotency_key: str | None = None) -> Job:
        """Submit a sweep, an audit, a portrait, the prediction of a data set or an export.

        Args:
            spec: ``SweepJobSpec`` and so on, or the same as a mapping with ``kind``.
            idempotency_key: makes a repetition by the caller safe; those by the client always are.
        """
        return cast(Job, self._submit("/v1/evaluation-jobs", spec, idempotency_key))

    def job(self, job_id: str) -> Job:
        """Return a job."""
        return cast(Job, self._get(f"/v1/jobs/{quote(job_id)}"))

    def jobs(self, **filters: Any) -> Iterator[Job]:
        """Yield jobs, newest first; filters are ``kind``, ``status``, ``model``, ``name`` and ``study``."""
        return cast(Iterator[Job], self._pages("/v1/jobs", filters))

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop and return it as it is now; it stops within seconds."""
        return cast(Job, self._request("POST", f"/v1/jobs/{quote(job_id)}/cancel", repeatable=True).json())

    def wait(
        self,
        job_id: str,
        on_progress: Callable[[Job], None] | None = None,
        *,
        timeout: float | None = None,
        poll_seconds: float = 0.5,
    ) -> Job:
        """Wait for a job to succeed and return it.

        Args:
            job_id: the job.
            on_progress: called with the job each time it was looked at.
            timeout: seconds after which ``TimeoutError`` is raised; the job goes on.
            poll_seconds: pause between two looks.

        Raises:
            JobNotSucceeded: the job failed or was cancelled.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            job = self.job(job_id)
            if on_progress is not None:
                on_progress(job)
            if job["status"] == "succeeded":
                return job
            if job["status"] in FINISHED:
                raise JobNotSucceeded(job)
            if deadline is not None and time.monotonic() >= deadline:
                progress = job["progress"]
                raise TimeoutError(
                    f"job {job_id} is still {job['status']} after {timeout:g} seconds, "
                    f"at step {progress['step']} of {progress['total']}"
                )
            time.sleep(poll_seconds)

    def result(self, job_id: str) -> dict[str, Any]:
        """Return what a job found."""
        return cast(dict[str, Any], self._get(f"/v1/jobs/{quote(job_id)}/result"))

    def predictions(self, job_id: str, *, after: int | None = None) -> Iterator[SamplePrediction]:
        """Yield the predictions that a job of the kind ``predict`` has stored so far, in the data set's order.

        Args:
            job_id: the job.
            after: only those of samples numbered above.
        """
        return cast(Iterator[SamplePrediction], self._pages(f"/v1/jobs/{quote(job_id)}/predictions", {"after": after}))

    def predictions_file(
        self, job_id: str, to: Path | str | None = None, *, format: Literal["csv", "npz"] = "npz"
    ) -> Path:
        """Write all predictions of an ended job into a file, and return its path.

        Args:
            job_id: the job.
            to: the file; by default the current folder and a name made of the model's.
            format: ``npz`` for ``numpy.load``, or ``csv``.
        """
        query = {"format": format}
        response = self._request(
            "GET", f"/v1/jobs/{quote(job_id)}/predictions", params=query, repeatable=True, stream=True
        )
        path = _offered_name(response) if to is None else Path(to)
        try:
            with path.open("wb") as file:
                for piece in response.iter_bytes():
                    file.write(piece)
        except httpx.TransportError as error:
            path.unlink()
            raise ServerUnreachable(f"{self.url} broke off within the file ({error}): ask for it again") from error
        finally:
            response.close()
        return path

    def metrics(
        self, job_id: str, *names: str, after_step: int = 0, max_points: int = 10_000
    ) -> dict[str, list[tuple[int, float | None]]]:
        """Return a job's metrics by name, each as points ``(step, value)``; all metrics if none is named."""
        query = {"name": list(names), "after_step": after_step, "max_points": max_points}
        data: list[MetricSeries] = self._get(f"/v1/jobs/{quote(job_id)}/metrics", query)["data"]
        return {series["name"]: [(step, value) for step, value in series["points"]] for series in data}

    def events(self, job_id: str, after: int = 0) -> list[Event]:
        """Return what happened to a job, from event ``after`` on."""
        events: list[Event] = []
        while True:
            page = self._get(f"/v1/jobs/{quote(job_id)}/events", {"after": after})
            events += page["data"]
            if not page["has_more"]:
                return events
            after = events[-1]["sequence"]

    def charts(self, job_id: str) -> list[dict[str, Any]]:
        """Return which charts a job offers."""
        return cast(list[dict[str, Any]], self._get(f"/v1/jobs/{quote(job_id)}/charts")["data"])

    def chart(
        self, job_id: str, name: str, *, format: ChartFormat = "png", beside: Sequence[str] = (), **options: Any
    ) -> bytes:
        """Return a chart of a job as a file.

        Args:
            job_id: the job.
            name: one of those that ``charts`` lists.
            format: an interactive page (``html``), a picture, or the data.
            beside: other jobs to show in the same chart.
            options: ``x`` (``steps`` or ``nfe``) of an accuracy, ``scale`` of a png.
        """
        return self._chart(f"/v1/jobs/{quote(job_id)}", name, format, {"with": list(beside), **options})

    def report(self, job: str | Job, to: Path | str | None = None) -> Path:
        """Write an audit's report, a page that needs nothing else, and return the file's path.

        Args:
            job: the audit, or its id.
            to: the file; by default the current folder and a name made of the model's.
        """
        job_id = job if isinstance(job, str) else job["id"]
        response = self._request("GET", f"/v1/jobs/{quote(job_id)}/report", params={"download": True}, repeatable=True)
        return _saved(response, to)

    def artifact(self, job: str | Job, to: Path | str | None = None) -> Path:
        """Write the file that an export made and return its path.

        Args:
            job: the export, or its id.
            to: the file; by default the current folder and the name that the server gives it.
        """
        job_id = job if isinstance(job, str) else job["id"]
        response = self._request("GET", f"/v1/jobs/{quote(job_id)}/artifact", repeatable=True)
        return _saved(response, to)

    def study_chart(self, study_id: str, name: str, *, format: ChartFormat = "png", **options: Any) -> bytes:
        """Return a chart of a study as a file; see ``chart``."""
        return self._chart(f"/v1/studies/{quote(study_id)}", name, format, options)

    def version_chart(
        self, model: str, version: int, name: str, *, format: ChartFormat = "png", **options: Any
    ) -> bytes:
        """Return a chart of a model version as a file; see ``chart``."""
        return self._chart(f"/v1/models/{quote(model)}/versions/{version}", name, format, options)

    def _chart(self, place: str, name: str, format: ChartFormat, options: Mapping[str, Any]) -> bytes:
        query = {"format": format, **options}
        return self._request("GET", f"{place}/charts/{quote(name)}", params=query, repeatable=True).content

    # Studies

    def submit_study(self, spec: Spec, *, idempotency_key: str | None = None) -> Study:
        """Submit a study: a ``StudySpec`` or the same as a mapping."""
        return cast(Study, self._submit("/v1/studies", spec, idempotency_key))

    def study(self, study_id: str) -> Study:
        """Return a study."""
        return cast(Study, self._get(f"/v1/studies/{quote(study_id)}"))

    def studies(self, **filters: Any) -> Iterator[dict[str, Any]]:
        """Yield studies, newest first, without their cells; filters are ``status`` and ``name``."""
        return self._pages("/v1/studies", filters)

    def wait_for_study(
        self,
        study_id: str,
        on_progress: Callable[[Study], None] | None = None,
        *,
        timeout: float | None = None,
        poll_seconds: float = 2.0,
    ) -> Study:
        """Wait for a study to succeed and return it; arguments are those of ``wait``.

        Raises:
            StudyNotSucceeded: a job of it failed or was cancelled; ``resume_study`` runs these again.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            study = self.study(study_id)
            if on_progress is not None:
                on_progress(study)
            if study["status"] == "succeeded":
                return study
            if study["status"] in FINISHED:
                raise StudyNotSucceeded(study)
            if deadline is not None and time.monotonic() >= deadline:
                progress = study["progress"]
                raise TimeoutError(
                    f"study {study_id} is still {study['status']} after {timeout:g} seconds, "
                    f"with {progress['finished_jobs']} of {progress['jobs']} jobs done"
                )
            time.sleep(poll_seconds)

    def study_results(self, study_id: str) -> list[StudyResultRow]:
        """Return a study's test results over its seeds, a row for each configuration and test solver."""
        return cast(list[StudyResultRow], self._get(f"/v1/studies/{quote(study_id)}/results")["data"])

    def cancel_study(self, study_id: str) -> Study:
        """Ask every job of a study to stop and return the study as it is now."""
        return cast(Study, self._request("POST", f"/v1/studies/{quote(study_id)}/cancel", repeatable=True).json())

    def resume_study(self, study_id: str) -> Study:
        """Submit the failed and cancelled jobs of an ended study again; return the study as it is now."""
        # Not repeated: a second one is refused, and an answer lost on the way would read as a refusal.
        return cast(Study, self._request("POST", f"/v1/studies/{quote(study_id)}/resume", repeatable=False).json())

    # Models and results

    def models(self) -> Iterator[dict[str, Any]]:
        """Yield all models by name."""
        return self._pages("/v1/models", {})

    def model(self, name: str) -> dict[str, Any]:
        """Return a model with its versions, newest first."""
        return cast(dict[str, Any], self._get(f"/v1/models/{quote(name)}"))

    def version(self, name: str, version: int) -> dict[str, Any]:
        """Return one version of a model."""
        return cast(dict[str, Any], self._get(f"/v1/models/{quote(name)}/versions/{version}"))

    def checkpoint(self, name: str, version: int) -> bytes:
        """Return a version's weights as a safetensors file."""
        return self._request("GET", f"/v1/models/{quote(name)}/versions/{version}/checkpoint", repeatable=True).content

    def predict(
        self,
        name: str,
        inputs: Any,
        solver: Solver | Literal["auto"] | None = None,
        *,
        version: int | str | None = None,
        **options: Any,
    ) -> Predictions:
        """Predict labels.

        Args:
            name: the model.
            inputs: a list of inputs (nested lists or an array), each of the model's ``input_shape``,
                in the data set's own units.
            solver: None: the one the version was trained with; ``auto``: the cheapest that an audit found to agree.
            version: a number or an alias; None: the latest.
            options: the other fields of the request: ``certify``, ``times``, ``deadline_seconds``, and for ``auto``
                ``agreement``, ``evidence`` and ``otherwise``.

        Raises:
            ValueError: an input is not finite, which JSON cannot say.
        """
        path, body = _prediction(name, inputs, solver, version, options)
        return cast(Predictions, self._request("POST", path, json=body, repeatable=True).json())

    def explain(
        self,
        name: str,
        inputs: Any,
        solver: Solver | Literal["auto"] | None = None,
        *,
        version: int | str | None = None,
        format: ChartFormat = "png",
        scale: float = 2.0,
        **options: Any,
    ) -> bytes:
        """Return a picture of predictions as a file: where their states go, with the solver and along the exact flow.

        Args:
            name: a model whose states, or else inputs, have two numbers.
            inputs: at most 64 of them; see ``predict``.
            solver: see ``predict``.
            version: see ``predict``.
            format: an interactive page (``html``), a picture, or the data.
            scale: of a png: pixels a unit.
            options: see ``predict``.
        """
        path, body = _prediction(name, inputs, solver, version, options)
        query = {"format": format, "scale": scale}
        return self._request("POST", f"{path}/explain", params=query, json=body, repeatable=True).content

    def solver_choice(
        self,
        name: str,
        version: int,
        *,
        agreement: float = 0.999,
        evidence: Literal["estimate", "lower_bound"] = "estimate",
    ) -> dict[str, Any]:
        """Return the cheapest solver that agrees well enough, and why: its ``solver`` may be given to ``predict``.

        Args:
            name: the model.
            version: whose latest audit is asked.
            agreement: on which share of the samples the solver has to agree.
            evidence: what has to reach it: the estimate, or the lower end of its 95 % interval.

        Raises:
            ProblemError: ``not_audited`` where no audit has finished.
        """
        query = {"agreement": agreement, "evidence": evidence}
        return cast(dict[str, Any], self._get(f"/v1/models/{quote(name)}/versions/{version}/solver-choice", query))

    def results(self, **filters: Any) -> Iterator[ResultRow]:
        """Yield test results.

        Filters are ``model``, ``version``, ``dataset``, ``train_method``, ``test_method``, ``job`` and ``study``;
        ``sort`` is a column, with a minus for the largest first.
        """
        return cast(Iterator[ResultRow], self._pages("/v1/results", filters))

    # The server

    def solvers(self) -> list[dict[str, Any]]:
        """Return the solver methods."""
        return cast(list[dict[str, Any]], self._get("/v1/solvers")["data"])

    def datasets(self) -> list[dict[str, Any]]:
        """Return the data sets, ours and those uploaded, and whether the server has their files."""
        return list(self._pages("/v1/datasets", {}))

    def dataset(self, name: str) -> dict[str, Any]:
        """Return an uploaded data set with its versions, newest first."""
        return cast(dict[str, Any], self._get(f"/v1/datasets/{quote(name)}"))

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
        options = {
            "name": name,
            "input_scale": input_scale,
            "label": label,
            "test_fraction": test_fraction,
            "split_seed": split_seed,
        }
        response = self._request(
            "POST",
            "/v1/datasets",
            params={key: value for key, value in options.items() if value is not None},
            content=_file_content(file),
            headers={
                "Content-Type": "application/octet-stream",
                "Idempotency-Key": idempotency_key or uuid.uuid4().hex,
            },
            timeout=_UPLOAD_SECONDS,
            repeatable=True,
        )
        return cast(UploadedVersion, response.json())

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
        query = {"name": name} | {part: json.dumps(_json(spec)) for part, spec in parts.items()}
        response = self._request(
            "POST",
            "/v1/models",
            params=query if precision is None else query | {"precision": precision},
            content=_file_content(file),
            headers={
                "Content-Type": "application/octet-stream",
                "Idempotency-Key": idempotency_key or uuid.uuid4().hex,
            },
            timeout=_UPLOAD_SECONDS,
            repeatable=True,
        )
        return cast(dict[str, Any], response.json())

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
        body = {"from_version": from_version, "modified_field": _json(modified_field)}
        return cast(dict[str, Any], self._submit(f"/v1/models/{quote(name)}/versions", body, idempotency_key))

    def ready(self) -> dict[str, Any]:
        """Return the state of the server's parts; a server that cannot work raises ``ProblemError``."""
        return cast(dict[str, Any], self._get("/readyz"))

    # Aliases

    def aliases(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield a model's aliases by name, each with the ``version`` it points at."""
        return self._pages(f"/v1/models/{quote(name)}/aliases", {})

    def alias(self, name: str, alias: str) -> dict[str, Any]:
        """Return an alias of a model with its ``history``, the newest move first."""
        return cast(dict[str, Any], self._get(f"/v1/models/{quote(name)}/aliases/{quote(alias)}"))

    def move_alias(self, name: str, alias: str, version: int, *, expected_version: int | None = None) -> dict[str, Any]:
        """Point an alias at a version, and return the alias.

        Args:
            name: the model.
            alias: such as ``production``; it is made if there is none.
            version: of the model.
            expected_version: where it has to point before, 0: there must be no such alias; None: anywhere.

        Raises:
            ProblemError: ``alias_moved`` where it points elsewhere than expected.
        """
        body = {"version": version, "expected_version": expected_version}
        place = f"/v1/models/{quote(name)}/aliases/{quote(alias)}"
        return cast(dict[str, Any], self._request("PUT", place, json=body, repeatable=True).json())

    def roll_back_alias(self, name: str, alias: str, *, expected_version: int | None = None) -> dict[str, Any]:
        """Put an alias back to where it pointed before its last move, and return the alias.

        Raises:
            ProblemError: ``nothing_to_roll_back``, or ``alias_moved`` where it points elsewhere than expected.
        """
        response = self._request(
            "POST",
            f"/v1/models/{quote(name)}/aliases/{quote(alias)}/rollback",
            params=_if_given(expected_version=expected_version),
            headers={"Idempotency-Key": uuid.uuid4().hex},
            repeatable=True,
        )
        return cast(dict[str, Any], response.json())

    def remove_alias(self, name: str, alias: str, *, expected_version: int | None = None) -> None:
        """Remove an alias; the version it points at stays."""
        place = f"/v1/models/{quote(name)}/aliases/{quote(alias)}"
        # Not repeated: of an alias that is gone there is none to remove.
        self._request("DELETE", place, params=_if_given(expected_version=expected_version), repeatable=False)

    def _submit(self, path: str, spec: Spec, idempotency_key: str | None) -> Any:
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self._request("POST", path, json=_json(spec), headers=headers, repeatable=True).json()

    def _get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return self._request("GET", path, params=query, repeatable=True).json()

    def _pages(self, path: str, filters: Mapping[str, Any]) -> Iterator[Any]:
        query = {name: value for name, value in filters.items() if value is not None} | {"limit": _PAGE}
        while True:
            page = self._get(path, query)
            yield from page["data"]
            if not page["has_more"]:
                return
            query["after"] = page["next_cursor"]

    def _request(
        self, method: str, path: str, *, repeatable: bool, stream: bool = False, **arguments: Any
    ) -> httpx.Response:
        deadline = time.monotonic() + self._patience
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                response = self._http.send(self._http.build_request(method, path, **arguments), stream=stream)
                if not response.is_success:
                    response.read()
            except httpx.TransportError as error:
                # A timeout is not repeated: it took all the time it was given.
                if not repeatable or isinstance(error, httpx.TimeoutException) or time.monotonic() >= deadline:
                    reason = str(error) or type(error).__name__
                    raise ServerUnreachable(f"no answer from {self.url}: {reason}; is the server running?") from error
            else:
                if response.is_success:
                    return response
                if response.status_code != 503 or not repeatable or time.monotonic() >= deadline:
                    raise _problem(response)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _if_given(**query: Any) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def _saved(response: httpx.Response, to: Path | str | None) -> Path:
    path = _offered_name(response) if to is None else Path(to)
    path.write_bytes(response.content)
    return path


def _json(spec: Spec) -> Any:
    return spec.model_dump(mode="json", exclude_none=True) if isinstance(spec, BaseModel) else dict(spec)


def _prediction(
    name: str, inputs: Any, solver: Any, version: int | str | None, options: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return path and body of a request for predictions."""
    place = f"/v1/models/{quote(name)}"
    if version is not None:
        place += f"/versions/{version}" if isinstance(version, int) else f"/aliases/{quote(version)}"
    numbers = inputs.tolist() if hasattr(inputs, "tolist") else inputs
    _require_finite("inputs", numbers)
    asked = solver if solver is None or isinstance(solver, str) else _json(solver)
    return f"{place}/predict", {**options, "inputs": numbers, "solver": asked}


def _require_finite(place: str, numbers: Any) -> None:
    if isinstance(numbers, float) and not math.isfinite(numbers):
        raise ValueError(f"{place} is {numbers}: a prediction needs finite numbers; replace it or leave this input out")
    if isinstance(numbers, list | tuple):
        for position, part in enumerate(numbers):
            _require_finite(f"{place}[{position}]", part)


def _offered_name(response: httpx.Response) -> Path:
    """Return the name that the server gives a file, without a folder."""
    return Path(Path(response.headers["content-disposition"].partition('filename="')[2].rstrip('"')).name)


def _file_content(file: Path | str | bytes | Mapping[str, Any]) -> bytes:
    if isinstance(file, bytes):
        return file
    if isinstance(file, Path | str):
        return Path(file).read_bytes()
    import numpy as np  # noqa: PLC0415  # the client is otherwise small

    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **file)
    return content.getvalue()


def _problem(response: httpx.Response) -> ProblemError:
    try:
        document = response.json()
        return ProblemError(
            response.status_code,
            str(document["code"]),
            str(document["detail"]),
            document.get("errors", ()),
            str(document.get("request_id", "")),
        )
    except (ValueError, KeyError, TypeError):  # an answer of something else, such as a proxy
        text = response.text.strip()[:200]
        return ProblemError(
            response.status_code, "not_odeness", f"{response.url} answered {response.status_code}: {text}"
        )
