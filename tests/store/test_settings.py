from pathlib import Path

import pytest
from pydantic import ValidationError

from store.settings import Settings, SettingsInvalid


def test_without_any_setting_everything_is_in_the_data_folder(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)

    assert settings.database == f"sqlite:///{tmp_path}/odeness.db"
    assert settings.datasets == tmp_path / "datasets"
    assert settings.broker == f"redis+socket://{tmp_path}/broker.sock"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODENESS_LEASE_SECONDS", "60")
    monkeypatch.setenv("ODENESS_BUDGET__PARAMETERS", "1000")
    monkeypatch.setenv("ODENESS_DATABASE_URL", "postgres://me@host/name")

    settings = Settings.load()

    assert settings.lease_seconds == 60
    assert settings.budget.parameters == 1000
    assert settings.database == "postgres://me@host/name"


def test_secrets_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "db").write_text("postgresql://me:word@host/name\n")
    (tmp_path / "key").write_text("key\n")
    monkeypatch.setenv("ODENESS_DATABASE_URL_FILE", str(tmp_path / "db"))

    settings = Settings.load(api_key_file=tmp_path / "key")

    assert settings.database == "postgresql://me:word@host/name"
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "key"


def test_secrets_are_not_shown() -> None:
    settings = Settings.load(
        database_url="postgresql://me:pass1@host/x", broker_url="redis://:pass2@host/0", api_key="pass3"
    )

    assert "pass" not in repr(settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lease_seconds": 10, "heartbeat_seconds": 4}, "ODENESS_HEARTBEAT_SECONDS must be less than a third"),
        ({"lease_seconds": -1}, "ODENESS_LEASE_SECONDS: "),
        ({"budget": {"parameters": 0}}, "ODENESS_BUDGET__PARAMETERS: "),
        ({"database_url": "mysql://u:hidden@h/d"}, "mysql is not supported: use sqlite"),
        ({"broker_url": "amqp://u:hidden@h"}, "ODENESS_BROKER_URL must begin with redis://"),
        ({"database_url_file": "/no/such/file"}, "ODENESS_DATABASE_URL_FILE /no/such/file: No such file"),
        (
            {"database_url_file": "/x", "database_url": "sqlite:////x/hidden"},
            "either ODENESS_DATABASE_URL or ODENESS_DATABASE_URL_FILE, not both",
        ),
        ({"log_level": "loud"}, "ODENESS_LOG_LEVEL: "),
    ],
)
def test_a_bad_setting_is_named_by_its_variable_and_no_secret_is_shown(given: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsInvalid) as invalid:
        Settings.load(**given)

    assert message in str(invalid.value)
    assert "hidden" not in str(invalid.value)


def test_an_empty_secret_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")

    with pytest.raises(SettingsInvalid, match="is empty"):
        Settings.load(database_url_file=tmp_path / "empty")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_the_celery_options_are_those_a_long_job_needs() -> None:
    options = Settings(broker_url="redis://host/0").celery_options()

    assert options["task_acks_late"] is True
    assert options["worker_prefetch_multiplier"] == 1
    assert options["task_reject_on_worker_lost"] is False
    assert options["worker_cancel_long_running_tasks_on_connection_loss"] is False
    assert options["broker_connection_max_retries"] is None
    assert options["worker_pool_start_method"] == "spawn"
    assert options["accept_content"] == ["json"]
    assert options["result_backend"] is None
    assert options["broker_transport_options"]["visibility_timeout"] == 86_400
    assert options["task_default_queue"] == "odeness"


def test_socket_options_of_tcp_are_not_given_to_a_unix_socket(tmp_path: Path) -> None:
    tcp = Settings(broker_url="redis://host/0").celery_options()["broker_transport_options"]
    unix = Settings(data_dir=tmp_path).celery_options()["broker_transport_options"]

    assert tcp["socket_keepalive"] is True
    assert "socket_keepalive" not in unix
    assert unix["visibility_timeout"] == 86_400
