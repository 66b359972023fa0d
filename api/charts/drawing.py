"""A process that draws one Vega-Lite document and ends: ``python -m api.charts.drawing png 2``.

Reads the document from standard input and writes the picture to standard output. ``javascript`` instead of a format
writes the library that draws in a page. A process of its own, because vl-convert keeps Python's interpreter lock while
it draws: in a thread of the server it would stop all other requests for as long.
"""

import json
import subprocess
import sys
import threading
from typing import Literal

Output = Literal["png", "svg", "javascript"]

AT_ONCE = 2
PATIENCE_SECONDS = 30.0  # for others to be drawn first
LIMIT_SECONDS = 60.0

_slots = threading.BoundedSemaphore(AT_ONCE)


class DrawingFailed(RuntimeError):
    """A document was not drawn; the message says why and what to do."""


def draw_apart(output: Output, document: bytes = b"", scale: float = 1.0) -> bytes:
    """Return what a process of its own makes of a Vega-Lite document; at most two draw at a time.

    Args:
        output: a picture, or the library.
        document: JSON.
        scale: of a png: pixels a unit.

    Raises:
        DrawingFailed: it took too long, or drawing is impossible.
    """
    if not _slots.acquire(timeout=PATIENCE_SECONDS):
        raise DrawingFailed("too many charts are being drawn: try again in a moment")
    try:
        finished = subprocess.run(
            [sys.executable, "-m", "api.charts.drawing", output, str(scale)],
            input=document,
            capture_output=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DrawingFailed(
            f"the chart was not drawn within {LIMIT_SECONDS:g} seconds: ask for its data with format=json"
        ) from error
    finally:
        _slots.release()
    if finished.returncode != 0:
        lines = finished.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit status {finished.returncode}"
        raise DrawingFailed(f"the chart was not drawn ({reason[:200]}): ask for its data with format=json")
    return finished.stdout


def _main(output: str, scale: str) -> None:
    # Loaded here: the server's own process never draws.
    from api.charts.render import page_library, to_png, to_svg  # noqa: PLC0415

    if output == "javascript":
        result = page_library().encode()
    else:
        document = json.load(sys.stdin.buffer)
        result = to_png(document, scale=float(scale)) if output == "png" else to_svg(document).encode()
    sys.stdout.buffer.write(result)


if __name__ == "__main__":
    _main(*sys.argv[1:])
