"""The Dockerfile, parsed, and what stands for the image in the tests."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Instruction:
    """One instruction of the Dockerfile, its continuation lines joined."""

    stage: int
    keyword: str
    value: str


@dataclass(frozen=True)
class Installation:
    """What the image holds in /opt/odeness."""

    wheel: Path
    python: Path
    odeness: Path


def read_dockerfile() -> list[Instruction]:
    """Return the instructions in order."""
    text = "\n".join(line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    instructions, stage = [], -1
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            keyword, value = line.split(maxsplit=1)
            stage += keyword == "FROM"
            instructions.append(Instruction(stage, keyword, value.strip()))
    return instructions


def plain_environment() -> dict[str, str]:
    """Return this process's environment without what would lead Python or pip elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
