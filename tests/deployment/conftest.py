"""The deployment files, parsed, and what they install.

No container engine is needed: what the files say is checked, and what the image's steps do is done in a clean
virtual environment.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployment.image import ROOT, Installation, Instruction, plain_environment, read_dockerfile


@pytest.fixture(scope="session")
def dockerfile() -> list[Instruction]:
    return read_dockerfile()


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """docker-compose.yml with its variables at their defaults."""
    text = (ROOT / "docker-compose.yml").read_text()
    loaded = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="session")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = compose["services"]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="session")
def installation(dockerfile: list[Instruction], tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The build stage's own files and commands, with its folders moved to a temporary one.

    Left out is what needs the network: the dependencies are those of this environment.
    """
    folder = tmp_path_factory.mktemp("image")
    source, environment, wheels = folder / "source", folder / "odeness", folder / "wheels"
    source.mkdir()
    build = [step for step in dockerfile if step.stage == 0]
    for step in build:
        if step.keyword == "COPY":
            *names, target = shlex.split(step.value)
            for name in names:
                if (ROOT / name).is_dir():
                    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
                    shutil.copytree(ROOT / name, source / target, ignore=ignored)
                else:
                    shutil.copy(ROOT / name, source / target)
    steps = [_without_mounts(step.value) for step in build if step.keyword == "RUN"]
    (make_environment,) = (step for step in steps if step.startswith("python -m venv"))
    (list_dependencies,) = (step for step in steps if "tomllib" in step)
    (install,) = (step for step in steps if step.startswith("pip wheel"))
    # setuptools from here, instead of downloading it; and the dependencies come after.
    build_wheel, install_wheel, check = re.split(r"\s*&&\s*", install)
    assert check.endswith(" check")
    for step in (make_environment, list_dependencies, f"{build_wheel} {_build_isolation()}", install_wheel):
        for path, moved in (("/opt/odeness", environment), ("/wheels", wheels)):
            step = step.replace(path, str(moved))
        search_path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["/bin/sh", "-c", step],
            cwd=source,
            env=plain_environment() | {"PATH": search_path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{step}\n{done.stdout}\n{done.stderr}"
    (own,) = environment.glob("lib/python*/site-packages")
    # Folders named in a .pth file are searched, but the .pth files in them are not read: an editable installation
    # of this checkout stays invisible.
    (own / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    (wheel,) = wheels.iterdir()
    return Installation(wheel, environment / "bin" / "python", environment / "bin" / "odeness")


def _without_mounts(command: str) -> str:
    return re.sub(r"--mount=\S+\s+", "", command)


def _build_isolation() -> str:
    """Build with this environment's setuptools if pyproject.toml is content with it, else let pip download one."""
    program = "import setuptools; raise SystemExit(int(setuptools.__version__.split('.')[0]) < 77)"
    new_enough = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0
    return "--no-build-isolation" if new_enough else ""
