"""Figures over HTTP: which there are, in every format, and what is answered where there is none."""

import base64
import copy
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
import torch

from api.charts import drawing
from api.charts.drawing import DrawingFailed, draw_apart
from api.charts.error_fan import error_fan
from api.charts.trajectories import trajectories_with_crossings
from api.client import Client
from ode_core.audit.portrait import PortraitSize, portrait
from ode_core.models.classifier import build_model
from ode_core.specs import SolverSpec, StudySpec, TrainingJobSpec
from store.results import NewResult
from store.unit_of_work import Store
from tests.api.conftest import SPHERES_JOB, Served, assert_problem, claim, submit, train

EULER2, EULER4 = {"method": "euler", "steps": 2}, {"method": "euler", "steps": 4}
PORTRAIT_CHARTS = ["trajectories", "vector-field", "error-fan", "clusters", "decision-regions"]
ADAPTING = {
    "loss": [(k, 1 / k) for k in range(1, 101)],
    "train_accuracy": [(k, 1 - 0.4 / k) for k in range(1, 101)],
    "steps": [(k, 4.0 + k // 50) for k in range(1, 101)],
    "adaptation_accepted": [(1, 1.0), (50, 0.0), (100, 1.0)],
    "adaptation_difference": [(1, 0.01), (50, 0.2), (100, 0.0)],
}


@pytest.fixture(scope="module")
def drawn() -> dict[str, Any]:
    """The portrait of an untrained model."""
    torch.manual_seed(0)
    model = build_model(TrainingJobSpec.model_validate(SPHERES_JOB))
    inputs = torch.rand(12, 2) - 0.5
    document = portrait(
        model,
        inputs,
        (inputs[:, 0] > 0).long(),
        SolverSpec(**EULER2),
        SolverSpec(**EULER4),
        autonomous=True,
        size=PortraitSize(samples=4, fan_samples=2, grid=7),
    )
    return {"model": "spheres", "version": 1, "train_solver": EULER2, **document}


def add_job(store: Store, kind: Any, result: dict[str, Any] | None, rows: list[NewResult] | None = None) -> str:
    """Store an evaluation job of ``spheres`` that has ended; without a result, one that runs."""
    with store.transaction() as tx:
        job = tx.jobs.submit(kind, {}, model="spheres", model_version=1)
    attempt = claim(store, job)
    with store.transaction() as tx:
        tx.results.add(job.id, attempt, rows or [])
        if result is not None:
            tx.jobs.succeed(job.id, attempt, result)
    return job.id


def result_row(method: str, steps: int | None, accuracy: float | None, train_steps: int = 2) -> NewResult:
    rule = {"rtol": 1e-5, "atol": 1e-5} if steps is None else {"steps": steps}
    return NewResult(
        model="spheres",
        version=1,
        dataset={"kind": "concentric_spheres"},
        train_solver={"method": "euler", "steps": train_steps},
        test_solver={"method": method, **rule},
        nfe=40.0 if steps is None else steps,
        samples=10,
        failures=0,
        seconds=0.1,
        accuracy=accuracy,
        train_steps=train_steps,
        test_steps=steps,
    )


SWEPT = [result_row("euler", 2, 1.0), result_row("euler", 8, 0.6), result_row("dopri5", None, 0.5)]


@pytest.fixture
def portrayed(served: Served, drawn: dict[str, Any]) -> Iterator[tuple[httpx.Client, str]]:
    """A client, and the place of a portrait's charts."""
    train(served.store, SPHERES_JOB, metrics=ADAPTING)
    job_id = add_job(served.store, "portrait", drawn)
    with served.client() as client:
        yield client, f"/v1/jobs/{job_id}/charts"


def names(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [offer["name"] for offer in response.json()["data"]]


def is_png(content: bytes) -> bool:
    return content.startswith(b"\x89PNG\r\n\x1a\n")


CHECKS: dict[str, tuple[str, Callable[[bytes], bool]]] = {
    "png": ("image/png", is_png),
    "svg": ("image/svg+xml", lambda content: ElementTree.fromstring(content).tag.endswith("svg")),
    "html": ("text/html; charset=utf-8", lambda content: content.startswith(b"<!doctype html>")),
    "json": ("application/json", lambda content: set(json.loads(content)) == {"name", "title", "data", "vega_lite"}),
}


@pytest.mark.parametrize("chart", PORTRAIT_CHARTS)
def test_every_chart_of_a_portrait_comes_in_every_format(portrayed: tuple[httpx.Client, str], chart: str) -> None:
    client, place = portrayed

    assert names(client.get(place)) == PORTRAIT_CHARTS
    for name, (media_type, check) in CHECKS.items():
        response = client.get(f"{place}/{chart}", params={"format": name})
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == media_type
        assert check(response.content)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("image/png;q=0.5, image/svg+xml", "image/svg+xml"),
        ("image/svg+xml; q=0.2, text/html; q=0.9, */*; q=0.1", "text/html; charset=utf-8"),
        ("*/*, image/png;q=0", "application/json"),
        ("application/json;q=0, image/png;q=0.1, */*", "image/png"),
        ("*/*", "application/json"),
        ("image/png", "image/png"),
        ("image/svg+xml;q=0.9", "image/svg+xml"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
    ],
)
def test_without_a_format_the_accept_header_decides(
    portrayed: tuple[httpx.Client, str], accept: str, media_type: str
) -> None:
    client, place = portrayed

    response = client.get(f"{place}/clusters", headers={"Accept": accept})

    assert response.headers["content-type"] == media_type
    assert response.headers["vary"] == "Accept"


def test_what_cannot_be_drawn_in_an_accepted_format_is_refused(portrayed: tuple[httpx.Client, str]) -> None:
    client, place = portrayed

    assert_problem(client.get(f"{place}/clusters", headers={"Accept": "image/gif"}), 406, "not_acceptable")
    assert_problem(client.get(f"{place}/clusters", headers={"Accept": "image/png;q=0"}), 406, "not_acceptable")
    assert_problem(client.get(f"{place}/clusters?format=gif"), 422, "invalid_request")


def test_the_data_is_what_is_drawn(portrayed: tuple[httpx.Client, str], drawn: dict[str, Any]) -> None:
    client, place = portrayed

    document = client.get(f"{place}/clusters", params={"format": "json"}).json()

    assert document["vega_lite"]["datasets"] == document["data"]
    shown = document["data"]["final states 1"]
    assert [[row["x"], row["y"]] for row in shown] == drawn["views"][0]["final"]["states"]
    assert [row["class"] for row in shown] == drawn["labels"]


def test_the_page_is_complete_and_its_policy_lets_its_own_scripts_run_alone(
    portrayed: tuple[httpx.Client, str],
) -> None:
    client, place = portrayed

    response = client.get(f"{place}/clusters", params={"format": "html"})

    policy = response.headers["content-security-policy"]
    scripts = re.findall(r"<script>(.*?)</script>", response.text, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "unsafe-eval" not in policy
    assert "default-src 'none'" in policy
    page = re.sub(r"<script>.*?</script>", "", response.text, flags=re.DOTALL)
    assert "src=" not in page
    assert "href=" not in page
    (text,) = re.findall(r'<script type="application/json" id="document">(.*?)</script>', page, re.DOTALL)
    assert json.loads(text) == client.get(f"{place}/clusters", params={"format": "json"}).json()["vega_lite"]


def test_a_name_in_a_page_cannot_end_its_script() -> None:
    from api.charts.page import page_of

    page = page_of("<b>", {"title": "</script><script>alert(1)</script><!--"})

    assert "<title>&lt;b&gt;</title>" in page
    assert "alert(1)<" not in page
    assert "\\u003c/script>\\u003cscript>alert(1)" in page


def test_an_unchanged_chart_is_not_sent_again(portrayed: tuple[httpx.Client, str]) -> None:
    client, place = portrayed
    first = client.get(f"{place}/clusters", params={"format": "svg"})

    again = client.get(f"{place}/clusters", params={"format": "svg"}, headers={"If-None-Match": first.headers["etag"]})
    other = client.get(f"{place}/clusters", params={"format": "png"}, headers={"If-None-Match": first.headers["etag"]})

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert again.headers["cache-control"] == "private, no-cache"
    assert other.status_code == 200


def test_a_png_can_be_larger(portrayed: tuple[httpx.Client, str]) -> None:
    client, place = portrayed

    small, large = (
        client.get(f"{place}/decision-regions", params={"format": "png", "scale": scale}).content for scale in (1, 2)
    )

    width = [int.from_bytes(content[16:20]) for content in (small, large)]  # of the header chunk
    assert width[1] == pytest.approx(2 * width[0], abs=2)


def test_what_takes_too_long_to_draw_is_given_up_and_the_data_still_there(
    portrayed: tuple[httpx.Client, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, place = portrayed
    monkeypatch.setattr("api.charts.drawing.LIMIT_SECONDS", 0.001)

    problem = assert_problem(client.get(f"{place}/clusters?format=png"), 503, "drawing_failed")

    assert "format=json" in problem["detail"]
    assert client.get(f"{place}/clusters?format=json").status_code == 200


def test_what_cannot_be_drawn_says_so() -> None:
    with pytest.raises(DrawingFailed, match="not drawn"):
        draw_apart("png", b'{"mark": "no such mark"}')


def test_no_more_charts_are_drawn_at_once_than_there_are_places(
    portrayed: tuple[httpx.Client, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, place = portrayed
    monkeypatch.setattr("api.charts.drawing.PATIENCE_SECONDS", 0.001)
    monkeypatch.setattr("api.charts.drawing._slots", threading.BoundedSemaphore(1))
    drawing._slots.acquire()

    problem = assert_problem(client.get(f"{place}/clusters?format=svg"), 503, "drawing_failed")

    assert "too many" in problem["detail"]


def test_two_portraits_can_be_seen_side_by_side(
    served: Served, portrayed: tuple[httpx.Client, str], drawn: dict[str, Any]
) -> None:
    client, place = portrayed
    other = add_job(served.store, "portrait", drawn | {"version": 7})

    svg = client.get(f"{place}/trajectories", params={"format": "svg", "with": other}).text

    assert "spheres version 1" in svg
    assert "spheres version 7" in svg


def test_what_does_not_go_together_is_refused(served: Served, portrayed: tuple[httpx.Client, str]) -> None:
    client, place = portrayed
    sweep = add_job(served.store, "sweep", {}, SWEPT)

    assert_problem(client.get(f"{place}/trajectories", params={"with": sweep}), 422, "invalid_request")
    assert_problem(client.get(f"{place}/clusters", params={"with": sweep}), 422, "invalid_request")
    assert_problem(client.get(f"{place}/trajectories", params={"with": "nobody"}), 404, "job_not_found")
    assert_problem(client.get(f"{place}/clusters", params={"x": "nfe"}), 422, "invalid_request")
    assert_problem(client.get(f"{place}/clusters", params={"y": "nfe"}), 422, "invalid_request")


def test_a_chart_that_is_not_there_is_answered_with_those_that_are(portrayed: tuple[httpx.Client, str]) -> None:
    client, place = portrayed

    problem = assert_problem(client.get(f"{place}/accuracy"), 404, "chart_not_found")

    for name in PORTRAIT_CHARTS:
        assert name in problem["detail"]
    assert_problem(client.get("/v1/jobs/nobody/charts"), 404, "job_not_found")
    assert_problem(client.get("/v1/models/spheres/versions/9/charts"), 404, "model_version_not_found")


def test_a_job_that_goes_on_or_failed_says_so(served: Served, client: httpx.Client) -> None:
    train(served.store, SPHERES_JOB)
    running = add_job(served.store, "portrait", None)
    testing = add_job(served.store, "sweep", None)
    failed = add_job(served.store, "audit", None)
    with served.store.transaction() as tx:
        tx.jobs.fail(failed, 1, {"code": "budget_exceeded", "message": "too much"})

    assert_problem(client.get(f"/v1/jobs/{running}/charts/clusters"), 409, "job_not_finished")
    assert_problem(client.get(f"/v1/jobs/{testing}/charts/accuracy"), 409, "job_not_finished")
    assert "too much" in assert_problem(client.get(f"/v1/jobs/{failed}/charts/accuracy"), 409, "job_failed")["detail"]


def test_a_far_end_of_a_fan_is_left_beyond_the_edges_and_counted(drawn: dict[str, Any]) -> None:
    far = copy.deepcopy(drawn)
    for view in far["views"]:
        fans = view["fans"] = [copy.deepcopy(fan) for fan in (view["fans"] * 4)[:6]]
        fans[0]["ends"][-1] = [-222.0, -1951.0]

    figure = error_fan(far)

    assert all(abs(row["y"]) < 100 for row in figure.canvas.tables["numerical ends 1"])
    assert "1 of 12 ends beyond the edges" in json.dumps(figure.document())


def test_trajectories_say_why_exact_states_are_counted_unless_the_field_depends_on_the_time(
    drawn: dict[str, Any],
) -> None:
    assert "although the flow does not" in trajectories_with_crossings([drawn]).subtitle
    assert trajectories_with_crossings([drawn | {"autonomous": False}]).subtitle == ""


def test_a_portrait_without_fans_or_a_plane_of_inputs_says_what_is_missing(
    served: Served, portrayed: tuple[httpx.Client, str], drawn: dict[str, Any]
) -> None:
    client, _ = portrayed
    views = [view | {"fans": [], "input_regions": None} for view in drawn["views"]]
    bare = add_job(served.store, "portrait", drawn | {"views": views, "inputs": None, "input_plane": None})

    fan = assert_problem(client.get(f"/v1/jobs/{bare}/charts/error-fan"), 422, "nothing_to_draw")
    regions = assert_problem(client.get(f"/v1/jobs/{bare}/charts/decision-regions"), 422, "nothing_to_draw")

    assert "fan_samples" in fan["detail"]
    assert "inputs" in regions["detail"]


@pytest.mark.parametrize(("x", "places"), [("steps", [2, 8]), ("nfe", [2, 8, 40])])
def test_the_accuracy_of_a_sweep_is_drawn_against_steps_or_evaluations(
    served: Served, client: httpx.Client, x: str, places: list[float]
) -> None:
    train(served.store, SPHERES_JOB)
    place = f"/v1/jobs/{add_job(served.store, 'sweep', {}, SWEPT)}/charts"

    assert names(client.get(place)) == ["accuracy"]
    (rows, _) = client.get(f"{place}/accuracy", params={"x": x}).json()["data"].values()

    assert sorted(row["steps"] for row in rows) == places
    assert [row["trained"] for row in rows if row["steps"] == 2] == ["trained with euler-2"]


def test_without_an_axis_asked_for_nothing_swept_is_left_out(served: Served, client: httpx.Client) -> None:
    train(served.store, SPHERES_JOB)
    place = f"/v1/jobs/{add_job(served.store, 'sweep', {}, SWEPT)}/charts/accuracy"

    chosen, by_steps = (client.get(place, params=query).json() for query in ({}, {"x": "steps"}))

    assert sorted(row["steps"] for row in chosen["data"]["results 1"]) == [2, 8, 40]
    assert "1 test solver with tolerances" in by_steps["vega_lite"]["title"]["subtitle"]


def test_sweeps_of_several_models_are_drawn_by_training_configuration(served: Served, client: httpx.Client) -> None:
    train(served.store, SPHERES_JOB)
    other = [
        NewResult(**vars(result_row(method, steps, accuracy, train_steps)) | {"model": model, "version": version})
        for model, version, train_steps, accuracy in (("spheres", 2, 2, 0.5), ("b", 1, 8, 0.9))
        for method, steps in (("euler", 2), ("rk4", 2))
    ]
    first, second = (add_job(served.store, "sweep", {}, rows) for rows in (SWEPT, other))

    document = client.get(f"/v1/jobs/{first}/charts/accuracy", params={"with": second}).json()

    euler = {(row["label"], row["x"]): row for row in document["data"]["euler 1"]}
    assert euler["spheres, euler-2", 2]["accuracy"] == pytest.approx(0.75)
    assert euler["spheres, euler-2", 2]["sd"] == pytest.approx(0.25 * 2**0.5)
    assert euler["spheres, euler-2", 2]["n"] == 2
    assert euler["b, euler-8", 2]["sd"] is None
    assert "2 seeds" in document["title"]


def test_a_study_without_a_sweep_says_that_nothing_was_tested(served: Served, client: httpx.Client) -> None:
    base = {
        "dataset": {"kind": "concentric_spheres", "dimension": 2},
        "model": {"kind": "preset", "name": "sphere2"},
        "training": {"iterations": 5},
    }
    study = {"name": "untested", "base": base, "train": {"methods": ["euler"], "steps": [2]}, "seeds": 1, "sweep": None}
    submitted = client.post("/v1/studies", json=study)
    assert submitted.status_code == 202, submitted.text

    problem = assert_problem(
        client.get(f"/v1/studies/{submitted.json()['id']}/charts/accuracy"), 422, "nothing_to_draw"
    )

    assert "no model of the study has been tested yet" in problem["detail"]
    assert "x=nfe" not in problem["detail"]


def test_a_version_offers_the_charts_of_its_training_its_results_and_its_latest_portrait(
    served: Served, client: httpx.Client, drawn: dict[str, Any]
) -> None:
    train(served.store, SPHERES_JOB, metrics=ADAPTING)
    place = "/v1/models/spheres/versions/1/charts"
    assert names(client.get(place)) == ["training", "step-adaptation"]
    problem = assert_problem(client.get(f"{place}/accuracy"), 404, "chart_not_found")
    assert "training" in problem["detail"]
    add_job(served.store, "sweep", {}, SWEPT)
    add_job(served.store, "sweep", {}, [result_row("euler", 2, 0.9)])
    add_job(served.store, "portrait", drawn | {"views": []})
    add_job(served.store, "portrait", drawn)

    assert names(client.get(place)) == ["training", "step-adaptation", "accuracy", *PORTRAIT_CHARTS]
    for name in ("step-adaptation", "accuracy", "clusters"):
        assert is_png(client.get(f"{place}/{name}", params={"format": "png"}).content)
    # Of two results under one solver the later one is drawn.
    rows = client.get(f"{place}/accuracy").json()["data"]["results 1"]
    assert [row["accuracy"] for row in rows if row["steps"] == 2] == [0.9]


def test_a_training_shows_its_progress_and_others_beside_it(served: Served, client: httpx.Client) -> None:
    train(served.store, SPHERES_JOB, metrics=ADAPTING)
    version = train(served.store, SPHERES_JOB, metrics=ADAPTING)
    with served.store.reading() as tx:
        first = tx.jobs.list(kind="training").items[-1]
    place = f"/v1/jobs/{version.job_id}/charts"

    alone = client.get(f"{place}/training").json()
    compared = client.get(f"{place}/training", params={"with": first.id}).json()

    assert {row["training"] for row in alone["data"]["loss 1"]} == {"spheres"}
    assert {row["training"] for row in compared["data"]["loss 1"]} == {"spheres, backprop", "spheres, backprop (2)"}


def test_the_threshold_of_a_job_is_drawn_with_its_differences(served: Served, client: httpx.Client) -> None:
    adaptation = {"kind": "step", "threshold": 0.075}
    version = train(served.store, SPHERES_JOB | {"adaptation": adaptation}, metrics=ADAPTING)

    drawn = client.get(f"/v1/jobs/{version.job_id}/charts/step-adaptation").json()["data"]

    assert [row["limit"] for row in drawn["threshold 1"]] == ["threshold 7.5 %"]


def test_a_training_that_adapts_nothing_offers_no_adaptation(served: Served, client: httpx.Client) -> None:
    version = train(served.store, SPHERES_JOB, metrics={"loss": [(1, 0.5)]})
    running = submit(served.store, SPHERES_JOB)

    assert names(client.get(f"/v1/jobs/{version.job_id}/charts")) == ["training"]
    assert names(client.get(f"/v1/jobs/{running.id}/charts")) == []


def add_study_job(store: Store, metrics: dict[str, list[tuple[int, float]]]) -> str:
    """Store a study's job of the seeds 0 and 1 that runs and has written these series."""
    spec = {
        "name": "study",
        "base": {name: SPHERES_JOB[name] for name in ("dataset", "model")},
        "train": {"methods": ["euler"], "steps": [2]},
        "seeds": [0, 1],
    }
    with store.transaction() as tx:
        _, (job,) = tx.studies.submit(StudySpec.model_validate(spec))
    attempt = claim(store, job)
    with store.transaction() as tx:
        tx.metrics.append(job.id, attempt, metrics)
    return job.id


def test_a_seed_that_diverged_at_once_hides_no_chart_of_the_others(served: Served, client: httpx.Client) -> None:
    job_id = add_study_job(served.store, {f"seed1.{name}": points for name, points in ADAPTING.items()})
    place = f"/v1/jobs/{job_id}/charts"

    assert names(client.get(place)) == ["training", "step-adaptation"]
    progress = client.get(f"{place}/training").json()
    adaptation = client.get(f"{place}/step-adaptation").json()

    assert {row["training"] for row in progress["data"]["loss 1"]} == {"euler-2, seed 1"}
    assert "seed 1" in adaptation["title"]
    assert [row["value"] for row in adaptation["data"]["steps 1"]] == [4.0, 5.0, 6.0]


def test_series_of_different_seeds_make_no_chart_together(served: Served, client: httpx.Client) -> None:
    parts = {"seed0.steps": ADAPTING["steps"], "seed1.adaptation_accepted": ADAPTING["adaptation_accepted"]}
    job_id = add_study_job(served.store, parts)

    assert names(client.get(f"/v1/jobs/{job_id}/charts")) == []


def test_the_client_saves_charts(served: Served, drawn: dict[str, Any]) -> None:
    train(served.store, SPHERES_JOB)
    job_id = add_job(served.store, "portrait", drawn)

    with Client(served.url) as client:
        offers = client.charts(job_id)
        png = client.chart(job_id, "clusters")
        page = client.chart(job_id, "trajectories", format="html", beside=[job_id])

    assert [offer["name"] for offer in offers] == PORTRAIT_CHARTS
    assert is_png(png)
    assert page.startswith(b"<!doctype html>")


# Accepting portraits


def test_a_portrait_is_accepted_with_its_defaults_filled_in(served: Served, client: httpx.Client) -> None:
    train(served.store, SPHERES_JOB)

    response = client.post("/v1/evaluation-jobs", json={"kind": "portrait", "model": "spheres"})

    assert response.status_code == 202, response.text
    job = response.json()
    assert (job["kind"], job["version"]) == ("portrait", 1)
    assert (job["spec"]["solver"], job["spec"]["finer"]) == (EULER2, EULER4)
    assert job["links"]["charts"] == f"/v1/jobs/{job['id']}/charts"


@pytest.mark.parametrize(
    ("parts", "code", "path"),
    [
        ({"model": "tiny"}, "portrait_impossible", "model"),
        ({"solver": {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3}}, "portrait_impossible", "solver"),
        ({"finer": {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3}}, "portrait_impossible", "finer"),
        ({"finer": {"method": "rk4", "steps": 50_000}}, "budget_exceeded", "finer"),
        ({"solver": {"method": "euler", "steps": 40_000}, "samples": 90}, "budget_exceeded", "solver"),
    ],
)
def test_a_portrait_that_cannot_be_made_is_refused_with_the_part_to_change(
    served: Served, client: httpx.Client, parts: dict[str, Any], code: str, path: str
) -> None:
    train(served.store, SPHERES_JOB)
    train(served.store)

    response = client.post("/v1/evaluation-jobs", json={"kind": "portrait", "model": "spheres"} | parts)

    problem = assert_problem(response, 422, code)
    assert [error["path"] for error in problem["errors"]] == [path]
