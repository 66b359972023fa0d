"""The Dockerfile, the build context, and the commands that the image and docker-compose.yml start."""

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from tests.deployment.image import ROOT, Installation, Instruction, plain_environment


def _final(dockerfile: list[Instruction], keyword: str) -> list[str]:
    last = max(step.stage for step in dockerfile)
    return [step.value for step in dockerfile if step.stage == last and step.keyword == keyword]


def test_hadolint_has_nothing_to_say() -> None:
    beside = Path(sys.executable).parent / "hadolint"
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    assert hadolint, "hadolint is missing: run make setup-dev"

    said = subprocess.run([hadolint, "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_the_image_builds_in_one_stage_and_runs_in_another(dockerfile: list[Instruction]) -> None:
    bases = [step.value for step in dockerfile if step.keyword == "FROM"]

    assert bases == ["python:3.12-slim AS build", "python:3.12-slim"]
    assert not re.search(r"apt-get|gcc|pip install", " ".join(_final(dockerfile, "RUN")))
    assert "pip uninstall" in " ".join(_final(dockerfile, "RUN"))


def test_the_image_runs_as_a_user_of_fixed_number(dockerfile: list[Instruction]) -> None:
    assert _final(dockerfile, "USER") == ["10001:10001"]
    assert "--uid 10001" in " ".join(_final(dockerfile, "RUN"))


def test_no_registry_is_named_and_torch_comes_from_the_default_index(dockerfile: list[Instruction]) -> None:
    assert not any("://" in step.value for step in dockerfile)
    assert 'TORCH_INDEX=""' in [step.value for step in dockerfile if step.keyword == "ARG"]


def test_the_label_and_the_tags_name_the_projects_version(
    dockerfile: list[Instruction], services: dict[str, dict[str, Any]]
) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    own = {service["image"] for service in services.values() if "build" in service}

    assert f"VERSION={version}" in _final(dockerfile, "ARG")
    assert own == {f"odeness:{version}", f"odeness-gpu:{version}"}


def test_everything_copied_is_in_the_build_context_and_nothing_private_is(dockerfile: list[Instruction]) -> None:
    copied = [
        name.rstrip("/")
        for step in dockerfile
        if step.keyword == "COPY" and not step.value.startswith("--from")
        for name in shlex.split(step.value)[:-1]
    ]

    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert [name for name in copied if _is_ignored(name)] == []
    private = [
        "deploy/secrets/api_key",
        "deploy/settings.env",
        ".git/config",
        ".env",
        "odeness-data/odeness.db",
        "tests",
    ]
    assert [name for name in private if not _is_ignored(name)] == []


def _is_ignored(name: str) -> bool:
    """Docker's rule: the last pattern that matches the path, or a folder above it, decides."""
    parts = name.split("/")
    paths = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").rstrip("/")
            if any(fnmatch.fnmatchcase(path, pattern) and path.count("/") == pattern.count("/") for path in paths):
                ignored = not line.startswith("!")
    return ignored


def test_every_command_that_a_container_starts_is_one_of_odeness(
    dockerfile: list[Instruction], services: dict[str, dict[str, Any]], installation: Installation, tmp_path: Path
) -> None:
    (entry,) = _final(dockerfile, "ENTRYPOINT")
    (default,) = _final(dockerfile, "CMD")
    own = {name: service["command"] for name, service in services.items() if "build" in service}
    assert json.loads(entry) == ["odeness"]
    assert {name: command[0] for name, command in own.items()} == {
        "migrate": "migrate",
        "api": "api",
        "worker": "worker",
        "worker-gpu": "worker",
    }

    commands = {tuple(command) for command in own.values()} | {tuple(json.loads(default)), ("serve",)}
    for name, *arguments in commands:
        told = subprocess.run(
            [installation.odeness, name, "--help"],
            cwd=tmp_path,
            env=plain_environment() | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 0, f"odeness {name}: {told.stderr}"
        unknown = [option for option in arguments if option.startswith("--") and option not in told.stdout]
        assert not unknown, f"odeness {name} has no {unknown}:\n{told.stdout}"


def test_the_health_check_asks_the_port_that_the_default_command_listens_on(dockerfile: list[Instruction]) -> None:
    (check,) = _final(dockerfile, "HEALTHCHECK")
    (default,) = _final(dockerfile, "CMD")

    assert json.loads(default)[-2:] == ["--port", "8000"]
    assert "'127.0.0.1', 8000" in check
    assert "/healthz" in check
    assert _final(dockerfile, "EXPOSE") == ["8000"]
