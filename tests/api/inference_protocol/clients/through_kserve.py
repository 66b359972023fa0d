"""Talk to a server through KServe's Python client, and print as JSON what came of it.

python through_kserve.py URL API_KEY SAMPLES.npy
"""

import asyncio
import json
import sys
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

SOLVER = {"solver": "dopri5", "rtol": 1e-5, "atol": "1e-5"}
TOO_SHORT = {"solver": "dopri5", "rtol": 1e-5, "atol": 1e-5, "max_steps": 1}


async def talk(url: str, api_key: str, samples: np.ndarray) -> dict[str, Any]:
    def headers() -> dict[str, str]:
        # New ones each time: the client writes the length of a binary request into them.
        return {"Authorization": f"Bearer {api_key}"}

    def request(binary: bool, parameters: dict[str, Any], outputs: list[RequestedOutput] | None = None) -> InferRequest:
        tensor = InferInput("inputs", list(samples.shape), "FP32")
        tensor.set_data_from_numpy(samples, binary_data=binary)
        return InferRequest("spheres", [tensor], "mine", parameters=parameters, request_outputs=outputs)

    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:

        async def answer(asked: InferRequest, model: str = "spheres") -> dict[str, Any]:
            got = await client.infer(url, asked, model_name=model, headers=headers())
            outputs = {
                one.name: one.data if one.datatype == "BYTES" else one.as_numpy().tolist() for one in got.outputs
            }
            return {"id": got.id, "model": got.model_name, "parameters": got.parameters, "outputs": outputs}

        async def refusal(asked: InferRequest | dict[str, Any], model: str) -> str:
            try:
                await client.infer(url, asked, model_name=model, headers=headers())
            except httpx.HTTPStatusError as error:
                return str(error)
            return "none"

        binary_out = {"binary_data_output": True}
        some = [RequestedOutput("label", {"binary_data": True}), RequestedOutput("status")]
        return {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model_ready": await client.is_model_ready(url, "spheres", headers=headers()),
            "version_ready": await client.is_model_ready(url, "spheres/versions/1", headers=headers()),
            "unknown_model_ready": await client.is_model_ready(url, "cubes", headers=headers()),
            "json": await answer(request(False, SOLVER)),
            "binary inputs": await answer(request(True, SOLVER)),
            "binary outputs": await answer(request(False, SOLVER | binary_out)),
            "binary": await answer(request(True, SOLVER | binary_out)),
            "one version": await answer(request(True, SOLVER), "spheres/versions/1"),
            "own solver": await answer(request(True, {})),
            "some outputs": await answer(request(True, SOLVER, some)),
            "failed in json": await answer(request(True, TOO_SHORT)),
            "failed in binary": await answer(request(True, TOO_SHORT | binary_out)),
            "unknown_model": await refusal(request(True, SOLVER), "cubes"),
            "unknown_solver": await refusal(request(True, {"solver": "rk5000"}), "spheres"),
            "wrong_body": await refusal({"inputs": []}, "spheres"),
        }


if __name__ == "__main__":
    json.dump(asyncio.run(talk(sys.argv[1], sys.argv[2], np.load(sys.argv[3]))), sys.stdout)
