"""The command ``odeness``."""

import json
import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any

import typer

from api.authentication import PublicBindWithoutKey, require_key_for_public_bind
from api.data_folder import DataFolderUnavailable
from api.database_setup import DatabaseUnavailable, migrate_database, require_migrated
from api.embedded_broker import NoBrokerProgram
from api.http_server import PortUnavailable, serve
from api.supervisor import CannotStart, run_embedded
from store.errors import SchemaNotAtHead
from store.settings import Settings, SettingsInvalid
from store.tracing import TelemetryUnavailable, tracing_of

EXPECTED_ERRORS = (
    CannotStart,
    DataFolderUnavailable,
    DatabaseUnavailable,
    NoBrokerProgram,
    PortUnavailable,
    PublicBindWithoutKey,
    SchemaNotAtHead,
    SettingsInvalid,
    TelemetryUnavailable,
)

app = typer.Typer(
    name="odeness",
    help="Train, test and serve neural ODEs, and tell whether a trained model really is one.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings come from environment variables ODENESS_...; options win over them.",
)

Host = Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]", show_default=False)]
Port = Annotated[
    int | None, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.  [default: 8000]", show_default=False)
]
Data = Annotated[
    Path | None,
    typer.Option(help="Folder of database, broker, logs and data sets.  [default: ./odeness-data]", show_default=False),
]


@app.command("serve")
def serve_command(host: Host = None, port: Port = None, data: Data = None) -> None:
    """Run everything on this machine.

    API, worker, broker and an SQLite database, with their data in one folder. Ctrl-C stops it.
    """
    settings = _settings(host=host, port=port, data_dir=data)
    tracing_of(settings, "odeness")  # its processes make their own; here it only has to be possible
    run_embedded(settings, typer.echo)


@app.command("api")
def api_command(
    host: Host = None,
    port: Port = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Number of processes.  [default: 1]", show_default=False)
    ] = None,
) -> None:
    """Run the HTTP API only.

    Database and broker are those of the settings.
    """
    settings = _settings(host=host, port=port, api_processes=workers)
    require_key_for_public_bind(settings.host, settings)
    require_migrated(settings)
    tracing_of(settings, "odeness-api")  # each process makes its own; here it only has to be possible
    # Each process of uvicorn reads the settings itself.
    os.environ |= {"ODENESS_HOST": settings.host, "ODENESS_PORT": str(settings.port)}
    serve(settings.host, settings.port, settings.api_processes, settings.log_level, settings.log_format)


@app.command("worker")
def worker_command(data: Data = None) -> None:
    """Run a worker.

    It takes jobs from the database and broker of the settings. SIGTERM or Ctrl-C stops it: a running
    training is saved and goes on at another worker.
    """
    if data is not None:
        os.environ["ODENESS_DATA_DIR"] = str(data)
    _settings()
    # The API does not import the worker; this process becomes it.
    os.execv(sys.executable, [sys.executable, "-m", "worker"])  # noqa: S606  # no shell


@app.command("migrate")
def migrate_command(data: Data = None) -> None:
    """Bring the database to this version's schema.

    Safe to repeat, and to run several at once.
    """
    settings = _settings(data_dir=data)
    migrate_database(settings)
    typer.echo("the database is up to date")


@app.command("demo")
def demo_command(
    data: Annotated[Path, typer.Option(help="Folder of the demo's own server.")] = Path("odeness-demo"),
    output: Annotated[
        Path | None, typer.Option(help="Folder for picture and report.  [default: that of --data]", show_default=False)
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Use this server instead of starting one.", show_default=False)
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Train for seconds only: a check of the parts, not of the idea.")
    ] = False,
) -> None:
    """Watch the whole idea at work.

    Trains two neural ODEs on handwritten digits, finds out which of them is one, and predicts with
    both. Takes about 3 minutes.
    """
    # Drawing needs altair, which takes a second to load and which nothing else here uses.
    from api.demo.run import DemoFailed, run_demo  # noqa: PLC0415

    try:
        run_demo(data=data, output=output or data, url=url, quick=quick)
    except DemoFailed as error:
        _fail(str(error))


@app.command("paper")
def paper_command(
    preset: Annotated[str | None, typer.Argument(help="What to reproduce; all are listed without it.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=100, help="Trainings of each configuration.", show_default=False)
    ] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Of each training.", show_default=False)] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Test samples of sweeps and audits.", show_default=False)
    ] = None,
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000",
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("paper"),
    quick: Annotated[
        bool, typer.Option("--quick", help="About a minute: a check of the parts, not of the numbers.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Start anew, even if the server has done or begun this already.")
    ] = False,
) -> None:
    """Reproduce a figure or table of the source paper.

    Submits studies to a running server, waits for them, and leaves tables and figures beside the
    paper's numbers. Ctrl-C leaves the server working; the same command comes back to it.
    """
    from rich.console import Console  # noqa: PLC0415

    # Loads all specs, which nothing else here uses.
    from api.paper.preset import Options, UnknownPreset, find_preset  # noqa: PLC0415
    from api.paper.presets import PRESETS  # noqa: PLC0415
    from api.paper.run import PaperFailed, list_presets, run_preset  # noqa: PLC0415

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # tables in a log file need no wrapping at 80
    if preset is None:
        list_presets(console)
        return
    options = Options(quick=quick, seeds=seeds, iterations=iterations, samples=samples)
    try:
        found = find_preset(PRESETS, preset)
        run_preset(found, options, url=url.rstrip("/"), output=output, again=again, console=console)
    except (UnknownPreset, PaperFailed) as error:
        _fail(str(error))


@app.command("export")
def export_command(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[
        str | None, typer.Option(help="Its version: a number or an alias.  [default: the latest]")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="The solver's method.  [default: the solver of the training]")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Its equal steps.")] = None,
    file_format: Annotated[str, typer.Option("--format", help="onnx, or torch for a program (.pt2).")] = "onnx",
    output: Annotated[Path | None, typer.Option(help="The file.  [default: named after model and solver]")] = None,
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000",
) -> None:
    """Save a model of a running server as ONNX or torch program.

    The solver is part of the file, which runs without this package. The server compares the file's
    answers with its own first.
    """
    # The client loads httpx, which nothing else here uses.
    from api.export_command import ExportNotMade, ExportRequest, save_export  # noqa: PLC0415

    try:
        save_export(ExportRequest(model, version, method, steps, file_format, output), url.rstrip("/"), typer.echo)
    except ExportNotMade as error:
        _fail(str(error))


@app.command("openapi")
def openapi_command() -> None:
    """Print the OpenAPI document of the HTTP API.

    It is what a server has at /openapi.json, for generators of clients.
    """
    from api.app import create_app  # noqa: PLC0415  # loads all routes, which nothing else here uses

    typer.echo(json.dumps(create_app(_settings()).openapi(), indent=2, ensure_ascii=False))


@app.command("version")
def version_command() -> None:
    """Show the version."""
    typer.echo(f"odeness {installed_version('odeness')}")


def _settings(**options: Any) -> Settings:
    return Settings.load(**{name: value for name, value in options.items() if value is not None})


def _fail(message: str) -> None:
    typer.echo(f"odeness: {message}", err=True)
    sys.exit(1)


def main() -> None:
    """Run the command line; expected errors are one sentence and exit status 1."""
    try:
        app(prog_name="odeness")  # also when run as a module
    except EXPECTED_ERRORS as error:
        _fail(str(error))


if __name__ == "__main__":
    main()
