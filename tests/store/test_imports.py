import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["store.unit_of_work", "store.reconciliation", "store.schema_version"])
def test_the_store_loads_without_torch_web_and_queue(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(name for name in sys.modules if '.' not in name))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()

    assert "sqlalchemy" in loaded
    assert not {"torch", "numpy", "fastapi", "starlette", "celery", "kombu", "redis"} & set(loaded)
