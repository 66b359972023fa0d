"""Studies: many trainings as one."""

from collections.abc import Callable, Iterator
from typing import Any, cast

from api.client.answers import Study, StudyResultRow
from api.client.errors import StudyNotSucceeded
from api.client.transport import Spec, Transport, part
from api.client.waiting import wait_until_finished


class StudyRequests(Transport):
    """Studies and their results."""

    def submit_study(self, spec: Spec, *, idempotency_key: str | None = None) -> Study:
        """Submit a study: a ``StudySpec`` or the same as a mapping."""
        return cast(Study, self._submit("/v1/studies", spec, idempotency_key))

    def study(self, study_id: str) -> Study:
        """Return a study."""
        return cast(Study, self._get(f"/v1/studies/{part(study_id)}"))

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
        study = wait_until_finished(
            lambda: self.study(study_id),
            on_progress,
            lambda study: (
                f"study {study_id} is still {study['status']} after {timeout:g} seconds, "
                f"with {study['progress']['finished_jobs']} of {study['progress']['jobs']} jobs done"
            ),
            timeout=timeout,
            poll_seconds=poll_seconds,
        )
        if study["status"] != "succeeded":
            raise StudyNotSucceeded(study)
        return study

    def study_results(self, study_id: str) -> list[StudyResultRow]:
        """Return a study's test results over its seeds, a row for each configuration and test solver."""
        return cast(list[StudyResultRow], self._get(f"/v1/studies/{part(study_id)}/results")["data"])

    def cancel_study(self, study_id: str) -> Study:
        """Ask every job of a study to stop and return the study as it is now."""
        return cast(Study, self._request("POST", f"/v1/studies/{part(study_id)}/cancel", repeatable=True).json())

    def resume_study(self, study_id: str) -> Study:
        """Submit the failed and cancelled jobs of an ended study again; return the study as it is now."""
        # Not repeated: a second one is refused, and an answer lost on the way would read as a refusal.
        return cast(Study, self._request("POST", f"/v1/studies/{part(study_id)}/resume", repeatable=False).json())
