"""What odeness' own metrics tell about a run: how many rows a call of the model had. Pure functions of text."""

ROWS = "odeness_predictions_total"
CALLS = "odeness_prediction_model_seconds_count"


def total(page: str, name: str) -> float:
    """Return the sum over all labels of a metric in a page of Prometheus' text format; 0 if it is not there."""
    values = 0.0
    for line in page.splitlines():
        if line.startswith((f"{name} ", f"{name}{{")):
            values += float(line.rpartition(" ")[2])
    return values


def rows_a_call(before: str, after: str) -> float | None:
    """Return the mean number of rows in a call between two pages; None: there was no call."""
    calls = total(after, CALLS) - total(before, CALLS)
    return (total(after, ROWS) - total(before, ROWS)) / calls if calls else None
