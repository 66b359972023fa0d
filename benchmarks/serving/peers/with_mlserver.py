"""MLServer with its adaptive batching on: up to 64 requests, waiting half a millisecond for more.

Of waiting 0, 0.5 and 5 ms this gave the most requests a second at 16 and 64 at once, and 6 % less than 0 at one.

python -m benchmarks.serving.peers.with_mlserver PORT FOLDER
"""

import json
import os
import sys
from pathlib import Path

import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.serving.peers.plain_model import load_model


class Sphere2Model(MLModel):
    async def load(self) -> bool:
        self.model = load_model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = NumpyCodec.decode_input(payload.inputs[0])
        with torch.inference_mode():
            probabilities = self.model(torch.from_numpy(inputs)).numpy()
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", probabilities)]
        )


def write_settings(folder: Path, port: int) -> None:
    """Write the server's and the model's settings; ``parallel_workers`` 0: the model runs in the server's process."""
    server = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "debug": False,
        "use_structured_logging": False,
    }
    model = {
        "name": "sphere2",
        "implementation": "benchmarks.serving.peers.with_mlserver.Sphere2Model",
        "max_batch_size": 64,
        "max_batch_time": 0.0005,
    }
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model))


if __name__ == "__main__":
    where = Path(sys.argv[2])
    write_settings(where, int(sys.argv[1]))
    os.execv(sys.executable, [sys.executable, "-c", "from mlserver.cli import main; main()", "start", str(where)])
