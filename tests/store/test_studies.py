"""Studies move with their jobs, in the transaction in which a job ends."""

import threading
from typing import Any

import pytest

from ode_core.specs import StudySpec
from store.errors import IllegalTransition, NotFound
from store.jobs import Job
from store.results import NewResult
from store.studies import Study
from store.study_jobs import failed_seeds
from store.study_search import search_findings
from store.unit_of_work import Store
from tests.store.conftest import Clock

BASE: dict[str, Any] = {
    "dataset": {"kind": "concentric_spheres"},
    "model": {"kind": "preset", "name": "sphere2"},
    "training": {"iterations": 100},
}
GRID: dict[str, Any] = {
    "name": "grid",
    "base": BASE,
    "train": {"methods": ["euler"], "steps": [1, 4, 2]},
    "seeds": [0, 7],
}
SEARCH: dict[str, Any] = {"name": "search", "base": BASE, "seeds": [0, 7], "search": {"lowest": 1, "highest": 16}}
DIVERGED = {"code": "training_diverged", "message": "in iteration 3 of 100 the loss is not finite"}
LOST = {"code": "out_of_memory", "message": "the worker ran out of memory"}


def submit(store: Store, document: dict[str, Any] = GRID) -> tuple[Study, list[Job]]:
    with store.transaction() as tx:
        return tx.studies.submit(StudySpec.model_validate(document))


def read(store: Store, study: Study) -> tuple[Study, list[Job]]:
    with store.reading() as tx:
        found = tx.studies.get(study.id)
        assert found is not None
        return found, list(tx.studies.jobs(study.id))


def claim(store: Store, job: Job) -> int:
    with store.transaction() as tx:
        claimed = tx.jobs.claim(job.id, "a worker", 30)
    assert claimed is not None
    return claimed.attempt


def succeed(store: Store, job: Job, result: dict[str, Any] | None = None) -> None:
    attempt = claim(store, job)
    with store.transaction() as tx:
        tx.jobs.succeed(job.id, attempt, result or {})


def fail(store: Store, job: Job, error: dict[str, Any]) -> None:
    attempt = claim(store, job)
    with store.transaction() as tx:
        tx.jobs.fail(job.id, attempt, error)


def measured(job: Job, drops: dict[int, float]) -> dict[str, Any]:
    """The result of a search's job whose models lose so much accuracy."""
    return {
        "runs": [
            {"seed": seed, "search": {"train_accuracy": 0.99, "test_accuracy": 0.99 - drop, "flip_rate": drop}}
            for seed, drop in drops.items()
        ]
    }


def test_a_grid_is_submitted_whole_and_its_longest_jobs_come_first(store: Store) -> None:
    study, submitted = submit(store)

    found, jobs = read(store, study)

    assert (found, found.status, found.finished) == (study, "running", False)
    assert [job.spec["label"] for job in jobs] == ["euler-1", "euler-4", "euler-2"]
    assert [job.spec["label"] for job in submitted] == ["euler-4", "euler-2", "euler-1"]
    assert [(job.kind, job.study_id, job.study_cell, job.model) for job in jobs] == [
        ("study_run", study.id, 0, "grid.euler-1"),
        ("study_run", study.id, 1, "grid.euler-4"),
        ("study_run", study.id, 2, "grid.euler-2"),
    ]
    assert StudySpec.model_validate(found.spec) == StudySpec.model_validate(GRID)


def test_a_study_succeeds_with_its_last_job(store: Store, clock: Clock) -> None:
    study, jobs = submit(store)
    for job in jobs[:-1]:
        succeed(store, job)
        assert read(store, study)[0].status == "running"

    clock.forward(5)
    succeed(store, jobs[-1])

    ended, _ = read(store, study)
    assert (ended.status, ended.finished_at) == ("succeeded", clock.now)


def test_a_rolled_back_end_of_a_job_leaves_the_study_running(store: Store) -> None:
    study, jobs = submit(store)
    for job in jobs[:-1]:
        succeed(store, job)
    attempt = claim(store, jobs[-1])

    def crash() -> None:
        with store.transaction() as tx:
            tx.jobs.succeed(jobs[-1].id, attempt, {})
            raise RuntimeError("the power fails")

    with pytest.raises(RuntimeError):
        crash()

    assert read(store, study)[0].status == "running"


