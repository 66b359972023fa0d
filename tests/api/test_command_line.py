import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from sqlalchemy import text

from api import command_line
from api.data_folder import DataFolder
from api.http_server import listen
from store.engine import create_engine_from
from store.schema_version import require_head


class Ended(Exception):
    """The command ended: its exit status and what it wrote."""

    def __init__(self, status: int, output: str, errors: str) -> None:
        super().__init__(status, output, errors)
        self.status, self.output, self.errors = status, output, errors


class Run:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> Ended:
        """Run the command in this process."""
        self._monkeypatch.setattr(sys, "argv", ["odeness", *arguments])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        captured = self._capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    # Commands set variables for the processes they become.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    return Run(monkeypatch, capsys)


def assert_refused(ended: Ended, pattern: str) -> None:
    """One clear sentence and no traceback."""
    assert ended.status == 1
    assert ended.output == ""
    assert re.fullmatch(rf"odeness: [^\n]*{pattern}[^\n]*\n", ended.errors), ended.errors


@pytest.mark.parametrize("command", ["serve", "api", "worker", "migrate", "demo", "export", "openapi"])
def test_help_explains_each_command(run: Run, command: str) -> None:
    assert command in run("--help").output

    ended = run(command, "--help")

    assert ended.status == 0
    assert f"Usage: odeness {command}" in ended.output


def test_version_is_shown(run: Run) -> None:
    assert run("version").output == f"odeness {version('odeness')}\n"


def test_the_openapi_document_is_printed_without_a_server(run: Run) -> None:
    document = json.loads(run("openapi").output)

    assert document["openapi"].startswith("3.1")
    assert "/v1/models/{name}/predict" in document["paths"]
    assert not list(Path.cwd().iterdir())


def test_the_command_starts_without_torch_and_altair(tmp_path: Path) -> None:
    script = "import sys, api.command_line; sys.exit(bool({'torch', 'altair', 'worker'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_an_unknown_option_is_a_usage_error(run: Run) -> None:
    ended = run("serve", "--nonsense")

    assert ended.status == 2
    assert "No such option" in ended.errors


class TestMigrate:
    def test_brings_a_new_database_to_the_newest_schema_and_may_be_repeated(self, run: Run, tmp_path: Path) -> None:
        for _ in range(2):
            assert run("migrate", "--data", str(tmp_path / "data")).output == "the database is up to date\n"

        engine = create_engine_from(f"sqlite:///{tmp_path}/data/odeness.db")
        require_head(engine)
        engine.dispose()

    def test_says_which_database_it_cannot_use(self, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        secret = "a-secret-password"
        url = f"postgresql+psycopg://user:{secret}@127.0.0.1:9/odeness?connect_timeout=2"
        monkeypatch.setitem(os.environ, "ODENESS_DATABASE_URL", url)

        ended = run("migrate")

        assert_refused(ended, "cannot use the database: .*127.0.0.1.*check ODENESS_DATABASE_URL")
        assert secret not in ended.errors

    def test_does_not_touch_the_database_of_a_newer_version(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, sqlite_database: str
    ) -> None:
        engine = create_engine_from(sqlite_database)
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        engine.dispose()

        monkeypatch.setitem(os.environ, "ODENESS_DATABASE_URL", sqlite_database)

        assert_refused(run("migrate"), "9999.*newer version")


class TestServe:
    def test_refuses_a_port_in_use_before_it_makes_anything(self, run: Run, tmp_path: Path) -> None:
        with listen("127.0.0.1", 0) as taken:
            port = str(taken.getsockname()[1])
            ended = run("serve", "--port", port, "--data", str(tmp_path / "data"))

        assert_refused(ended, f"127.0.0.1:{port}: address already in use; .* with --port")
        assert not (tmp_path / "data/odeness.db").exists()

    def test_refuses_a_folder_that_another_server_uses(self, run: Run, tmp_path: Path) -> None:
        with DataFolder(tmp_path / "data"):
            ended = run("serve", "--port", "0", "--data", str(tmp_path / "data"))

        assert_refused(ended, "another odeness server .* stop it, or choose another folder with --data")

    @pytest.mark.parametrize("command", ["serve", "api"])
    def test_refuses_a_public_address_without_an_api_key(self, run: Run, command: str) -> None:
        assert_refused(run(command, "--host", "0.0.0.0", "--port", "0"), "set ODENESS_API_KEY")

    def test_names_the_variable_that_is_wrong(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(os.environ, "ODENESS_LEASE_SECONDS", "soon")

        assert_refused(run("serve"), "ODENESS_LEASE_SECONDS: .*number")


class TestApi:
    def test_does_not_start_on_a_database_that_is_not_migrated(self, run: Run) -> None:
        assert_refused(run("api", "--port", "0"), "database is empty: run `odeness migrate`")


class TestWorker:
    def test_becomes_the_worker_with_the_settings(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        became: list[tuple[str, list[str]]] = []

        def become(program: str, arguments: list[str]) -> None:
            became.append((program, arguments))

        monkeypatch.setattr(os, "execv", become)

        run("worker", "--data", str(tmp_path))

        assert became == [(sys.executable, [sys.executable, "-m", "worker"])]
        assert os.environ["ODENESS_DATA_DIR"] == str(tmp_path)


class TestDemo:
    def test_of_a_server_that_does_not_answer_fails_with_one_sentence(self, run: Run, tmp_path: Path) -> None:
        ended = run("demo", "--url", "http://127.0.0.1:9", "--output", str(tmp_path))

        assert ended.status == 1
        assert re.fullmatch(r"odeness: no answer from http://127.0.0.1:9: .* is the server running\?\n", ended.errors)

    def test_that_cannot_use_its_folder_says_why(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "file").touch()

        ended = run("demo", "--data", str(tmp_path / "file/data"))

        assert ended.status == 1
        assert "the demo's server did not start: cannot use" in ended.errors
