import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.data_folder import DataFolder, DataFolderUnavailable
from api.http_server import PortUnavailable, listen, url_of
from api.supervisor import CannotStart, Part, Supervisor
from tests.conftest import wait_until

NEVER = threading.Event()


@pytest.fixture
def said() -> list[str]:
    """What the supervisor told the user."""
    return []


class PartMaker:
    def __init__(self, folder: Path, said: list[str]) -> None:
        self.folder, self.said = folder, said
        self.parts: list[Part] = []

    def shell(self, script: str, name: str = "part") -> Part:
        part = Part(name, ["sh", "-c", script], os.environ, self.folder / f"{name}.log", self.said.append)
        self.parts.append(part)
        return part


@pytest.fixture
def make(tmp_path: Path, said: list[str]) -> Iterator[PartMaker]:
    maker = PartMaker(tmp_path, said)
    yield maker
    for part in maker.parts:
        part.stop(0, NEVER)


def process_exists(pid: int) -> bool:
    """Whether the process runs; one that only waits for its parent's notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def read_pid(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), f"{path.name} is written")
    return int(path.read_text())


class TestPart:
    def test_is_started_again_when_it_dies_and_says_how_it_ended(self, make: PartMaker, said: list[str]) -> None:
        part = make.shell("exit 3")
        part.start()

        def started_twice() -> bool:
            part.start_again_if_dead()
            return part.starts == 3

        wait_until(started_twice, "the part is started again twice")

        assert "exit status 3" in said[0]

    def test_pauses_longer_each_time_it_dies_at_once(self, make: PartMaker) -> None:
        part = make.shell("exit 1")
        part.start()
        times = [time.monotonic()]

        def started_again(count: int) -> bool:
            part.start_again_if_dead()
            return part.starts == count

        for count in (2, 3, 4):
            wait_until(lambda count=count: started_again(count), f"start {count}")
            times.append(time.monotonic())

        # The pauses are 0.25, 0.5 and 1 second; a busy machine only makes them longer.
        assert times[1] - times[0] >= 0.25
        assert times[2] - times[1] >= 0.5
        assert times[3] - times[2] >= 1.0

    def test_writes_its_output_to_a_log_and_its_errors_to_the_console(self, make: PartMaker, said: list[str]) -> None:
        part = make.shell("echo 12:00 INFO a: fine; echo 12:01 ERROR b: broken >&2; exec sleep 60")
        part.start()

        wait_until(lambda: bool(said), "the error is shown")

        assert said == ["part: 12:01 ERROR b: broken"]
        assert part.log.read_text().splitlines() == ["12:00 INFO a: fine", "12:01 ERROR b: broken"]

    def test_is_killed_with_its_children_when_it_does_not_stop_in_time(
        self, make: PartMaker, said: list[str], tmp_path: Path
    ) -> None:
        part = make.shell(f"trap '' TERM; sleep 60 & echo $! > {tmp_path}/child; wait; wait")
        part.start()
        child = read_pid(tmp_path / "child")

        part.stop(0.1, NEVER)

        assert not part.running
        wait_until(lambda: not process_exists(child), "the child is gone")
        assert said == ["the part does not stop: killing it"]

    def test_is_killed_at_once_when_forced(self, make: PartMaker, tmp_path: Path) -> None:
        part = make.shell(f"trap '' TERM; echo $$ > {tmp_path}/self; while :; do sleep 60; done")
        part.start()
        pid = read_pid(tmp_path / "self")
        forced = threading.Event()
        forced.set()

        part.stop(600, forced)

        assert not process_exists(pid)

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent")
    def test_dies_with_its_supervisor_even_if_that_is_killed(self, tmp_path: Path) -> None:
        script = (
            "import os, sys, time; from api.tied_process import start_tied\n"
            f"start_tied(['sh', '-c', 'echo $$ > {tmp_path}/child; exec sleep 60'])\n"
            "time.sleep(60)"
        )
        supervisor = subprocess.Popen([sys.executable, "-c", script])
        child = read_pid(tmp_path / "child")
        assert process_exists(child)

        supervisor.kill()
        supervisor.wait()

        wait_until(lambda: not process_exists(child), "the child is gone")

    def test_whose_program_is_missing_says_so_in_its_log(self, tmp_path: Path, said: list[str]) -> None:
        part = Part("part", ["/nowhere/program"], os.environ, tmp_path / "part.log", said.append)
        part.start()
        wait_until(lambda: not part.running, "the launcher gives up")

        assert "cannot start /nowhere/program: No such file or directory" in part.last_lines()
        part.stop(0, NEVER)


class TestSupervisor:
    def test_stops_its_parts_in_the_opposite_order_of_starting(
        self, make: PartMaker, said: list[str], tmp_path: Path
    ) -> None:
        order = tmp_path / "order"
        order.touch()
        script = "trap 'echo {0} >> {1}; exit 0' TERM; echo up-{0} >> {1}; while :; do sleep 0.05; done"
        parts = [make.shell(script.format(name, order), name) for name in ("first", "second")]
        supervisor = Supervisor(parts, "http://127.0.0.1:9", said.append)

        def interrupt_when_both_are_up() -> None:
            wait_until(lambda: order.read_text().count("up-") == 2, "both parts run")
            os.kill(os.getpid(), signal.SIGINT)

        interrupter = threading.Thread(target=interrupt_when_both_are_up)
        interrupter.start()
        supervisor.run()
        interrupter.join()

        assert order.read_text().split()[2:] == ["second", "first"]

    def test_gives_up_with_the_end_of_the_log_when_a_part_never_comes_up(
        self, make: PartMaker, said: list[str]
    ) -> None:
        part = make.shell("echo the reason; exit 1")
        supervisor = Supervisor([part], "http://127.0.0.1:9", said.append)

        with pytest.raises(CannotStart, match="the part does not start; the end of its log:\n  the reason"):
            supervisor.run()

        assert not part.running


class TestDataFolder:
    def test_is_refused_to_a_second_server_which_learns_who_uses_it(self, tmp_path: Path) -> None:
        with (
            DataFolder(tmp_path / "data"),
            pytest.raises(DataFolderUnavailable, match=rf"another odeness server \(process {os.getpid()}\)"),
            DataFolder(tmp_path / "data"),
        ):
            pass

    def test_is_free_again_after_its_server(self, tmp_path: Path) -> None:
        for _ in range(2):
            with DataFolder(tmp_path / "data") as folder:
                assert folder.logs.is_dir()

    def test_made_anew_is_private(self, tmp_path: Path) -> None:
        with DataFolder(tmp_path / "data") as folder:
            assert folder.path.stat().st_mode & 0o777 == 0o700

    def test_that_cannot_be_made_is_a_clear_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DataFolderUnavailable, match="choose another with --data"), DataFolder(tmp_path / "file/x"):
            pass


class TestListen:
    def test_says_that_a_port_is_in_use_and_what_to_do(self) -> None:
        with listen("127.0.0.1", 0) as first:
            port = first.getsockname()[1]
            with pytest.raises(PortUnavailable, match=rf"127.0.0.1:{port}: address already in use; .*--port"):
                listen("127.0.0.1", port)

    def test_says_that_a_host_is_not_ours(self) -> None:
        with pytest.raises(PortUnavailable, match=r"cannot listen on 192\.0\.2\.1"):  # reserved for documentation
            listen("192.0.2.1", 0)

    @pytest.mark.parametrize(
        ("host", "url"), [("127.0.0.1", "http://127.0.0.1"), ("0.0.0.0", "http://127.0.0.1"), ("::1", "http://[::1]")]
    )
    def test_gives_a_url_that_reaches_the_server_from_this_machine(self, host: str, url: str) -> None:
        try:
            listener = listen(host, 0)
        except PortUnavailable:
            if host != "::1":
                raise
            pytest.skip("no IPv6 here")
        with listener:
            port = listener.getsockname()[1]
            assert url_of(listener) == f"{url}:{port}"
            with socket.create_connection((url.removeprefix("http://").strip("[]"), port), timeout=5):
                pass
