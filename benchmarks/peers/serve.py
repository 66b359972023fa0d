"""A peer's process: one JSON line in, one JSON line out, until the input ends.

python -m benchmarks.peers.serve torchdiffeq|torchode|diffrax

``{"ask": "prepare", "problem": {...}}`` loads the library and answers its versions and the seconds of the first
solve, compilation included; ``{"ask": "solve"}`` answers the seconds of one solve; ``{"ask": "report"}`` answers
outputs and counts.
"""

import importlib
import json
import os
import sys
import time
from typing import Any

from benchmarks.van_der_pol import VanDerPol


def main() -> None:
    # What a library prints must not come between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    library = importlib.import_module(f"benchmarks.peers.with_{sys.argv[1]}")
    candidate: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        if request["ask"] == "prepare":
            start = time.perf_counter()
            candidate = library.Candidate(VanDerPol(**request["problem"]))
            candidate.solve()
            answer = {"seconds": time.perf_counter() - start, "versions": library.VERSIONS, "cores": _cores()}
        elif request["ask"] == "solve":
            start = time.perf_counter()
            candidate.solve()
            answer = {"seconds": time.perf_counter() - start}
        else:
            answer = candidate.report()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


if __name__ == "__main__":
    main()
