"""What the image's install steps leave behind, tried from outside the checkout."""

import sqlite3
import subprocess
import tomllib
import zipfile
from pathlib import Path

from tests.deployment.image import ROOT, Installation, plain_environment

PACKAGES = ("api", "migrations", "ode_core", "store", "worker")


def _run(installation: Installation, folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = plain_environment() | {"ODENESS_DATA_DIR": str(folder / "data"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_the_packages_whole_and_nothing_else(installation: Installation) -> None:
    with zipfile.ZipFile(installation.wheel) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and not path.name.startswith(".")
    }

    assert held == expected
    assert {"migrations/script.py.mako", "migrations/versions/0001_first_tables.py", "api/py.typed"} <= held


def test_the_wheel_brings_the_command_the_licence_and_the_dependencies(installation: Installation) -> None:
    with zipfile.ZipFile(installation.wheel) as wheel:
        meta = {name.partition(".dist-info/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
        entry_points = wheel.read(meta["entry_points.txt"]).decode()
        required = wheel.read(meta["METADATA"]).decode()

    assert "odeness = api.command_line:main" in entry_points
    assert "licenses/LICENSE" in meta
    assert "Requires-Dist: torch" in required


def test_the_requirements_that_the_image_installs_first_are_the_projects_with_its_extras(
    installation: Installation,
) -> None:
    source = installation.wheel.parents[1] / "source"

    listed = (source / "requirements.txt").read_text().splitlines()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert listed == [*project["dependencies"], *extras["export"], *extras["telemetry"]]


def test_the_packages_are_imported_from_the_installation_and_not_from_the_checkout(
    installation: Installation, tmp_path: Path
) -> None:
    program = f"import importlib; print(*(importlib.import_module(name).__file__ for name in {PACKAGES!r}), sep='\\n')"

    said = _run(installation, tmp_path, installation.python, "-c", program)

    assert said.returncode == 0, said.stderr
    environment = installation.python.parents[1]
    assert [Path(line).is_relative_to(environment) for line in said.stdout.splitlines()] == [True] * len(PACKAGES)


def test_odeness_tells_its_commands(installation: Installation, tmp_path: Path) -> None:
    said = _run(installation, tmp_path, installation.odeness, "--help")

    assert said.returncode == 0, said.stderr
    assert all(command in said.stdout for command in ("migrate", "api", "worker", "serve"))


def test_odeness_migrate_makes_the_tables_and_changes_nothing_when_run_again(
    installation: Installation, tmp_path: Path
) -> None:
    for _ in range(2):
        said = _run(installation, tmp_path, installation.odeness, "migrate")
        assert said.returncode == 0, said.stderr

    with sqlite3.connect(tmp_path / "data" / "odeness.db") as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    database.close()
    assert {"job", "event", "alembic_version"} <= tables


def test_the_worker_of_the_installation_starts_and_refuses_an_empty_database(
    installation: Installation, tmp_path: Path
) -> None:
    said = _run(installation, tmp_path, installation.odeness, "worker")

    assert said.returncode != 0
    assert "odeness migrate" in said.stderr
