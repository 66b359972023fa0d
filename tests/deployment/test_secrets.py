"""deploy/make_secrets.sh"""

import stat
import subprocess
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from store.settings import Settings
from tests.deployment.image import ROOT

SCRIPT = ROOT / "deploy" / "make_secrets.sh"


def _make(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", SCRIPT, folder], capture_output=True, text=True, check=False)


def test_it_makes_every_secret_that_compose_mounts(compose: dict[str, Any], tmp_path: Path) -> None:
    made = _make(tmp_path / "secrets")

    assert made.returncode == 0, made.stderr
    assert {path.name for path in (tmp_path / "secrets").iterdir()} == set(compose["secrets"])


def test_the_folder_is_closed_and_the_containers_users_can_read_the_files(tmp_path: Path) -> None:
    _make(tmp_path / "secrets")

    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "secrets").iterdir()} == {0o444}


def test_the_settings_accept_them_and_the_services_agree_on_the_passwords(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    _make(secrets)

    settings = Settings(
        database_url_file=secrets / "database_url",
        broker_url_file=secrets / "broker_url",
        api_key_file=secrets / "api_key",
    )

    url = make_url(settings.database)
    assert (url.host, url.port, url.username, url.database) == ("postgres", 5432, "odeness", "odeness")
    assert url.password == (secrets / "postgres_password").read_text()
    assert settings.broker.startswith("redis://:")
    assert settings.api_key is not None


def test_nothing_secret_is_printed_and_no_two_secrets_are_alike(tmp_path: Path) -> None:
    said = [_make(tmp_path / name) for name in ("one", "two")]

    values = [
        (tmp_path / name / key).read_text() for name in ("one", "two") for key in ("api_key", "postgres_password")
    ]
    assert len(set(values)) == 4
    assert {len(value) for value in values} == {64}
    assert not any(value in run.stdout + run.stderr for value in values for run in said)


def test_a_second_run_changes_nothing_and_says_so(tmp_path: Path) -> None:
    _make(tmp_path / "secrets")
    before = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}

    again = _make(tmp_path / "secrets")

    assert again.returncode == 1
    assert "nothing changed" in again.stderr
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["secrets"]


def test_git_ignores_them() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()

    assert {"deploy/secrets/", "deploy/settings.env"} <= set(ignored)
