"""The service's settings: environment variables ``ODENESS_...``, or arguments by the same names.

Nothing is read at import: whoever starts a process makes one ``Settings`` and passes it on.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ode_core.specs import Budget
from store.engine import parse_database_url

QUEUE = "odeness"
RUN_JOB_TASK = "odeness.run_job"

_SECRETS = ("database_url", "broker_url", "api_key")
_BROKER_SCHEMES = ("redis", "rediss", "redis+socket")

Seconds = Annotated[float, Field(gt=0, le=7 * 24 * 3600)]


class SettingsInvalid(ValueError):
    """The settings cannot be used; the message names each variable and what to do."""


class Settings(BaseSettings):
    """Everything that differs between installations.

    ``ODENESS_BUDGET__PARAMETERS=1000000`` sets a field of the budget. A secret may come from a file
    instead of the environment: ``ODENESS_DATABASE_URL_FILE``, ``ODENESS_BROKER_URL_FILE``,
    ``ODENESS_API_KEY_FILE``.
    """

    model_config = SettingsConfigDict(
        env_prefix="ODENESS_",
        env_nested_delimiter="__",
        extra="ignore",  # ODENESS_ variables of a newer version, or of the tests
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # a secret may be among them
    )

    data_dir: Path = Field(default=Path("odeness-data"), description="folder of the database, broker and data sets")
    database_url: str | None = Field(default=None, repr=False, description="default: SQLite in data_dir")
    database_url_file: Path | None = None
    broker_url: str | None = Field(default=None, repr=False, description="Redis or Valkey; default: the embedded one")
    broker_url_file: Path | None = None
    datasets_dir: Path | None = Field(default=None, description="default: datasets in data_dir")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    api_processes: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="of `odeness api`")
    api_key: SecretStr | None = None
    api_key_file: Path | None = None
    max_body_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    max_upload_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=128 * 1024 * 1024, description="of an uploaded data set, as a file and again unpacked"
    )
    request_head_seconds: Seconds = Field(default=20, description="until a request's headers are complete")
    request_body_seconds: Seconds = Field(default=30, description="for its body, and one more for each 1000 bytes")
    answer_stall_seconds: Seconds = Field(default=60, description="in which a client takes nothing of its answer")
    max_connections: Annotated[int, Field(ge=1)] = Field(default=900, description="of an API process at once")
    role: Literal["all", "control", "inference"] = Field(
        default="all",
        description="of an API process: control takes jobs and never loads torch, inference only predicts",
    )
    warm_models: str = Field(
        default="",
        pattern=r"^$|^ *[A-Za-z0-9._@-]+ *(, *[A-Za-z0-9._@-]+ *)*$",
        description="loaded before the server is ready: name, name@version or name@alias, with commas between them",
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["line", "json"] = Field(default="line", description="of the API's log")
    telemetry: bool = Field(default=False, description="whether spans go to a collector of OpenTelemetry's")

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where training and evaluation run; auto: a GPU if torch sees one"
    )
    worker_processes: Annotated[int, Field(ge=1, le=256)] = 1
    torch_threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None,
        description="of one process; default: a worker's cores shared among its processes, one for inference",
    )

    lease_seconds: Seconds = 30
    heartbeat_seconds: Seconds = 5
    reconcile_seconds: Seconds = 5
    requeue_after_seconds: Seconds = 15
    max_failures: Annotated[int, Field(ge=1, le=100)] = 3
    no_progress_seconds: Seconds = 900
    keep_checkpoints: Annotated[int, Field(ge=1, le=100)] = 2

    budget: Budget = Budget()

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in _SECRETS:
            path = values.get(f"{name}_file")
            if path in (None, ""):
                continue
            if values.get(name) is not None:
                raise ValueError(f"set either {_variable(name)} or {_variable(name)}_FILE, not both")
            try:
                secret = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not text"
                raise ValueError(f"cannot read {_variable(name)}_FILE {path}: {reason}") from error
            if not secret:
                raise ValueError(f"{_variable(name)}_FILE {path} is empty")
            values = {**values, name: secret}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heartbeat_seconds >= self.lease_seconds / 3:
            raise ValueError(
                "ODENESS_HEARTBEAT_SECONDS must be less than a third of ODENESS_LEASE_SECONDS, so that two "
                f"heartbeats may be lost: {self.heartbeat_seconds:g} is not below {self.lease_seconds:g} / 3"
            )
        parse_database_url(self.database)
        if self.broker_url is not None and urlsplit(self.broker_url).scheme not in _BROKER_SCHEMES:
            raise ValueError(
                "ODENESS_BROKER_URL must begin with redis://, rediss:// or redis+socket://, for example "
                "redis://127.0.0.1:6379/0; leave it out to use the embedded broker"
            )
        return self

    @classmethod
    def load(cls, **overrides: Any) -> "Settings":
        """Return the settings of the environment, with ``overrides`` in place.

        Raises:
            SettingsInvalid: with a message for people, one line for each problem.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            lines = []
            for problem in error.errors(include_url=False, include_input=False, include_context=False):
                where = "__".join(str(part) for part in problem["loc"])
                text = problem["msg"].removeprefix("Value error, ")
                lines.append(f"{_variable(where)}: {text}" if where else text)
            raise SettingsInvalid("\n".join(lines)) from error

    @property
    def database(self) -> str:
        """The database's URL: the one set, else an SQLite file in ``data_dir``."""
        if self.database_url is not None:
            return self.database_url
        return f"sqlite:///{self.data_dir.absolute() / 'odeness.db'}"

    @property
    def datasets(self) -> Path:
        """The folder with the files of mnist and cifar10."""
        return self.datasets_dir if self.datasets_dir is not None else self.data_dir / "datasets"

    @property
    def broker_socket(self) -> Path:
        """Where the embedded broker listens."""
        return self.data_dir.absolute() / "broker.sock"

    @property
    def broker(self) -> str:
        """The broker's URL: the one set, else the embedded broker's socket."""
        return self.broker_url if self.broker_url is not None else f"redis+socket://{self.broker_socket}"

    def celery_options(self) -> dict[str, Any]:
        """Return the Celery configuration that the API's doorbell and the worker share.

        The database is the truth and a message only a hint, so a message lost or delivered twice
        does no harm; these options avoid what would: losing one with a killed worker quietly,
        starting a long job twice, or a request that waits for a broker that is down.
        """
        transport: dict[str, Any] = {
            # Redis gives an unacknowledged message to another worker after this time, and the
            # shortest value of all programs on a broker counts. The default hour would deliver
            # every long job again; the reconciler finds lost ones much sooner.
            "visibility_timeout": 86_400,
            # Longer than kombu's own blocking read; without it a publish to a vanished peer hangs.
            "socket_timeout": 15.0,
            "health_check_interval": 25,
        }
        if not self.broker.startswith("redis+socket:"):
            transport |= {"socket_connect_timeout": 2.0, "socket_keepalive": True}
        return {
            "broker_url": self.broker,
            "broker_transport_options": transport,
            "broker_connection_timeout": 4.0,
            "broker_connection_retry_on_startup": True,
            "broker_connection_max_retries": None,
            "task_acks_late": True,
            # A worker that was killed says nothing about the job: the lease decides.
            "task_reject_on_worker_lost": False,
            "worker_prefetch_multiplier": 1,
            "worker_cancel_long_running_tasks_on_connection_loss": False,
            "worker_pool": "prefork",
            # torch's threads and CUDA do not survive a fork.
            "worker_pool_start_method": "spawn",
            "task_serializer": "json",
            "accept_content": ["json"],
            "task_ignore_result": True,
            "result_backend": None,
            "task_default_queue": QUEUE,
            "task_create_missing_queues": True,
            # A request must not wait for the broker: the reconciler rings again.
            "task_publish_retry": True,
            "task_publish_retry_policy": {
                "max_retries": 1,
                "interval_start": 0,
                "interval_step": 0.1,
                "interval_max": 0.2,
            },
            "enable_utc": True,
            "timezone": "UTC",
        }


def _variable(name: str) -> str:
    return f"ODENESS_{name.upper()}"
