"""The description of the API is complete, and nothing that fits or misses it makes the server fail."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.problems import PROBLEM_MEDIA_TYPE
from tests.api.conftest import DIGITS_JOB, Served, train
from tests.api.solver_choices import store_choice

EXPECTED = {
    "POST /v1/training-jobs",
    "POST /v1/evaluation-jobs",
    "GET /v1/jobs",
    "GET /v1/jobs/{job_id}",
    "GET /v1/jobs/{job_id}/result",
    "GET /v1/jobs/{job_id}/report",
    "GET /v1/jobs/{job_id}/predictions",
    "GET /v1/jobs/{job_id}/artifact",
    "GET /v1/jobs/{job_id}/metrics",
    "GET /v1/jobs/{job_id}/events",
    "GET /v1/jobs/{job_id}/charts",
    "GET /v1/jobs/{job_id}/charts/{chart}",
    "POST /v1/jobs/{job_id}/cancel",
    "POST /v1/studies",
    "GET /v1/studies",
    "GET /v1/studies/{study_id}",
    "GET /v1/studies/{study_id}/results",
    "GET /v1/studies/{study_id}/charts",
    "GET /v1/studies/{study_id}/charts/{chart}",
    "POST /v1/studies/{study_id}/cancel",
    "POST /v1/studies/{study_id}/resume",
    "GET /v1/models",
    "GET /v1/models/{name}",
    "GET /v1/models/{name}/versions/{version}",
    "GET /v1/models/{name}/versions/{version}/checkpoint",
    "GET /v1/models/{name}/versions/{version}/solver-choice",
    "GET /v1/models/{name}/versions/{version}/charts",
    "GET /v1/models/{name}/versions/{version}/charts/{chart}",
    "POST /v1/models/{name}/aliases/{alias}/predict",
    "POST /v1/models/{name}/predict",
    "POST /v1/models/{name}/predict/explain",
    "POST /v1/models/{name}/versions/{version}/predict/explain",
    "POST /v1/models/{name}/aliases/{alias}/predict/explain",
    "POST /v1/models/{name}/versions/{version}/predict",
    "GET /v1/models/{name}/aliases",
    "GET /v1/models/{name}/aliases/{alias}",
    "PUT /v1/models/{name}/aliases/{alias}",
    "DELETE /v1/models/{name}/aliases/{alias}",
    "POST /v1/models/{name}/aliases/{alias}/rollback",
    "GET /v1/results",
    "GET /v1/schemas/audit-result",
    "GET /v1/solvers",
    "GET /v1/datasets",
    "POST /v1/datasets",
    "POST /v1/models",
    "POST /v1/models/{name}/versions",
    "GET /v1/datasets/{name}",
    "GET /v2",
    "GET /v2/health/live",
    "GET /v2/health/ready",
    "GET /v2/models/stats",
    "GET /v2/models/{name}",
    "GET /v2/models/{name}/ready",
    "GET /v2/models/{name}/config",
    "GET /v2/models/{name}/stats",
    "GET /v2/models/{name}/versions/{version}",
    "GET /v2/models/{name}/versions/{version}/ready",
    "GET /v2/models/{name}/versions/{version}/config",
    "GET /v2/models/{name}/versions/{version}/stats",
    "POST /v2/models/{name}/infer",
    "POST /v2/models/{name}/versions/{version}/infer",
    "POST /v2/repository/index",
    "POST /v2/repository/models/{name}/load",
    "POST /v2/repository/models/{name}/unload",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
}


@dataclass(repr=False)
class Described:
    """A server and its description; too long for a test's report."""

    client: httpx.Client
    document: dict[str, Any]


@pytest.fixture(scope="module")
def described(refusing_client: httpx.Client) -> Described:
    return Described(refusing_client, refusing_client.get("/openapi.json").json())


@pytest.fixture(scope="module")
def document(described: Described) -> dict[str, Any]:
    return described.document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_every_operation_of_the_contract_is_there(document: dict[str, Any]) -> None:
    assert {name for name, _ in operations(document)} == EXPECTED


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference


