"""All sorts of requests, with the answers that each version of its model may give to them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
import orjson
import torch

from benchmarks.serving.http_messages import HttpBroken, parts
from benchmarks.serving.protocols import Endpoint, Numbers
from benchmarks.serving.sphere2 import ServedModel
from ode_core.models.steady_classifier import SteadyClassifier
from ode_core.specs import SolverSpec

SOLVERS = (
    None,
    SolverSpec(method="euler", steps=8),
    SolverSpec(method="rk4", steps=16),
    SolverSpec(method="dopri5", rtol=1e-5, atol=1e-5),
)
ROWS = (1, 2, 7, 32)
# An answer is held against the same computation for each row alone: the bits of its logits are the same. Under /v2
# probabilities are float32.
TOLERANCES = {"v1": 1e-12, "v2-json": 1e-7, "v2-binary": 1e-7}


@dataclass(frozen=True)
class Versions:
    """Version ``v`` of a model has the weights ``weights[(v - 1) % len(weights)]``.

    Attributes:
        name: of the model.
        weights: models that differ in their weights alone.
    """

    name: str
    weights: Sequence[ServedModel]

    def of(self, version: int) -> int:
        """Return which weights a version has."""
        return (version - 1) % len(self.weights)


@dataclass(frozen=True)
class SoakRequest:
    """One request.

    Attributes:
        request: as sent.
        versions: of the model that is asked.
        endpoint: where and in which protocol.
        way: between the model and ``/predict`` in the path: nothing, ``/versions/N`` or an alias.
        expected: probabilities ``(rows, classes)`` by weights.
    """

    request: bytes
    endpoint: Endpoint
    versions: Versions
    way: str
    expected: Sequence[Numbers]

    def what_is_wrong(self, answer: bytes, first: Mapping[str, int], last: Mapping[str, int]) -> str | None:
        """Say what is wrong with an answer; None: nothing.

        ``first`` and ``last`` are the newest versions of each model before the request and after its answer.
        """
        try:
            status, headers, body = parts(answer)
            if status != 200:
                return f"status {status}: {body[:200].decode(errors='replace')}"
            version = _version(headers, body)
            shares = self.endpoint.probabilities(headers, body)
        except (HttpBroken, LookupError, TypeError, ValueError):
            return "unreadable answer"
        if version not in self._possible(first[self.versions.name], last[self.versions.name]):
            return "answer of a version that was not asked for"
        expected = self.expected[self.versions.of(version)]
        if shares.shape != expected.shape:
            return "answer of another shape"
        exact = numpy.abs(shares - expected).max() <= TOLERANCES[self.endpoint.protocol]
        return None if exact else "wrong answer"

    def _possible(self, first: int, last: int) -> range:
        if self.way.startswith("/versions/"):
            named = int(self.way.rpartition("/")[2])
            return range(named, named + 1)
        return range(1 if self.way else first, last + 1)


def _version(headers: Mapping[str, str], body: bytes) -> int:
    """Return which version has answered; the number is a text in one protocol."""
    head = headers.get("inference-header-content-length")
    document = orjson.loads(body if head is None else body[: int(head)])
    return int(document["version"] if "version" in document else document["model_version"])


def _path(protocol: str, model: str, way: str) -> str:
    if protocol == "v1":
        return f"/v1/models/{model}{way}/predict"
    return f"/v2/models/{model}{way.replace('/aliases/', '/versions/')}/infer"


def soak_requests(models: Sequence[Versions], ways: Sequence[str], variants: int = 4) -> list[SoakRequest]:
    """Return requests of all kinds in mixed order.

    Each model is asked in all protocols and all ``ways``, see ``SoakRequest``, by so many ``variants`` of each kind of
    request, which differ in their inputs.
    """
    random = numpy.random.default_rng(0)
    found = []
    for versions in models:
        classifiers = [SteadyClassifier(served.classifier()) for served in versions.weights]
        for solver, rows, _ in itertools.product(SOLVERS, ROWS, range(variants)):
            inputs = random.uniform(-0.45, 0.45, (rows, 2)).astype(numpy.float32)
            expected = [_alone(one, inputs, solver or versions.weights[0].spec.solver) for one in classifiers]
            shape = classifiers[0].model.input_shape
            document = None if solver is None else solver.document()
            for protocol, way in itertools.product(TOLERANCES, ways):
                endpoint = Endpoint(protocol, _path(protocol, versions.name, way), shape, document)
                found.append(SoakRequest(endpoint.request(inputs), endpoint, versions, way, expected))
    return [found[place] for place in random.permutation(len(found))]


def _alone(model: SteadyClassifier, inputs: Numbers, solver: SolverSpec) -> Numbers:
    """Return the probabilities of each row, computed with no other."""
    with torch.inference_mode():
        logits = [model.run(torch.from_numpy(row[None]), solver).logits for row in inputs]
        shares: Numbers = torch.cat(logits).double().softmax(-1).numpy()
    return shares
