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

from api.client.aliases import AliasRequests
from api.client.answers import (
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
from api.client.charts import ChartFormat, ChartRequests
from api.client.datasets import DatasetRequests
from api.client.errors import JobNotSucceeded, ProblemError, ServerUnreachable, StudyNotSucceeded
from api.client.jobs import JobRequests
from api.client.models import ModelRequests
from api.client.predictions import PredictionRequests
from api.client.results import ResultRequests
from api.client.server import ServerRequests
from api.client.studies import StudyRequests
from api.client.transport import Solver, Spec
from api.client.waiting import FINISHED

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


class Client(
    JobRequests,
    ChartRequests,
    StudyRequests,
    ModelRequests,
    AliasRequests,
    PredictionRequests,
    DatasetRequests,
    ResultRequests,
    ServerRequests,
):
    """Talks to one server; usable as a context manager.

    Args:
        url: of the server, for example ``http://127.0.0.1:8000``.
        api_key: sent as a bearer token.
        timeout: seconds to wait for an answer.
        patience: seconds for which a repeatable request is tried again while the server is away.
    """
