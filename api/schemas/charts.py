"""Answers about figures."""

from pydantic import Field

from api.schemas.answer import Answer, JsonObject
from api.schemas.prediction import PredictAnswer


class ChartOffer(Answer):
    """A figure that can be had."""

    name: str
    summary: str = Field(description="what is seen")
    href: str
    several: bool = Field(description="whether it shows other jobs beside this one (`with`)")


class ChartList(Answer):
    """The figures there are."""

    data: list[ChartOffer]


class ChartDocument(Answer):
    """A figure as data."""

    name: str
    title: str
    data: dict[str, list[JsonObject]] = Field(description="the numbers that are drawn: rows by layer")
    vega_lite: JsonObject = Field(description="the whole drawing, a Vega-Lite document with its data")


class ExplanationDocument(ChartDocument):
    """A figure of predictions as data, with the predictions."""

    prediction: PredictAnswer = Field(description="the answer that the same request to predict gets")
