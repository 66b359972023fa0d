"""Talk to a server through MLServer's types and codecs, and print as JSON what came of it.

    python through_mlserver.py URL API_KEY SAMPLES.npy

MLServer builds and reads requests, and leaves the sending to its users, here to the standard library.
"""

import json
import sys
import urllib.error
import urllib.request
from typing import Any

import numpy as np
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import (
    InferenceErrorResponse,
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataServerResponse,
    Parameters,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RequestOutput,
)

SOLVER = {"solver": "dopri5", "rtol": 1e-5, "atol": "1e-5"}
TOO_SHORT = {"solver": "dopri5", "rtol": 1e-5, "atol": 1e-5, "max_steps": 1}


def talk(url: str, api_key: str, samples: np.ndarray) -> dict[str, Any]:
    def send(path: str, body: str | None = None) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        request = urllib.request.Request(url + path, None if body is None else body.encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    def answer(parameters: Parameters | None = None, outputs: list[RequestOutput] | None = None) -> dict[str, Any]:
        tensor = NumpyCodec.encode_input("inputs", samples)
        asked = InferenceRequest(id="mine", inputs=[tensor], parameters=parameters, outputs=outputs)
        status, text = send("/v2/models/spheres/infer", asked.model_dump_json())
        got = InferenceResponse.model_validate_json(text)
        decoded = {
            one.name: StringCodec.decode_output(one)
            if one.datatype == "BYTES"
            else NumpyCodec.decode_output(one).tolist()
            for one in got.outputs
        }
        return {
            "status": status,
            "id": got.id,
            "model": got.model_name,
            "version": got.model_version,
            "parameters": got.parameters.model_dump() if got.parameters else None,
            "outputs": decoded,
        }

    def refusal(model: str, parameters: dict[str, Any]) -> tuple[int, str | None]:
        asked = InferenceRequest(
            inputs=[NumpyCodec.encode_input("inputs", samples)], parameters=Parameters(**parameters)
        )
        status, text = send(f"/v2/models/{model}/infer", asked.model_dump_json())
        return status, InferenceErrorResponse.model_validate_json(text).error

    server = MetadataServerResponse.model_validate_json(send("/v2")[1])
    model = MetadataModelResponse.model_validate_json(send("/v2/models/spheres")[1])
    index = RepositoryIndexResponse.model_validate_json(
        send("/v2/repository/index", RepositoryIndexRequest(ready=True).model_dump_json())[1]
    )
    return {
        "live": send("/v2/health/live")[0],
        "ready": send("/v2/health/ready")[0],
        "model_ready": send("/v2/models/spheres/ready")[0],
        "unknown_model_ready": send("/v2/models/cubes/ready")[0],
        "server": server.model_dump(),
        "metadata": model.model_dump(),
        "index": [entry.model_dump() for entry in index.root],
        "json": answer(Parameters(**SOLVER)),
        "tagged": answer(Parameters(content_type="np", headers={"x": "y"}, **SOLVER)),
        "own solver": answer(),
        "some outputs": answer(Parameters(**SOLVER), [RequestOutput(name="label"), RequestOutput(name="status")]),
        "failed in json": answer(Parameters(**TOO_SHORT)),
        "unknown_model": refusal("cubes", SOLVER),
        "unknown_solver": refusal("spheres", {"solver": "rk5000"}),
    }


if __name__ == "__main__":
    json.dump(talk(sys.argv[1], sys.argv[2], np.load(sys.argv[3])), sys.stdout)
