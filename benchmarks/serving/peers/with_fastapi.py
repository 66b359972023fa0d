"""A plain FastAPI endpoint: one request, one call of the model, in the event loop.

python -m benchmarks.serving.peers.with_fastapi PORT

``async def``: as ``def`` the calls would run in a pool of threads, which fight over the interpreter and are slower.
"""

import sys

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving.peers.plain_model import load_model

app = FastAPI()
model = load_model()


class Inputs(BaseModel):
    inputs: list[list[float]]


class Answer(BaseModel):
    probabilities: list[list[float]]


@app.post("/predict")
async def predict(request: Inputs) -> Answer:
    with torch.inference_mode():
        return Answer(probabilities=model(torch.tensor(request.inputs)).tolist())


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
