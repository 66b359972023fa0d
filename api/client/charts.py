"""Charts of jobs, studies and model versions, as files."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from api.client.transport import Transport, part, version_path

ChartFormat = Literal["png", "svg", "html", "json"]


class ChartRequests(Transport):
    """Which charts there are, and what they show."""

    def charts(self, job_id: str) -> list[dict[str, Any]]:
        """Return which charts a job offers."""
        return cast(list[dict[str, Any]], self._get(f"/v1/jobs/{part(job_id)}/charts")["data"])

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
        return self._chart(f"/v1/jobs/{part(job_id)}", name, format, {"with": list(beside), **options})

    def study_chart(self, study_id: str, name: str, *, format: ChartFormat = "png", **options: Any) -> bytes:
        """Return a chart of a study as a file; see ``chart``."""
        return self._chart(f"/v1/studies/{part(study_id)}", name, format, options)

    def version_chart(
        self, model: str, version: int | str, name: str, *, format: ChartFormat = "png", **options: Any
    ) -> bytes:
        """Return a chart of a model version as a file; see ``chart``."""
        return self._chart(version_path(model, version), name, format, options)

    def _chart(self, place: str, name: str, format: ChartFormat, options: Mapping[str, Any]) -> bytes:
        query = {"format": format, **options}
        return self._request("GET", f"{place}/charts/{part(name)}", params=query, repeatable=True).content
