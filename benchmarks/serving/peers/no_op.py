"""The limit of HTTP: an application without a framework that reads the body and answers with a fixed one.

python -m benchmarks.serving.peers.no_op PORT

Its answer has as many bytes as the path says: ``POST /300``. uvicorn takes the fastest parts that its environment has:
httptools and uvloop in the peers'.
"""

import sys
from typing import Any

import uvicorn


async def app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    size = int(scope["path"][1:] or 0)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b" " * size})


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        access_log=False,
        lifespan="off",
    )