@pytest.mark.parametrize("end", ["fail", "lose the worker", "cancel one"])
def test_a_study_whose_job_does_not_succeed_finishes_and_says_so(store: Store, clock: Clock, end: str) -> None:
    study, jobs = submit(store)
    if end == "fail":
        fail(store, jobs[0], LOST)
    elif end == "cancel one":
        with store.transaction() as tx:
            tx.jobs.request_cancel(jobs[0].id)
    else:
        claim(store, jobs[0])
        clock.forward(31)
        with store.transaction() as tx:
            tx.jobs.expire_lease(jobs[0].id, max_failures=1)

    assert read(store, study)[0].status == "running"
    for job in jobs[1:]:
        succeed(store, job)

    assert read(store, study)[0].status == ("cancelled" if end == "cancel one" else "failed")


def test_a_training_that_diverges_is_a_result_of_the_study(store: Store) -> None:
    study, jobs = submit(store)
    fail(store, jobs[0], DIVERGED)
    succeed(store, jobs[1], {"failed_seeds": [{"seed": 7, "reason": "too steep"}]})
    succeed(store, jobs[2])

    ended, found = read(store, study)

    assert ended.status == "succeeded"
    by_label = {job.spec["label"]: failed_seeds(job) for job in found}
    assert by_label == {
        "euler-1": [],
        "euler-4": [{"seed": seed, "reason": DIVERGED["message"]} for seed in (0, 7)],
        "euler-2": [{"seed": 7, "reason": "too steep"}],
    }
    with pytest.raises(IllegalTransition, match="nothing to resume"), store.transaction() as tx:
        tx.studies.resume(study.id)


def test_jobs_that_end_at_the_same_moment_end_their_study_once(store: Store) -> None:
    for _ in range(5):
        study, jobs = submit(store)
        attempts = {job.id: claim(store, job) for job in jobs}
        barrier = threading.Barrier(len(jobs))
        errors: list[BaseException] = []

        def end(
            job: Job,
            attempts: dict[str, int] = attempts,
            barrier: threading.Barrier = barrier,
            errors: list[BaseException] = errors,
        ) -> None:
            barrier.wait()
            try:
                with store.transaction() as tx:
                    tx.studies.hold_of_job(job.id)
                    tx.results.add(job.id, attempts[job.id], [row(job)])
                    tx.jobs.succeed(job.id, attempts[job.id], {})
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=end, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert errors == []
        assert read(store, study)[0].status == "succeeded"


def row(job: Job) -> NewResult:
    solver = {"method": "euler", "steps": 2}
    return NewResult(
        model="grid.euler-1",
        version=1,
        dataset={"kind": "concentric_spheres"},
        train_solver=solver,
        test_solver=solver,
        nfe=2.0,
        samples=10,
        failures=0,
        seconds=0.1,
        study_id=job.study_id,
        seed=0,
    )


def test_cancelling_while_jobs_end_leaves_no_job_and_no_study_behind(store: Store) -> None:
    """On PostgreSQL the two take locks in the same order, or one would be ended as a deadlock."""
    for _ in range(5):
        study, jobs = submit(store)
        attempts = {job.id: claim(store, job) for job in jobs}
        barrier = threading.Barrier(len(jobs) + 1)
        errors: list[BaseException] = []

        def end(
            job: Job,
            attempts: dict[str, int] = attempts,
            barrier: threading.Barrier = barrier,
            errors: list[BaseException] = errors,
        ) -> None:
            barrier.wait()
            try:
                with store.transaction() as tx:
                    tx.studies.hold_of_job(job.id)
                    tx.results.add(job.id, attempts[job.id], [row(job)])
                    tx.jobs.succeed(job.id, attempts[job.id], {})
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=end, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        barrier.wait()
        with store.transaction() as tx:
            tx.studies.request_cancel(study.id)
        for thread in threads:
            thread.join()

        assert errors == []
        assert read(store, study)[0].status == "succeeded"  # each job finished before it heard of the cancel


def test_cancelling_ends_waiting_jobs_at_once_and_running_ones_when_they_hear_of_it(store: Store) -> None:
    study, jobs = submit(store)
    succeed(store, jobs[0])
    attempt = claim(store, jobs[1])

    with store.transaction() as tx:
        asked = tx.studies.request_cancel(study.id)
    assert asked.status == "cancelling"
    with store.transaction() as tx:
        assert tx.jobs.heartbeat(jobs[1].id, attempt, 30)
        tx.jobs.finish_cancelled(jobs[1].id, attempt)

    ended, found = read(store, study)
    assert ended.status == "cancelled"
    assert ended.cancel_requested_at is not None
    assert sorted(job.status for job in found) == ["cancelled", "cancelled", "succeeded"]
    with store.transaction() as tx:
        assert tx.studies.request_cancel(study.id) == ended


