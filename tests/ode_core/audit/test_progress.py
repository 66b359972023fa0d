from ode_core.audit.progress import Progress


class Clock:
    """Tells the time that it was set to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_message_that_stands_says_for_how_long_and_a_new_one_begins_at_nothing() -> None:
    clock, told = Clock(), list[str]()
    progress = Progress(3, lambda part, parts, message: told.append(message), clock=clock)
    progress.next_part("reference")
    for seconds in (9.0, 10.0, 19.0, 25.0):
        clock.now = seconds
        progress.again()
    progress.within("reference: next batch")
    clock.now = 30.0
    progress.again()
    assert told == [
        "reference",
        "reference",
        "reference, for 10 s",
        "reference, for 10 s",
        "reference, for 20 s",
        "reference: next batch",
        "reference: next batch",
    ]
