"""Several trainings side by side: loss and accuracy over the iterations, and what they cost."""

from collections.abc import Sequence

import altair as alt

from api.charts.figure import Canvas, Figure, Row
from api.charts.material import NothingToDraw, Training
from api.charts.theme import PALETTE
from api.charts.training_curves import HEIGHT, WIDTH, iterations, last_iteration, rows_of, smoothed

_FACTS = {
    "training_seconds": "seconds of training",
    "mean_training_evaluations": "evaluations in an iteration's forward solve",
}


def training_progress(trainings: Sequence[Training]) -> Figure:
    """Draw loss and accuracy on the batches over the iterations, and below it what each training cost.

    Args:
        trainings: jobs with the metrics ``loss`` and ``train_accuracy``.

    Raises:
        NothingToDraw: none has a point yet.
    """
    if not any(training.series.get("loss") for training in trainings):
        raise NothingToDraw("there is no iteration yet: ask again when the training has begun")
    canvas = Canvas()
    labels = [training.label for training in trainings]
    x = iterations(max(last_iteration(training.series) for training in trainings))
    loss = alt.Y("value:Q", scale=alt.Scale(type="log"), axis=alt.Axis(title="loss", format=".1~e", tickCount=5))
    accuracy = alt.Y("value:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title="accuracy on the batch", format="%"))
    panels = [
        _curves(canvas, trainings, "loss", x, loss, labels),
        _curves(canvas, trainings, "train_accuracy", x, accuracy, labels),
    ]
    costs = [panel for fact in _FACTS if (panel := _cost(canvas, trainings, fact, labels)) is not None]
    chart = alt.VConcatChart(vconcat=[*panels, *costs], spacing=18)
    title = "Progress of the training" if len(trainings) == 1 else "Trainings compared; lines: means over windows"
    return Figure(title, chart, canvas)


def _curves(
    canvas: Canvas, trainings: Sequence[Training], name: str, x: alt.X, y: alt.Y, labels: Sequence[str]
) -> alt.LayerChart:
    rows = [row for training in trainings for row in smoothed(_drawable(training, name))]
    line = canvas.draw(rows, name).mark_line(strokeWidth=2).encode(x=x, y=y, color=_colour(labels))
    return alt.LayerChart(layer=[line]).properties(width=WIDTH, height=HEIGHT)


def _drawable(training: Training, name: str) -> list[Row]:
    rows = rows_of(training.series, name, training=training.label)
    return [row for row in rows if name != "loss" or row["value"] > 0]  # the axis of the loss is logarithmic


def _cost(canvas: Canvas, trainings: Sequence[Training], fact: str, labels: Sequence[str]) -> alt.LayerChart | None:
    rows = [
        {"training": training.label, "value": training.metadata[fact]}
        for training in trainings
        if training.metadata.get(fact) is not None
    ]
    if not rows:
        return None
    x = alt.X("value:Q", axis=alt.Axis(title=_FACTS[fact], grid=False, format="~s", tickCount=6))
    y = alt.Y("training:N", sort=list(labels), axis=alt.Axis(title=None, labels=False, ticks=False))
    bars = canvas.draw(rows, fact)
    layers = [
        bars.mark_bar(height={"band": 0.7}).encode(x=x, y=y, color=_colour(labels)),
        bars.mark_text(align="left", dx=5, fontSize=12).encode(x=x, y=y, text=alt.Text("value:Q", format=".3~s")),
    ]
    return alt.LayerChart(layer=layers).properties(width=WIDTH, height=22 * len(rows))


def _colour(labels: Sequence[str]) -> alt.Color:
    return alt.Color(
        "training:N",
        scale=alt.Scale(domain=list(labels), range=[PALETTE[k % len(PALETTE)] for k in range(len(labels))]),
        legend=alt.Legend(title=None, columns=3, labelLimit=320),
    )
