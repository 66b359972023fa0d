"""BentoML with its adaptive batching on.

bentoml serve benchmarks.serving.peers.with_bentoml:Sphere2 --port PORT
"""

from typing import Annotated

import bentoml
import numpy
import torch
from bentoml.validators import DType
from numpy.typing import NDArray

from benchmarks.serving.peers.plain_model import load_model

Rows = Annotated[NDArray[numpy.float32], DType("float32")]


@bentoml.service(workers=1, traffic={"timeout": 60})
class Sphere2:
    def __init__(self) -> None:
        self.model = load_model()

    @bentoml.api(batchable=True, max_batch_size=256)
    def predict(self, inputs: Rows) -> Rows:
        with torch.inference_mode():
            return self.model(torch.from_numpy(inputs)).numpy()
