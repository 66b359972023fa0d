"""docs/batch-prediction.md against the code: its request is accepted, its answers have the fields there are."""

import json
import re
from pathlib import Path

import worker.executors.prediction as executor
from api.schemas.answer import ListOf
from api.schemas.stored_predictions import PredictResult, SamplePrediction
from ode_core.models.prediction_columns import TYPES
from ode_core.specs import PredictJobSpec, prediction_bytes

GUIDE = (Path(__file__).parents[2] / "docs" / "batch-prediction.md").read_text()


def test_the_request_is_accepted_and_names_every_option_and_the_page_every_field() -> None:
    request, page = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL))
    PredictJobSpec.model_validate(request)
    assert set(request) == set(PredictJobSpec.model_fields) - {"chosen_by"}  # which is for answers
    ListOf[SamplePrediction].model_validate(page)
    assert set(page["data"][0]) == set(SamplePrediction.model_fields)


def test_the_result_and_the_files_are_described_with_all_their_parts() -> None:
    result = GUIDE.partition("## The result")[2].partition("## The predictions")[0]
    assert set(PredictResult.model_fields) <= set(re.findall(r"`(\w+)`", result))
    files = GUIDE.partition("**NPZ**")[2].partition("```")[0]
    assert set(TYPES) <= set(re.findall(r"`(\w+)`", files))


def test_the_numbers_are_those_of_the_code() -> None:
    assert "21 bytes a sample, 4 for each class, and 4 more with logits" in GUIDE
    assert prediction_bytes(10, logits=False) == 21 + 4 * 10
    assert prediction_bytes(10, logits=True) == 21 + 8 * 10
    assert (executor.CHUNK_BYTES, executor.CHUNK_SECONDS) == (2**20, 5)