def test_every_status_has_a_description_and_a_schema(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert operation["summary"]
        assert {"422", "500", "503"} <= set(operation["responses"]), name
        for status, answer in operation["responses"].items():
            assert answer["description"], (name, status)
            if status in ("204", "304"):
                assert "content" not in answer
                continue
            for media_type, content in answer["content"].items():
                assert content["schema"], (name, status, media_type)
            if int(status) >= 400:
                protocol = " /v2" in name
                media_type = "application/json" if protocol else PROBLEM_MEDIA_TYPE
                assert list(answer["content"]) == [media_type], (name, status)
                schema = "ProtocolError" if protocol else "ProblemDocument"
                assert answer["content"][media_type]["schema"] == {"$ref": f"#/components/schemas/{schema}"}


def test_operations_with_a_body_declare_what_bodies_can_get_wrong(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        if "requestBody" in operation:
            assert {"400", "413", "415"} <= set(operation["responses"]), name
        if "{" in name:
            assert "404" in operation["responses"], name


# Random requests

PROBLEM = {"$ref": "#/components/schemas/ProblemDocument"}
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=10),
    st.sampled_from(["euler", "dopri5", "digits", "classifier", "conv2d", "sweep", "audit", "tiny", "step", "talk"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths_in(item, (*path, key))


@st.composite
def nearly(draw: st.DrawFn, right: Any) -> Any:
    """A right body with one part replaced, removed or added."""
    body = json.loads(json.dumps(right))
    path = draw(st.sampled_from(list(paths_in(body))))
    if not path:
        return draw(VALUES)
    container = body
    for key in path[:-1]:
        container = container[key]
    change = draw(st.sampled_from(["replace", "remove", "add"]))
    if change == "replace":
        container[path[-1]] = draw(VALUES)
    elif change == "remove":
        del container[path[-1]]
    elif isinstance(container, dict):
        container[draw(st.text(max_size=8))] = draw(VALUES)
    else:
        container.append(draw(VALUES))
    return body


TRAINING = DIGITS_JOB | {"adaptation": {"kind": "step", "rule": "talk", "interval": 50, "threshold": 0.1}}
UPLOADED = TRAINING | {"dataset": {"kind": "uploaded", "name": "tiny", "version": 1, "facts": None}}
SWEEP = {"kind": "sweep", "model": "tiny", "version": 1, "solvers": [{"method": "euler", "steps": 2}]}
AUDIT = {"kind": "audit", "model": "tiny", "epsilon": 0.01}
STUDY = {
    "name": "grid",
    "base": {
        "dataset": {"kind": "concentric_spheres", "dimension": 2},
        "model": {"kind": "preset", "name": "sphere2"},
        "training": {"iterations": 5},
    },
    "train": {"methods": ["euler"], "steps": [1, 2]},
    "adaptations": [None, {"kind": "step"}],
    "seeds": 2,
    "sweep": {"methods": ["rk4"], "steps": [4], "samples": 10},
}
SEARCH = STUDY | {"train": None, "adaptations": [None], "search": {"lowest": 1, "highest": 8, "threshold": 0.1}}
PORTRAIT = {"kind": "portrait", "model": "spheres", "solver": {"method": "euler", "steps": 2}, "grid": 9}
MOVE_ALIAS = {"version": 1, "expected_version": 1}
DATA_SET = {"kind": "predict", "model": "spheres", "dataset": {"kind": "xor"}, "split": "train", "samples": 3}
EXPORT = {"kind": "export", "model": "spheres", "solver": {"method": "rk4", "steps": 2}, "format": "torch"}
PREDICT = {"inputs": [[[[0, 1.5, 5, 13, 9, 1, 0, 0]] * 8]], "solver": {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3}}


def check(response: httpx.Response, document: dict[str, Any], operation: str) -> None:
    method, _, path = operation.partition(" ")
    declared = document["paths"][path][method.lower()]["responses"]
    assert str(response.status_code) in declared, (response.status_code, response.text)
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        problem = response.json()
        assert problem["detail"]
        assert problem["status"] == response.status_code
    if "json" in response.headers["content-type"]:
        json.loads(response.content, parse_constant=pytest.fail)


@given(
    request=st.one_of(
        st.tuples(st.just("POST /v1/training-jobs"), nearly(TRAINING) | nearly(UPLOADED)),
        st.tuples(
            st.just("POST /v1/evaluation-jobs"),
            nearly(SWEEP) | nearly(AUDIT) | nearly(PORTRAIT) | nearly(DATA_SET) | nearly(EXPORT),
        ),
        st.tuples(st.just("POST /v1/studies"), nearly(STUDY) | nearly(SEARCH)),
        st.tuples(st.just("POST /v1/models/{name}/predict"), nearly(PREDICT)),
        st.tuples(st.just("PUT /v1/models/{name}/aliases/{alias}"), nearly(MOVE_ALIAS)),
    )
)
@settings(max_examples=75)
def test_no_body_makes_the_server_fail(described: Described, request: tuple[str, Any]) -> None:
    operation, body = request
    method, _, path = operation.partition(" ")
    url = path.replace("{name}", "tiny").replace("{alias}", "production")
    # Lone surrogates travel as escapes, which is where they can come from.
    headers = {"Content-Type": "application/json"}
    response = described.client.request(method, url, content=json.dumps(body), headers=headers)
    check(response, described.document, operation)


ODD_TEXTS = ["", "0", "-1", "1e9", "null", "tiny", "\x00", "é", "%", "a/b", "..", "9" * 30]
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(ODD_TEXTS)
NAMES = [
    "limit",
    "after",
    "model",
    "name",
    "status",
    "kind",
    "sort",
    "version",
    "after_step",
    "max_points",
    "dataset",
    "format",
    "x",
]


@given(
    operation=st.sampled_from(sorted(name for name in EXPECTED if name.startswith("GET /v1"))),
    parts=st.fixed_dictionaries(
        {part: TEXTS for part in ("job_id", "study_id", "name", "version", "chart", "alias")},
    ),
    query=st.dictionaries(st.sampled_from(NAMES) | TEXTS, TEXTS, max_size=3),
    headers=st.dictionaries(
        st.sampled_from(["Range", "If-None-Match", "If-Range", "Last-Event-ID", "X-Request-ID", "Accept", "Prefer"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
        max_size=2,
    ),
)
@settings(max_examples=75)
def test_no_query_path_or_header_makes_the_server_fail(
    described: Described, operation: str, parts: dict[str, str], query: dict[str, str], headers: dict[str, str]
) -> None:
    path = operation.removeprefix("GET ")
    for name, value in parts.items():
        path = path.replace(f"{{{name}}}", quote(value, safe=""))
    response = described.client.get(path, params=query, headers={key: value.strip() for key, value in headers.items()})
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.json()["detail"]


def test_answers_fit_the_declared_statuses(served: Served, described: Described) -> None:
    version = train(served.store, metrics={"loss": [(1, 0.7), (2, 0.6)]})
    store_choice(served.store, version)
    arrays = io.BytesIO()
    np.savez(arrays, inputs=np.random.default_rng(0).random((40, 2)), labels=np.arange(40) % 2)
    with served.client() as client:
        study = client.post("/v1/studies", json=STUDY).json()
        assert client.put("/v1/models/tiny/aliases/production", json={"version": 1}).status_code == 201
        headers = {"Content-Type": "application/octet-stream"}
        created = client.post("/v1/datasets?name=tiny", content=arrays.getvalue(), headers=headers)
        assert created.status_code == 201
        check(created, described.document, "POST /v1/datasets")
        for name, _ in operations(described.document):
            if name.startswith("GET "):
                url = name.removeprefix("GET ").replace("{job_id}", version.job_id).replace("{study_id}", study["id"])
                of_study = name == "GET /v1/studies/{study_id}/charts/{chart}"
                url = url.replace("{chart}", "accuracy" if of_study else "training").replace("{alias}", "production")
                response = client.get(url.replace("{name}", "tiny").replace("{version}", "1"))
                # Of a study that has not tested a model yet there is nothing to draw; a training has no report and
                # no predictions or file.
                status = 404 if name.endswith(("/report", "/predictions", "/artifact")) else 422 if of_study else 200
                assert response.status_code == status, response.text
                check(response, described.document, name)
