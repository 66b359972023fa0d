"""C++ sources of this package as libraries for the processor at hand, where there is a compiler."""

import ctypes
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

_FLAGS = ("-std=gnu++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_LONGEST_SECONDS = 60.0


@cache
def native_library(source: str) -> ctypes.CDLL | None:
    """Return a source next to this module as a library, compiled once a process; None where that cannot be done.

    The compiler is ``CXX``, or the first of g++, clang++ and c++ that is found. It takes about a second.
    """
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    if compiler is None:
        log.info("no C++ compiler: %s is not used, and small fields are computed more slowly", source)
        return None
    with tempfile.TemporaryDirectory(prefix="odeness-") as folder:
        target = Path(folder, "library.so")  # once it is loaded, the file is not needed
        command = [*compiler.split(), *_FLAGS, str(Path(__file__).with_name(source)), "-o", str(target)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_LONGEST_SECONDS)
            return ctypes.CDLL(str(target))
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
            log.warning(
                "%s could not be compiled, small fields are computed more slowly: %s %s", source, error, said[:1]
            )
            return None
