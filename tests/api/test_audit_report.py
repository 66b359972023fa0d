"""The audit for people: its page; and for programs: its schema."""

import copy
import json
import re
import shlex
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import jsonschema
import pytest

import api.audit_report
from api.audit_report import CHARTS, CONTENT_SECURITY_POLICY, curl, interval_bar, report_page, share, what_to_do
from api.charts.audit import audit_ladder, crossing_map, error_transport
from api.charts.material import NothingToDraw
from api.client import Client
from api.schemas.audit import AuditResult, audit_result_schema
from tests.api.audit_results import EULER4, RESULTS, result_of
from tests.api.conftest import SPHERES_JOB, Served, assert_problem, claim, train
from tests.ode_core.audit.linear_models import circle, rotation

HOSTILE = '<script>alert("1")</script>&\'"><img src=x onerror=alert(1)>'
JOB: Any = SimpleNamespace(
    id="01", started_at=datetime(2026, 1, 1, tzinfo=UTC), finished_at=datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
)


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    """Results by verdict, and ``adaptive``, as they leave the database."""
    return {name: json.loads(json.dumps(make(), allow_nan=False)) for name, make in RESULTS.items()}


class Elements(HTMLParser):
    """All elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(result: dict[str, Any], **options: Any) -> str:
    return report_page(JOB, result, **{"server": "http://example.org", "protected": False} | options)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes half a second a chart."""
    monkeypatch.setattr(api.audit_report, "draw_apart", lambda *arguments: b"<svg><g id='a'></g></svg>")


# The schema


@pytest.mark.parametrize("name", RESULTS)
def test_a_real_result_fits_the_schema_to_the_last_field(results: dict[str, Any], name: str) -> None:
    AuditResult.model_validate_json(json.dumps(results[name]), strict=True)
    jsonschema.Draft202012Validator(audit_result_schema()).validate(results[name])


def test_the_results_are_of_every_verdict(results: dict[str, Any]) -> None:
    verdicts = {result["verdict"] for result in results.values()}
    assert verdicts == {"ode", "discrete", "inconclusive", "unresolved"}
    assert results["adaptive"]["mechanism"]["transport"]["fan"]["samples"] == 200
    assert all(len(json.dumps(result)) < 200_000 for result in results.values())


