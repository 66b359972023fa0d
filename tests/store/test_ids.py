import threading
from uuid import UUID

from store.ids import IdGenerator, is_id, new_id


def test_an_id_is_a_uuid_of_version_7_with_the_time_in_front() -> None:
    made = UUID(IdGenerator(lambda: 0x0123_4567_89AB)())

    assert made.version == 7
    assert made.variant == "specified in RFC 4122"
    assert made.int >> 80 == 0x0123_4567_89AB


def test_ids_of_one_millisecond_grow() -> None:
    generate = IdGenerator(lambda: 1_000)
    ids = [generate() for _ in range(10_000)]

    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_ids_grow_when_the_clock_is_set_back() -> None:
    times = iter([5_000, 4_000, 4_001, 5_001])
    generate = IdGenerator(lambda: next(times))
    ids = [generate() for _ in range(4)]

    assert ids == sorted(ids)


def test_ids_of_many_threads_differ() -> None:
    made: list[str] = []

    def make() -> None:
        made.extend([new_id() for _ in range(1_000)])

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(made)) == 8_000


def test_only_ids_in_the_stores_own_form_are_ids() -> None:
    made = new_id()

    assert is_id(made)
    assert not is_id(made.upper())
    assert not is_id(made.replace("-", ""))
    assert not is_id("1")
    assert not is_id("")
