"""Random histories of jobs: workers that stop, stall and come back, users who cancel, reconcilers."""

from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from store.engine import create_engine_from
from store.errors import IllegalTransition, LeaseLost
from store.job_lifecycle import LEGAL
from store.jobs import Job, JobStatus
from store.reconciliation import reconcile
from store.settings import Settings
from store.unit_of_work import Store, Transaction

SETTINGS = Settings(lease_seconds=30, heartbeat_seconds=5, max_failures=2, no_progress_seconds=100)
Held = tuple[str, int]


class JobHistories(RuleBasedStateMachine):
    """Runs operations in any order, stale workers included, and checks what must always hold."""

    url: str
    jobs: Bundle[str] = Bundle("jobs")
    held: Bundle[Held] = Bundle("held")  # what a worker believes to hold, rightly or not

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        self.store = Store(create_engine_from(self.url), clock=lambda: self.now)
        self.known: dict[str, Job] = {}
        self.started: dict[Held, int] = {}  # claims by job and attempt

    def teardown(self) -> None:
        self.store.close()

    @initialize(target=jobs)
    def first(self) -> str:
        return self.submit_one()

    @rule(target=jobs)
    def submit(self) -> str:
        return self.submit_one()

    def submit_one(self) -> str:
        with self.store.transaction() as tx:
            job = tx.jobs.submit("training", {})
        self.known[job.id] = job
        return job.id

    @rule(target=held, job_id=jobs)
    def claim(self, job_id: str) -> Held:
        with self.store.transaction() as tx:
            claim = tx.jobs.claim(job_id, "w", SETTINGS.lease_seconds)
        if claim is None:
            assert self.known[job_id].status != "queued"
            return job_id, 0
        key = job_id, claim.attempt
        self.started[key] = self.started.get(key, 0) + 1
        return key

    @rule(seconds=st.sampled_from([1, 10, 29, 31, 101]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(held=held)
    def heartbeat(self, held: Held) -> None:
        self.as_worker(held, lambda tx: tx.jobs.heartbeat(*held, SETTINGS.lease_seconds))

    @rule(held=held, step=st.integers(0, 5))
    def progress(self, held: Held, step: int) -> None:
        self.as_worker(held, lambda tx: tx.jobs.report_progress(*held, step, 5))

    @rule(held=held)
    def record(self, held: Held) -> None:
        self.as_worker(held, lambda tx: tx.events.record(*held, "resumed", {}))

    @rule(held=held)
    def succeed(self, held: Held) -> None:
        self.as_worker(held, lambda tx: tx.jobs.succeed(*held, {"x": 1}))

    @rule(held=held)
    def fail(self, held: Held) -> None:
        self.as_worker(held, lambda tx: tx.jobs.fail(*held, {"code": "c", "message": "m"}))

    @rule(held=held)
    def finish_cancelled(self, held: Held) -> None:
        def end(tx: Transaction) -> object:
            try:
                return tx.jobs.finish_cancelled(*held)
            except IllegalTransition:
                assert self.known[held[0]].cancel_requested_at is None
                return None

        self.as_worker(held, end)

    @rule(held=consumes(held))
    def release(self, held: Held) -> None:
        self.as_worker(held, lambda tx: tx.jobs.release(*held))

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        with self.store.transaction() as tx:
            tx.jobs.request_cancel(job_id)

    @rule()
    def reconcile(self) -> None:
        reconcile(self.store, SETTINGS, lambda _: None)

    def as_worker(self, held: Held, write: object) -> None:
        """Write as the worker that claimed; it must work exactly if the claim still holds."""
        job = self.known[held[0]]
        holds = job.attempt == held[1] and job.status in ("running", "cancelling")
        assert callable(write)
        try:
            with self.store.transaction() as tx:
                write(tx)
        except LeaseLost:
            assert not holds
        else:
            assert holds

    @invariant()
    def every_job_makes_sense(self) -> None:
        with self.store.reading() as tx:
            for before in list(self.known.values()):
                job = tx.jobs.require(before.id)
                self.known[job.id] = job
                self.check_change(before, job)
                events = tx.events.list(job.id)
                kinds = [event.kind for event in events]
                assert [event.sequence for event in events] == list(range(1, job.event_count + 1))
                assert kinds.count("started") == job.attempt
                assert kinds.count("lease_expired") == job.failures
                assert sum(kinds.count(kind) for kind in ("succeeded", "failed", "cancelled")) == job.finished
                if job.finished:
                    assert kinds[-1] == job.status

    def check_change(self, before: Job, after: Job) -> None:
        if before.finished:
            assert after == before
        assert after.status == before.status or after.status in reachable(before.status)
        assert after.attempt >= before.attempt
        assert after.failures >= before.failures
        assert after.failures <= SETTINGS.max_failures
        assert after.event_count >= before.event_count
        assert (after.status in ("running", "cancelling")) == (after.lease_expires_at is not None)

    @invariant()
    def each_attempt_was_given_to_one_worker(self) -> None:
        assert all(count == 1 for count in self.started.values())


def reachable(status: JobStatus) -> set[JobStatus]:
    """Every status one or more legal changes away: a reconciler's pass may make several."""
    found: set[JobStatus] = set()
    ahead = set(LEGAL[status])
    while ahead:
        found |= ahead
        ahead = {after for each in ahead for after in LEGAL[each]} - found
    return found


def test_no_history_breaks_the_rules(database_url: str) -> None:
    class Histories(JobHistories):
        url = database_url

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Histories,
        settings=settings(
            max_examples=12, stateful_step_count=25, suppress_health_check=list(HealthCheck), deadline=None
        ),
    )
