"""The log's stream: lines of one turn of the event loop together, and none lost."""

import asyncio
import io
import logging
import re
import threading

import pytest

from api.log_stream import LineFormatter, TurnHandler


class Writes(io.StringIO):
    """Notes each write."""

    def __init__(self) -> None:
        super().__init__()
        self.each: list[str] = []

    def write(self, text: str) -> int:
        self.each.append(text)
        return super().write(text)


@pytest.fixture
def written() -> Writes:
    return Writes()


@pytest.fixture
def log(written: Writes) -> logging.Logger:
    log = logging.Logger("a.test")
    handler = TurnHandler()
    handler.setStream(written)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    return log


def test_what_one_turn_logs_is_written_at_once(log: logging.Logger, written: Writes) -> None:
    async def turns() -> None:
        log.info("one")
        log.info("two")
        assert written.each == []
        await asyncio.sleep(0)
        assert written.each == ["one\ntwo\n"]
        log.info("three")
        await asyncio.sleep(0)

    asyncio.run(turns())
    assert written.each == ["one\ntwo\n", "three\n"]


def test_a_warning_is_written_at_once_and_in_its_place(log: logging.Logger, written: Writes) -> None:
    async def turn() -> None:
        log.info("before")
        log.warning("careful")
        assert written.each == ["before\ncareful\n"]
        log.info("after")

    asyncio.run(turn())
    log.handlers[0].flush()
    assert written.getvalue() == "before\ncareful\nafter\n"


def test_without_a_loop_each_line_is_written(log: logging.Logger, written: Writes) -> None:
    log.info("one")
    log.info("two")
    assert written.each == ["one\n", "two\n"]


def test_what_is_kept_when_the_loop_ends_is_written_when_logging_ends(log: logging.Logger, written: Writes) -> None:
    run_one_turn(log, "last")
    assert written.each == []
    log.handlers[0].flush()  # as logging.shutdown does
    assert written.getvalue() == "last\n"


def test_what_a_loop_that_ended_has_left_is_written_by_the_next(log: logging.Logger, written: Writes) -> None:
    async def turn() -> None:
        log.info("second")
        await asyncio.sleep(0)

    run_one_turn(log, "first")
    asyncio.run(turn())
    assert written.each == ["first\nsecond\n"]


def run_one_turn(log: logging.Logger, line: str) -> None:
    """Log in the last turn of a loop, which is closed without another."""
    loop = asyncio.new_event_loop()
    loop.call_soon(log.info, line)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()


def test_what_another_thread_logs_is_written_while_the_loop_is_busy(log: logging.Logger, written: Writes) -> None:
    async def turn() -> None:
        log.info("of the loop")
        thread = threading.Thread(target=log.info, args=("of the thread",))
        thread.start()
        thread.join()
        assert written.each == ["of the loop\nof the thread\n"]

    asyncio.run(turn())


def test_a_letter_that_the_stream_cannot_write_costs_no_line(log: logging.Logger) -> None:
    written = io.BytesIO()
    log.handlers[0].setStream(io.TextIOWrapper(written, encoding="ascii"))  # type: ignore[attr-defined]

    async def turn() -> None:
        log.info("before")
        log.info("\u00e4")
        log.info("after")

    asyncio.run(turn())
    log.handlers[0].flush()
    assert written.getvalue() == b"before\n\\xe4\nafter\n"


def test_a_stream_that_is_closed_ends_nothing(log: logging.Logger, written: Writes) -> None:
    written.close()
    log.info("lost")


def test_a_line_is_written_as_the_standard_formatter_writes_it() -> None:
    standard = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    ours = LineFormatter()
    for created in (1_700_000_000.25, 1_700_000_000.75, 1_700_000_001.0, 1_700_003_600.999):
        record = logging.makeLogRecord(
            {
                "name": "a",
                "levelname": "INFO",
                "msg": "x %d",
                "args": (1,),
                "created": created,
                "msecs": 1e3 * (created % 1),
            }
        )
        assert ours.format(record) == standard.format(record)
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO a: x 1", ours.format(record))