def test_cancelling_a_study_nobody_works_on_ends_it(store: Store) -> None:
    study, _ = submit(store)

    with store.transaction() as tx:
        assert tx.studies.request_cancel(study.id).status == "cancelled"
    with pytest.raises(NotFound), store.transaction() as tx:
        tx.studies.request_cancel("no such study")


def test_resuming_submits_what_is_not_done_again_and_keeps_the_rest(store: Store) -> None:
    study, jobs = submit(store)
    succeed(store, jobs[0])
    fail(store, jobs[1], LOST)
    with store.transaction() as tx:
        tx.studies.request_cancel(study.id)

    with store.transaction() as tx:
        resumed, again = tx.studies.resume(study.id)

    assert (resumed.status, resumed.finished_at, resumed.cancel_requested_at) == ("running", None, None)
    assert {job.spec["label"]: job.spec["continues"] for job in again} == {
        "euler-2": jobs[1].id,
        "euler-1": jobs[2].id,
    }
    _, found = read(store, study)
    assert [(job.spec["label"], job.status) for job in found] == [
        ("euler-1", "queued"),
        ("euler-4", "succeeded"),
        ("euler-2", "queued"),
    ]
    with store.reading() as tx:
        old = tx.jobs.require(jobs[1].id)
        assert (old.study_id, old.study_cell, old.status) == (study.id, None, "failed")
        assert tx.studies.progress([study.id])[study.id].jobs == 3
    for job in again:
        succeed(store, job)
    assert read(store, study)[0].status == "succeeded"


def test_a_running_study_is_not_resumed(store: Store) -> None:
    study, _ = submit(store)

    with pytest.raises(IllegalTransition, match="the study is running"), store.transaction() as tx:
        tx.studies.resume(study.id)


def test_progress_is_that_of_all_jobs_together(store: Store) -> None:
    study, jobs = submit(store)
    succeed(store, jobs[0])
    attempt = claim(store, jobs[1])
    with store.transaction() as tx:
        tx.jobs.report_progress(jobs[1].id, attempt, 40, 100)

    with store.reading() as tx:
        progress = tx.studies.progress([study.id, "no such study"])

    assert list(progress) == [study.id]
    whole = progress[study.id]
    assert (whole.step, whole.total, whole.jobs, whole.finished_jobs) == (140, 300, 3, 1)


def test_jobs_and_studies_are_listed_by_study_name_and_status(store: Store) -> None:
    grid, _ = submit(store)
    search, (first,) = submit(store, SEARCH)
    with store.transaction() as tx:
        tx.studies.request_cancel(grid.id)

    with store.reading() as tx:
        assert [one.id for one in tx.studies.list().items] == [search.id, grid.id]
        assert [one.id for one in tx.studies.list(status="cancelled").items] == [grid.id]
        assert [one.id for one in tx.studies.list(name="search").items] == [search.id]
        page = tx.studies.list(limit=1)
        assert [one.id for one in tx.studies.list(limit=1, after=page.next_cursor).items] == [grid.id]
        assert [job.id for job in tx.jobs.list(study=search.id).items] == [first.id]
        assert tx.studies.unrung_jobs(search.id) == [first.id]


def test_a_search_submits_its_next_step_count_in_the_transaction_that_ends_the_one_before(store: Store) -> None:
    study, (job,) = submit(store, SEARCH)
    labels = [job.spec["label"]]
    while job.status == "queued":
        steps = job.spec["training"]["solver"]["steps"]
        # Seed 7 needs eight steps, seed 0 two.
        drops = {0: 0.0 if steps >= 2 else 0.4, 7: 0.05 if steps >= 8 else 0.3}
        succeed(store, job, measured(job, drops))
        _, jobs = read(store, study)
        job = jobs[-1]
        labels.append(job.spec["label"])

    ended, jobs = read(store, study)
    assert ended.status == "succeeded"
    assert [one.spec["label"] for one in jobs] == ["euler-4", "euler-8"]
    spec = StudySpec.model_validate(study.spec)
    assert spec.search is not None
    found = search_findings(spec, jobs)
    assert found["bracket"] == {"last_failing": 4, "first_passing": 8}
    assert (found["finished"], found["monotone"], found["violations"]) == (True, True, [])
    assert (found["runs"], found["full_grid_runs"], found["runs_saved"]) == (4, 10, 6)
    assert [(one["steps"], one["passes"]) for one in found["checked"]] == [(4, False), (8, True)]
    assert found["checked"][0]["by_seed"]["7"]["passes"] is False
    assert found["checked"][0]["by_seed"]["0"]["passes"] is True