def test_a_field_that_is_not_described_is_refused(results: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(audit_result_schema())
    for place in ([], ["mechanism", "crossing", "map"], ["repair", "options", 0], ["flipping_samples", "listed", 0]):
        result = copy.deepcopy(results["discrete"])
        part = result
        for key in place:
            part = part[key]
        part["surprise"] = 1
        assert [error.validator for error in validator.iter_errors(result)], place


def test_every_field_is_described() -> None:
    schema = audit_result_schema()
    for name, model in {"AuditResult": schema, **schema["$defs"]}.items():
        if name.endswith("Spec") or name in ("SolverAnswer", "UploadedFacts"):
            continue  # of the requests
        assert model["description"], name
        for field, described in model["properties"].items():
            assert described.get("description"), (name, field)
            if {"type": "null"} in described.get("anyOf", []):
                what_null_means = described["description"] + model["description"]
                assert "null" in what_null_means or "likewise" in what_null_means, (name, field)


def test_the_server_gives_the_schema_and_names_it_in_its_description(client: httpx.Client) -> None:
    assert client.get("/v1/schemas/audit-result").json() == audit_result_schema()
    answer = client.get("/openapi.json").json()["paths"]["/v1/jobs/{job_id}/result"]["get"]["responses"]["200"]
    assert {"$ref": "#/components/schemas/AuditResult"} in answer["content"]["application/json"]["schema"]["anyOf"]


# The charts


def tables(figure: Any, name: str) -> list[dict[str, Any]]:
    (found,) = [rows for table, rows in figure.canvas.tables.items() if table.startswith(name)]
    return list(found)


def test_the_ladder_shows_every_rung_and_rings_the_training_solver(results: dict[str, Any]) -> None:
    result = results["discrete"]
    figure = audit_ladder(result)
    drawn = {(row["solver"], row["nfe"], row["accuracy"], row["differ"]) for row in tables(figure, "accuracy")}
    assert {row[1:] for row in drawn} == {
        (rung["nfe"], rung["accuracy"], rung["reference_flip_rate"]) for rung in result["ladder"]
    }
    (own,) = tables(figure, "trained, accuracy")
    assert (own["solver"], own["accuracy"], own["differ"]) == ("euler-4", 1.0, result["flip_rate"])
    assert tables(figure, "limit")[0]["differ"] == result["epsilon"]


def test_the_ladder_of_an_unresolved_audit_claims_no_converged_solution(results: dict[str, Any]) -> None:
    figure = audit_ladder(results["unresolved"])
    assert "converged" not in figure.subtitle
    assert not [name for name in figure.canvas.tables if name.startswith(("converged", "differences"))]


def test_the_crossing_map_stacks_certified_and_other_flags(results: dict[str, Any]) -> None:
    result = copy.deepcopy(results["discrete"])
    found = result["mechanism"]["crossing"]["map"]
    found["flagged"], found["certified"] = [0.5, 0.2, 0.0, 1.0], [0.3, 0.2, 0.0, 0.0]
    rows = tables(crossing_map(result), "shares")
    tops = {step: max(row["to"] for row in rows if row["first"] == step) for step in (1, 2, 3, 4)}
    assert list(tops.values()) == found["flagged"]
    certified = [row["to"] for row in rows if row["kind"] == "determinant < 0"]
    assert certified == found["certified"]
    assert [(row["left"], row["right"]) for row in rows[::2]] == [(0.5, 1.5), (1.5, 2.5), (2.5, 3.5), (3.5, 4.5)]


@pytest.mark.parametrize("name", ["discrete", "adaptive"])
def test_the_fan_shows_the_numbers_of_the_result(results: dict[str, Any], name: str) -> None:
    transport = results[name]["mechanism"]["transport"]
    figure = error_transport(results[name])
    ends = tables(figure, "size at the end")
    assert [row["median"] for row in ends] == [quantiles["median"] for quantiles in transport["fan"]["end"]]
    assert [row["turned"] for row in tables(figure, "turned")] == transport["margin"]["turned_by_step"]
    path = tables(figure, "margin of flipped samples")
    assert [row["p90"] for row in path] == [quantiles["p90"] for quantiles in transport["fan"]["path_of_flipped"]]
    assert [row["left"] - 0.5 for row in path] == transport["step_bounds"]


def test_without_a_mechanism_there_is_nothing_to_draw_and_the_reason_is_said(results: dict[str, Any]) -> None:
    for draw in (crossing_map, error_transport):
        with pytest.raises(NothingToDraw, match="it was not asked for"):
            draw(results["ode"])


def test_of_an_audit_without_a_map_and_a_fan_the_charts_say_that_it_has_to_be_made_again(
    results: dict[str, Any],
) -> None:
    # As they were before these charts; such results stay in a database that is migrated.
    result = copy.deepcopy(results["discrete"])
    del result["mechanism"]["crossing"]["map"], result["mechanism"]["transport"]["fan"]
    for draw in (crossing_map, error_transport):
        with pytest.raises(NothingToDraw, match="audit the model again"):
            draw(result)


def test_the_crossing_map_does_not_take_what_is_not_known_for_none(results: dict[str, Any]) -> None:
    result = copy.deepcopy(results["discrete"])
    assert crossing_map(result).subtitle == "none of the steps of 200 samples, 4 each at most"
    result["mechanism"]["crossing"]["undecided_share"] = 0.25
    told = crossing_map(result).subtitle
    assert told.endswith("4 each at most, is known to be such; of 25.0% nothing is known")


# The page


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("discrete", ["No, not an ODE", "Errors add up.", "Pin the solver", "fine-tune", "turned"]),
        ("adaptive", ["not an ODE", "heun_euler rtol=0.5 atol=0.5"]),
        ("ode", ["Yes, an ODE", "There is nothing to repair", "None: all 400 predictions are the same"]),
        ("inconclusive", ["Not decided", "Audit it with a larger epsilon", "predict with euler-4, or with a cheaper"]),
        ("unresolved", ["No reference, no verdict", "proves nothing", "failed"]),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_the_page_says_the_verdict_and_what_to_do(results: dict[str, Any], name: str, says: list[str]) -> None:
    result = results[name]
    text = " ".join(Elements(page_of(result)).text.split())
    assert " ".join(result["sentence"].split()) in text
    for words in says:
        assert words in text


@pytest.mark.parametrize(
    ("samples", "asked", "there", "said"),
    [
        (400, None, 400, "all 400 samples of the test split Trained"),
        (400, 5_000, 400, "all 400 samples of the test split, where 5,000 were asked for Trained"),
        (400, 400, 1_000, "the first 400 of 1,000 samples of the test split Trained"),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_the_page_says_how_many_samples_were_asked_for_and_how_many_there_are(
    results: dict[str, Any], samples: int, asked: int | None, there: int, said: str
) -> None:
    result = results["ode"] | {"samples": samples, "samples_asked": asked, "test_samples": there}
    assert said in " ".join(Elements(page_of(result)).text.split())


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(results: dict[str, Any]) -> None:
    result = copy.deepcopy(results["discrete"])
    assert "No such step was found" in Elements(page_of(result)).text  # instead of an empty chart
    result["mechanism"]["crossing"]["flagged_share"] = 0.25
    page = page_of(result)
    elements = Elements(page).found
    assert sum(tag == "svg" for tag, _ in elements) == len(CHARTS) + 1
    assert not [tag for tag, _ in elements if tag in ("script", "link", "iframe", "object", "embed", "base", "form")]
    for _, attributes in elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "action"):
                assert (value or "").startswith(("data:image/png;base64,", "#"))
    assert not re.findall(r"@import|url\((?!#)", page)
    identifiers = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {name for name in re.findall(r"url\(#([^)]+)\)", page)} <= set(identifiers)
    (meta,) = [a["content"] for tag, a in elements if tag == "meta" and "http-equiv" in a]
    assert meta == CONTENT_SECURITY_POLICY


def test_an_undecided_audit_asks_for_samples_before_it_offers_repairs(results: dict[str, Any]) -> None:
    result = results["inconclusive"] | {"repair": results["discrete"]["repair"]}
    needed = result["samples_needed"]
    assert what_to_do(result | {"test_samples": needed}).startswith(f"Audit it on about {needed} samples")
    assert f"about {needed} samples: the test split has 40" in what_to_do(result)
    assert what_to_do(results["discrete"]) == results["discrete"]["repair"]["recommendation"]


def test_the_page_and_the_repair_in_the_data_of_an_undecided_audit_say_the_same() -> None:
    result = result_of(rotation(0.2), circle(100), EULER4, mechanism=True)
    assert result["verdict"] == "inconclusive"
    assert result["repair"]["recommendation"] == what_to_do(result)


@pytest.mark.usefixtures("undrawn")
def test_the_page_tells_which_samples_the_fan_and_the_margin_are_of_and_what_it_knows_of_coarser_solvers(
    results: dict[str, Any],
) -> None:
    result = copy.deepcopy(results["discrete"])
    result["mechanism"]["transport"]["converged"] = 192
    text = " ".join(Elements(page_of(result)).text.split())
    assert "the fan is of the other 192, what the steps add to the margin (transport.margin) of all 200" in text
    text = " ".join(Elements(page_of(results["ode"])).text.split())
    assert "says nothing about solvers" not in text
    assert "Of solvers that are less accurate than euler-4 it says only what" in text


def test_the_limit_is_named_beside_the_panel_where_no_curve_is(results: dict[str, Any]) -> None:
    panel = audit_ladder(results["discrete"]).document()["vconcat"][1]
    (text,) = [layer for layer in panel["layer"] if layer["mark"]["type"] == "text"]
    assert text["encoding"]["x"]["value"] == panel["width"]
    assert text["mark"]["align"] == "left"
    assert text["mark"]["dx"] > 0


@pytest.mark.usefixtures("undrawn")
def test_hostile_texts_stay_texts(results: dict[str, Any]) -> None:
    result = copy.deepcopy(results["discrete"])
    result["model"] = result["sentence"] = result["mechanism"]["sentence"] = HOSTILE
    result["repair"]["recommendation"] = result["reference"]["reason"] = HOSTILE
    result["measured"]["versions"] = {HOSTILE: HOSTILE}
    for option in result["repair"]["options"]:
        option["sentence"] = HOSTILE
        option["request"] = {"method": "POST", "path": "/v1/x", "body": {HOSTILE: HOSTILE}}
    page = Elements(page_of(result, server=f"http://{HOSTILE}"))
    assert not [tag for tag, attributes in page.found if tag == "script" or "onerror" in attributes]
    assert page.text.count(HOSTILE) >= 8


@pytest.mark.usefixtures("undrawn")
def test_pictures_of_images_are_in_the_page(results: dict[str, Any]) -> None:
    result = copy.deepcopy(results["discrete"])
    for one in result["flipping_samples"]["listed"]:
        one |= {"picture": "iVBORw0KGgo=", "coordinates": None}
    pictures = [attributes for tag, attributes in Elements(page_of(result)).found if tag == "img"]
    assert len(pictures) == len(result["flipping_samples"]["listed"])
    assert pictures[0]["src"] == "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.usefixtures("undrawn")
def test_a_repair_comes_with_the_request_that_takes_it(results: dict[str, Any]) -> None:
    result = copy.deepcopy(results["discrete"])
    field = {"solver": {"method": "euler", "steps": 4}, "kind": "iterates", "terms": 4}
    making = {"from_version": 1, "modified_field": field}
    request = {"method": "POST", "path": "/v1/models/spheres/versions", "body": making}
    for option in result["repair"]["options"]:
        if option["kind"] == "modified_field":
            option |= {"offered": True, "modified_field": field, "request": request}
    (job,) = [one["request"]["body"] for one in result["repair"]["options"] if one["kind"] == "fine_tune"]
    words = shlex.split(curl("http://example.org", "POST", "/v1/training-jobs", job, protected=True))
    assert words[:2] == ["curl", "--json"]
    assert json.loads(words[2]) == job
    assert words[3:] == ["--header", "Authorization: Bearer $ODENESS_API_KEY", "http://example.org/v1/training-jobs"]
    text = Elements(page_of(result)).text
    assert curl("http://example.org", "POST", "/v1/training-jobs", job, protected=False) in text
    assert curl("http://example.org", "POST", "/v1/models/spheres/versions", making, protected=False) in text


@pytest.mark.usefixtures("undrawn")
def test_what_to_do_leads_to_the_requests(results: dict[str, Any]) -> None:
    found = Elements(page_of(results["discrete"])).found
    targets = [str(attributes["href"]) for tag, attributes in found if tag == "a"]

    assert "#request-pin_solver" in targets
    assert len(targets) == len(
        {option["kind"] for option in results["discrete"]["repair"]["options"] if option["offered"]}
    )
    assert {target[1:] for target in targets} <= {attributes["id"] for tag, attributes in found if tag == "pre"}
    assert not [tag for tag, _ in Elements(page_of(results["ode"])).found if tag == "a"]


def test_a_request_is_one_command_whatever_is_in_it() -> None:
    body = {"a": "'; rm -rf / #"}
    words = shlex.split(curl("http://h", "PUT", "/v1/$(x)", body, protected=False))
    assert json.loads(words[2]) == body
    assert words[3:] == ["--request", "PUT", "http://h/v1/$(x)"]


def test_the_bar_has_the_interval_and_the_limit_in_their_places() -> None:
    bar = interval_bar({"flip_interval": [0.1, 0.4], "flip_rate": 0.2, "epsilon": 0.05})
    assert (bar.end, bar.low, bar.high, bar.rate, bar.limit) == (0.5, 20, 80, 40, 10)


def test_a_share_just_above_a_limit_does_not_read_as_the_limit() -> None:
    assert [share(value) for value in (0.0102, 0.356, 0.0, 1.0, 0.0004, None)] == [
        "1.02 %",
        "35.6 %",
        "0 %",
        "100 %",
        "0.04 %",
        "–",
    ]


# Over HTTP


def store_audit(served: Served, result: dict[str, Any] | None) -> str:
    train(served.store, SPHERES_JOB)
    with served.store.transaction() as tx:
        job = tx.jobs.submit("audit", {}, model="spheres", model_version=1)
    attempt = claim(served.store, job)
    if result is not None:
        with served.store.transaction() as tx:
            tx.jobs.succeed(job.id, attempt, result)
    return job.id


@pytest.mark.usefixtures("undrawn")
def test_the_report_is_linked_shown_and_saved(served: Served, results: dict[str, Any], tmp_path: Path) -> None:
    job_id = store_audit(served, results["discrete"])
    with served.client() as client:
        link = client.get(f"/v1/jobs/{job_id}").json()["links"]["report"]
        response = client.get(link)
        assert f'href="{link}"' in client.get("/").text
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"] == f"{CONTENT_SECURITY_POLICY}; frame-ancestors 'none'"
    assert "content-disposition" not in response.headers
    with Client(served.url) as connected:
        path = connected.report(job_id, tmp_path / "report.html")
    assert path.read_text() == response.text


def test_a_saved_report_is_named_by_its_model(
    served: Served, results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None
) -> None:
    job_id = store_audit(served, results["ode"])
    monkeypatch.chdir(tmp_path)
    with Client(served.url) as connected:
        assert connected.report(connected.job(job_id)) == Path("odeness-audit-spheres-v1.html")
    assert (tmp_path / "odeness-audit-spheres-v1.html").read_text().startswith("<!doctype html>")


def test_where_there_is_no_report_the_answer_says_what_to_do(served: Served, results: dict[str, Any]) -> None:
    running = store_audit(served, None)
    old = store_audit(served, {key: value for key, value in results["ode"].items() if key != "measured"})
    with served.client() as client:
        training = client.get("/v1/jobs", params={"kind": "training"}).json()["data"][0]
        assert training["links"]["report"] is None
        problem = assert_problem(client.get(f"/v1/jobs/{training['id']}/report"), 404, "report_not_found")
        assert "submit an audit" in problem["detail"]
        assert_problem(client.get(f"/v1/jobs/{running}/report"), 409, "job_not_finished")
        assert_problem(client.get(f"/v1/jobs/{old}/report"), 409, "report_impossible")
        assert_problem(client.get("/v1/jobs/nobody/report"), 404, "job_not_found")


def test_an_audit_and_its_version_offer_its_charts(served: Served, results: dict[str, Any]) -> None:
    job_id = store_audit(served, results["discrete"])
    with served.client() as client:
        for place in (f"/v1/jobs/{job_id}/charts", "/v1/models/spheres/versions/1/charts"):
            assert set(CHARTS) <= {offer["name"] for offer in client.get(place).json()["data"]}
            for name in CHARTS:
                chart = client.get(f"{place}/{name}").json()
                assert chart["name"] == name
                assert chart["data"]
