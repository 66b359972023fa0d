"""Who is compared: servers, how they are started, and by which endpoint they are asked."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.serving.protocols import Endpoint
from benchmarks.serving.server_process import ServerProcess, free_port
from benchmarks.serving.sphere2 import INPUT_SHAPE

Role = Literal["odeness", "peer", "limit"]
MODEL = "sphere2"
NO_OP = "no-op HTTP"


@dataclass(frozen=True)
class Server:
    """How to start a server.

    Attributes:
        arguments: of Python; ``PORT`` and ``FOLDER`` (an empty one of its own) are filled in.
        python: the interpreter of its environment.
        environment: added to the process's; filled in likewise.
        restless: whether it looks for work all the time, and so must be stopped while others are asked.
    """

    arguments: Sequence[str]
    python: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    restless: bool = False

    def start(self, name: str, folder: Path, environment: Mapping[str, str], cores: set[int] | None) -> ServerProcess:
        """Start it on a free port, with its log and its files in ``folder``."""
        port, own = free_port(), folder / name
        own.mkdir()

        def filled(text: str) -> str:
            return text.replace("PORT", str(port)).replace("FOLDER", str(own))

        return ServerProcess(
            name,
            [str(self.python), *map(filled, self.arguments)],
            port,
            folder / f"{name}.log",
            environment={**environment, **{key: filled(value) for key, value in self.environment.items()}},
            cores=cores,
            restless=self.restless,
        )


@dataclass(frozen=True)
class Candidate:
    """A row of the tables: one way to ask one server.

    Attributes:
        name: in the tables.
        server: a key of the servers.
        role: odeness, one of those it is compared with, or a limit.
        endpoint: how it is asked.
    """

    name: str
    server: str
    role: Role
    endpoint: Endpoint


def servers(peers: Path, mlserver: Path) -> dict[str, Server]:
    """Return all servers; the arguments are the peers' virtual environments."""
    peer, ours = peers / "bin" / "python", Path(sys.executable)
    module = "benchmarks.serving.peers"
    bentoml = ["-m", "bentoml", "serve", f"{module}.with_bentoml:Sphere2", "--host", "127.0.0.1", "--port", "PORT"]
    return {
        "odeness": Server(["-m", "api.command_line", "serve", "--port", "PORT", "--data", "FOLDER"], ours),
        "fastapi": Server(["-m", f"{module}.with_fastapi", "PORT"], peer),
        "litserve": Server(["-m", f"{module}.with_litserve", "PORT"], peer, restless=True),
        "bentoml": Server(bentoml, peer, {"BENTOML_HOME": "FOLDER", "BENTOML_DO_NOT_TRACK": "True"}),
        "mlserver": Server(["-m", f"{module}.with_mlserver", "PORT", "FOLDER"], mlserver / "bin" / "python"),
        "no-op": Server(["-m", f"{module}.no_op", "PORT"], peer),
    }


def candidates(v2_shape: tuple[int, ...] | None) -> list[Candidate]:
    """Return all rows; ``v2_shape`` is of one input as odeness' ``/v2`` takes it, None if it has no ``/v2``."""
    found = [Candidate("odeness /v1", "odeness", "odeness", Endpoint("v1", f"/v1/models/{MODEL}/predict", INPUT_SHAPE))]
    if v2_shape is not None:
        infer = f"/v2/models/{MODEL}/infer"
        found += [
            Candidate("odeness /v2 JSON", "odeness", "odeness", Endpoint("v2-json", infer, v2_shape)),
            Candidate("odeness /v2 binary", "odeness", "odeness", Endpoint("v2-binary", infer, v2_shape)),
        ]
    return [
        *found,
        Candidate("FastAPI, plain", "fastapi", "peer", Endpoint("plain", "/predict")),
        Candidate("LitServe", "litserve", "peer", Endpoint("plain", "/predict")),
        Candidate("BentoML", "bentoml", "peer", Endpoint("bare", "/predict")),
        Candidate("MLServer", "mlserver", "peer", Endpoint("v2-json", f"/v2/models/{MODEL}/infer")),
        Candidate(NO_OP, "no-op", "limit", Endpoint("no-op", "/")),
    ]
