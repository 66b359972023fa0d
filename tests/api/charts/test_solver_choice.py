"""The figure of the solvers to serve a model with."""

from typing import Any

import httpx
import pytest

from api.charts.material import NothingToDraw
from api.charts.solver_choice import agreement_against_cost
from tests.api.conftest import SPHERES_JOB, Served, assert_problem, claim, train
from tests.api.solver_choices import choice, store_choice


def table(name: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    return agreement_against_cost(found).canvas.tables[name]


def test_the_front_is_told_from_what_it_beats() -> None:
    assert [row["solver"] for row in table("best by nfe 1", choice())] == [
        "euler-2",
        "rk4-2",
        "rk4-3",
        "dopri5 rtol=0.01 atol=0.01",
        "midpoint-10",
    ]
    assert [row["solver"] for row in table("beaten by nfe 1", choice())] == ["midpoint-2", "rk4-64"]


def test_the_line_goes_up_to_the_right_end() -> None:
    corners = [(row["nfe"], round(1000 * row["disagreement"])) for row in table("front by nfe 1", choice())]

    assert corners == [(2, 30), (8, 5), (12, 1), (14.5, 0), (256, 0)]


def test_the_cheapest_for_an_agreement_are_named() -> None:
    names = [row["chosen"] for row in table("chosen by microseconds 1", choice())]

    assert names == ["rk4-2: 99%", "rk4-3: 99.9%", "dopri5 rtol=0.01 atol=0.01: 100%"]


def test_the_names_stay_within_their_panels() -> None:
    # Long ones used to begin right of their mark wherever that was.
    document = agreement_against_cost(choice()).document()
    texts = [
        layer["mark"] | {"panel": number}
        for number, panel in enumerate(document["hconcat"])
        for layer in panel["layer"]
        if layer["encoding"].get("text", {}).get("field") == "chosen"
    ]
    assert len(texts) == 2 * 2 * 3, "an outline and a name in two panels for three solvers"
    last = [text for text in texts if text["panel"] == 1][-1]
    assert (last["align"], last["dx"] < 0) == ("right", True), "the slowest solver is at the right edge"


def test_what_was_not_timed_has_no_place_among_the_times() -> None:
    assert [row["solver"] for row in table("beaten by microseconds 1", choice())] == ["midpoint-2"]


def test_of_a_model_that_is_no_ode_no_front_is_drawn() -> None:
    figure = agreement_against_cost(choice("discrete"))

    assert not any(name.startswith("front") for name in figure.canvas.tables)
    assert [row["chosen"] for row in figure.canvas.tables["chosen by nfe 1"]] == ["euler-2: 99%, 99.9%, 100%"]
    assert "the only one that is right" in figure.title


def test_without_a_time_there_is_nothing_to_draw() -> None:
    found = choice()
    for one in found["candidates"]:
        one["seconds_per_sample"] = None

    with pytest.raises(NothingToDraw):
        agreement_against_cost(found)


def test_an_audit_and_its_version_offer_it_as_picture_page_and_data(served: Served, client: httpx.Client) -> None:
    job_id = store_choice(served.store, train(served.store, SPHERES_JOB))

    for place in (f"/v1/jobs/{job_id}/charts", "/v1/models/spheres/versions/1/charts"):
        assert "solver-choice" in [offer["name"] for offer in client.get(place).json()["data"]]
        assert client.get(f"{place}/solver-choice").json()["name"] == "solver-choice"
    for kind in ("png", "html"):
        assert client.get(f"{place}/solver-choice", params={"format": kind}).status_code == 200


def test_an_audit_that_compared_no_solvers_says_what_to_do(served: Served, client: httpx.Client) -> None:
    train(served.store, SPHERES_JOB)
    with served.store.transaction() as tx:
        job = tx.jobs.submit("audit", {}, model="spheres", model_version=1)
    attempt = claim(served.store, job)
    with served.store.transaction() as tx:
        tx.jobs.succeed(job.id, attempt, {"verdict": "ode"})

    problem = assert_problem(client.get(f"/v1/jobs/{job.id}/charts/solver-choice"), 422, "nothing_to_draw")

    assert "audit it again" in problem["detail"]


def test_the_title_over_one_panel_has_lines_that_are_no_wider_than_it() -> None:
    alone = choice("discrete")
    for one in alone["candidates"][1:]:
        one["seconds_per_sample"] = None
    figure = agreement_against_cost(alone)
    lines = figure.document()["title"]["text"]
    assert " ".join(lines) == figure.title
    assert max(map(len, lines)) <= 50
    both = agreement_against_cost(choice())
    assert len(both.document()["hconcat"]) == 2
    assert both.document()["title"]["text"] == both.title
