"""LitServe with its batching on: up to 64 requests, and no waiting for more, its default.

Timeouts of 1 and 5 ms were tried: neither gave more requests a second at 64 at once, nor a better p99.

python -m benchmarks.serving.peers.with_litserve PORT
"""

import sys

import litserve
import torch
from torch import Tensor

from benchmarks.serving.peers.plain_model import load_model


class Sphere2Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = load_model()

    def decode_request(self, request: dict[str, list[list[float]]]) -> Tensor:
        return torch.tensor(request["inputs"])

    def batch(self, inputs: list[Tensor]) -> list[Tensor]:
        return inputs  # of different lengths: they are joined in ``predict``

    def predict(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return self.model(torch.cat(inputs)).split([len(one) for one in inputs])

    def unbatch(self, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return output

    def encode_response(self, output: Tensor) -> dict[str, list[list[float]]]:
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    api = Sphere2Api(max_batch_size=64, batch_timeout=0.0)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="warning"
    )