def test_in_a_search_a_diverged_seed_does_not_pass_and_any_other_failure_ends_it(store: Store) -> None:
    study, (job,) = submit(store, SEARCH)
    fail(store, job, DIVERGED)
    _, jobs = read(store, study)
    assert [one.spec["label"] for one in jobs] == ["euler-4", "euler-8"]
    fail(store, jobs[1], LOST)

    ended, jobs = read(store, study)
    assert (ended.status, len(jobs)) == ("failed", 2)
    with store.transaction() as tx:
        _, again = tx.studies.resume(study.id)
    assert [one.spec["label"] for one in again] == ["euler-8"]
    succeed(store, again[0], measured(again[0], {0: 0.0, 7: 0.4}))
    ended, jobs = read(store, study)
    assert ended.status == "running"
    assert [one.spec["label"] for one in jobs] == ["euler-4", "euler-8", "euler-16"]


def findings_of(store: Store, study: Study) -> dict[str, Any]:
    spec = StudySpec.model_validate(study.spec)
    assert spec.search is not None
    return search_findings(spec, read(store, study)[1])


def test_what_a_lost_worker_did_not_measure_is_told_and_counts_as_no_answer(store: Store) -> None:
    study, (job,) = submit(store, SEARCH)
    fail(store, job, LOST)

    found = findings_of(store, study)

    assert found["checked"] == []
    assert found["bracket"] == {"last_failing": None, "first_passing": None}
    assert (found["finished"], found["runs_saved"]) == (False, None)
    assert found["not_measured"] == [{"steps": 4, "seeds": [0, 7], "reason": LOST["message"]}]


def test_the_last_step_count_of_a_search_without_an_answer_leaves_it_unfinished(store: Store) -> None:
    study, (job,) = submit(store, SEARCH | {"search": {"lowest": 1, "highest": 2}})
    succeed(store, job, measured(job, {0: 0.4, 7: 0.4}))
    second = read(store, study)[1][-1]
    with store.transaction() as tx:
        tx.studies.request_cancel(study.id)

    found = findings_of(store, study)

    assert found["finished"] is False
    assert found["bracket"] == {"last_failing": 1, "first_passing": None}
    assert found["not_measured"] == [{"steps": 2, "seeds": [0, 7], "reason": "it was cancelled"}]
    assert second.spec["label"] == "euler-2"


def test_a_diverged_training_is_measured_and_does_not_pass(store: Store) -> None:
    study, (job,) = submit(store, SEARCH)
    fail(store, job, DIVERGED)

    found = findings_of(store, study)

    assert found["not_measured"] == []
    assert found["bracket"] == {"last_failing": 4, "first_passing": None}
    assert {one["reason"] for one in found["checked"][0]["by_seed"].values()} == {DIVERGED["message"]}


def test_a_cancelled_search_goes_on_where_it_was(store: Store) -> None:
    study, (job,) = submit(store, SEARCH)
    attempt = claim(store, job)
    with store.transaction() as tx:
        tx.studies.request_cancel(study.id)
    with store.transaction() as tx:  # it was done before it heard of the cancel
        tx.jobs.succeed(job.id, attempt, measured(job, {0: 0.0, 7: 0.0}))
    assert read(store, study)[0].status == "cancelled"

    with store.transaction() as tx:
        resumed, again = tx.studies.resume(study.id)

    assert resumed.status == "running"
    assert [one.spec["label"] for one in again] == ["euler-1"]


def test_a_search_that_is_not_stacked_goes_on_when_all_seeds_are_there(store: Store) -> None:
    base = BASE | {"gradient": "checkpoint"}
    study, jobs = submit(store, SEARCH | {"base": base})
    assert [job.spec["seeds"] for job in jobs] == [[0], [7]]

    succeed(store, jobs[0], measured(jobs[0], {0: 0.0}))
    assert len(read(store, study)[1]) == 2
    succeed(store, jobs[1], measured(jobs[1], {7: 0.5}))

    assert [job.spec["label"] for job in read(store, study)[1]] == ["euler-4", "euler-4", "euler-8", "euler-8"]


def test_seeds_that_pass_only_at_a_coarser_step_are_told(store: Store) -> None:
    study, (job,) = submit(store, SEARCH)
    succeed(store, job, measured(job, {0: 0.0, 7: 0.4}))
    _, jobs = read(store, study)
    succeed(store, jobs[-1], measured(jobs[-1], {0: 0.4, 7: 0.0}))

    _, jobs = read(store, study)
    spec = StudySpec.model_validate(study.spec)
    assert spec.search is not None
    found = search_findings(spec, jobs)

    assert found["bracket"] == {"last_failing": 8, "first_passing": None}
    assert found["monotone"] is False
    assert found["violations"] == [{"seed": 0, "passes_at": 4, "fails_at": 8}]
