import threading

import pytest

from store.errors import IdempotencyConflict
from store.idempotency import StoredAnswer
from store.unit_of_work import Store
from tests.store.conftest import Clock

HASH, OTHER_HASH = "a" * 64, "b" * 64


def begin(store: Store, key: str = "key", body_hash: str = HASH) -> StoredAnswer | None:
    with store.transaction() as tx:
        return tx.idempotency.begin(key, body_hash)


def finish(store: Store, body_hash: str = HASH, body: str = "first") -> None:
    with store.transaction() as tx:
        tx.idempotency.finish("key", body_hash, status=202, body={"id": body}, job_id="j")


def test_the_same_request_gets_the_stored_answer(store: Store) -> None:
    assert begin(store) is None
    finish(store)

    assert begin(store) == begin(store) == StoredAnswer(202, {"id": "first"}, "j")


def test_keys_do_not_disturb_each_other(store: Store) -> None:
    assert begin(store) is None
    assert begin(store, "other") is None


def test_another_request_with_the_key_is_refused(store: Store) -> None:
    begin(store)
    with pytest.raises(IdempotencyConflict, match="use a new key") as before:
        begin(store, body_hash=OTHER_HASH)
    finish(store)
    with pytest.raises(IdempotencyConflict) as after:
        begin(store, body_hash=OTHER_HASH)

    assert before.value.in_flight is after.value.in_flight is False


def test_the_same_request_is_refused_while_the_first_is_in_flight(store: Store) -> None:
    begin(store)
    with pytest.raises(IdempotencyConflict, match="try again") as conflict:
        begin(store)

    assert conflict.value.in_flight


def test_the_key_of_a_crashed_request_is_free_after_a_minute(store: Store, clock: Clock) -> None:
    begin(store)
    clock.forward(60)
    with pytest.raises(IdempotencyConflict):
        begin(store)
    clock.forward(1)

    assert begin(store) is None
    with pytest.raises(IdempotencyConflict):
        begin(store)


def test_a_request_thought_crashed_does_not_answer_for_another(store: Store, clock: Clock) -> None:
    begin(store)
    clock.forward(61)
    assert begin(store, body_hash=OTHER_HASH) is None
    finish(store, HASH, "late")
    finish(store, OTHER_HASH, "right")

    assert begin(store, body_hash=OTHER_HASH) == StoredAnswer(202, {"id": "right"}, "j")


def test_an_answer_stays_as_it_was_first_given(store: Store) -> None:
    begin(store)
    finish(store)
    finish(store, body="second")
    with store.transaction() as tx:
        tx.idempotency.forget("key", HASH)

    assert begin(store) == StoredAnswer(202, {"id": "first"}, "j")


def test_a_failed_request_gives_its_key_back(store: Store) -> None:
    begin(store)
    with store.transaction() as tx:
        tx.idempotency.forget("key", HASH)

    assert begin(store, body_hash=OTHER_HASH) is None


def test_an_answer_is_kept_for_a_day(store: Store, clock: Clock) -> None:
    begin(store)
    finish(store)
    clock.forward(24 * 3600 - 1)
    with store.transaction() as tx:
        tx.idempotency.remove_expired()
    assert begin(store) is not None
    clock.forward(2)
    assert begin(store, body_hash=OTHER_HASH) is None
    clock.forward(24 * 3600 + 1)
    with store.transaction() as tx:
        tx.idempotency.remove_expired()
    assert begin(store) is None


def test_of_requests_sent_at_once_one_does_the_work_and_all_get_its_answer(store: Store) -> None:
    """Begin, work and finish in one transaction."""
    barrier = threading.Barrier(5)
    answers: list[str] = []

    def request() -> None:
        barrier.wait()
        with store.transaction() as tx:
            known = tx.idempotency.begin("key", HASH)
            if known is None:
                job = tx.jobs.submit("training", {})
                tx.idempotency.finish("key", HASH, status=202, body={"id": job.id}, job_id=job.id)
                answers.append(job.id)
            else:
                answers.append(known.body["id"])

    threads = [threading.Thread(target=request) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(answers) == 5
    assert len(set(answers)) == 1
    with store.reading() as tx:
        assert len(tx.jobs.list().items) == 1
