"""What the client raises."""

from collections.abc import Mapping, Sequence

import httpx

from api.client.answers import Job, Study


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


def problem_of(response: httpx.Response) -> ProblemError:
    """Return what the server said when it refused a request."""
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
