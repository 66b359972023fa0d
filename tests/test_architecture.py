"""The structure of ARCHITECTURE.md and CONTRIBUTING.md: which packages there are, and who may import whom."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("ode_core", "store", "worker", "api", "migrations")
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc", "base"}


def _check_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def _contracts() -> set[str]:
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return {contract["name"] for contract in configured}


def test_nobody_imports_what_they_may_not() -> None:
    checked = _check_imports(ROOT)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(_contracts())} kept, 0 broken" in checked.stdout


FORBIDDEN = {
    "ode_core is mathematics: no web, no database, no queue": ("ode_core/specs/spec.py", "import sqlalchemy"),
    "store is the database: no torch, no web, no Celery; of ode_core only the specs": (
        "store/ids.py",
        "import ode_core.datasets.files",
    ),
    "worker and api do not know each other": ("api/doorbell.py", "import worker.celery_app"),
    "worker serves no HTTP": ("worker/lease.py", "import fastapi"),
    "specs and store load without torch": ("ode_core/specs/methods.py", "import torch"),
    # Indirectly: load.py imports torch.
    "torch enters api in api.inference only": ("api/job_acceptance.py", "import ode_core.datasets.load"),
    "the worker's parent process loads no torch, only its pool processes do": (
        "worker/reconciler.py",
        "import worker.torch_runtime",
    ),
    "torchdiffeq is one backend, behind one module": ("ode_core/solvers/solve.py", "import torchdiffeq"),
    "a migration stays as it is when the store changes": (
        "migrations/versions/0001_first_tables.py",
        "import store.tables",
    ),
}


@pytest.mark.parametrize("contract", FORBIDDEN)
def test_each_import_rule_notices_a_breach(contract: str, tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    module, statement = FORBIDDEN[contract]
    source = tmp_path / module
    source.write_text(f"{source.read_text()}\n{statement}\n")

    checked = _check_imports(tmp_path)

    assert checked.returncode != 0
    assert f"{contract} BROKEN" in checked.stdout, checked.stdout + checked.stderr


def test_every_import_rule_is_tried_out() -> None:
    assert set(FORBIDDEN) == _contracts()


def _modules(package: str) -> list[str]:
    paths = (path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / package).rglob("*.py")))
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


def _loaded_by(modules: list[str]) -> set[str]:
    """Return the top-level names that a fresh interpreter has loaded after importing the modules."""
    program = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return set(json.loads(ran.stdout))


def test_the_specs_load_with_pydantic_and_nothing_heavier() -> None:
    loaded = _loaded_by(_modules("ode_core/specs"))

    assert not {"torch", "numpy", "sqlalchemy", "fastapi", "celery"} & loaded


def test_the_store_loads_without_torch_the_web_and_celery() -> None:
    loaded = _loaded_by(_modules("store"))

    assert not {"torch", "fastapi", "starlette", "celery", "kombu", "api", "worker"} & loaded


def test_the_api_loads_without_torch_and_without_the_worker() -> None:
    modules = [name for name in _modules("api") if not name.startswith("api.inference")]
    assert "api.app" in modules
    assert "api.command_line" in modules

    loaded = _loaded_by(modules)

    assert not {"torch", "torchdiffeq", "safetensors", "worker"} & loaded


def test_the_packages_are_those_of_the_structure() -> None:
    found = {path.parent.name for path in ROOT.glob("[!.]*/__init__.py")}

    assert found == {*PACKAGES, "benchmarks"} | ({"tests"} & found)


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = [name for package in (*PACKAGES, "benchmarks", "tests") for name in _modules(package)]

    assert [name for name in names if VAGUE & set(name.split("."))] == []


def test_the_commit_hooks_are_the_commands_of_make_check_and_download_nothing() -> None:
    configured = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (local,) = configured
    commands = {line.strip().removeprefix("$(BIN)/") for line in (ROOT / "Makefile").read_text().splitlines()}

    assert local["repo"] == "local"
    for hook in local["hooks"]:
        assert hook["language"] == "system"
        # pre-commit names the files itself, where make check says ".".
        command = hook["entry"].removeprefix(".venv/bin/")
        assert {command, f"{command} ."} & commands, hook["id"]
