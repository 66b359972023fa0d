"""The load client's process: one JSON line in, a load run, one JSON line of figures out, until the input ends.

python -m benchmarks.serving.load_client WORKLOAD.npz ...

A line names a workload by its place among the arguments, an address, an endpoint and a load; see ``LoadClient``.
"""

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.serving.latency import figures
from benchmarks.serving.load import count_wrong, run_load
from benchmarks.serving.protocols import Endpoint
from benchmarks.serving.workload import Workload


def measure(workload: Workload, plan: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one run."""
    endpoint = Endpoint(**plan["endpoint"])
    host, port = plan["address"]
    run = run_load(
        (host, port),
        workload.requests(endpoint),
        connections=plan["connections"],
        warm_up=plan["warm_up"],
        seconds=plan["seconds"],
    )
    latencies, errors = count_wrong(run, partial(workload.what_is_wrong, endpoint))
    return dataclasses.asdict(figures(latencies, run.seconds, errors, client_seconds=run.client_seconds))


def main() -> None:
    workloads = [Workload.load(Path(name)) for name in sys.argv[1:]]
    for line in sys.stdin:
        plan = json.loads(line)
        print(json.dumps(measure(workloads[plan["workload"]], plan)), flush=True)


if __name__ == "__main__":
    main()
