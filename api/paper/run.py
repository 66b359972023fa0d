"""``odeness paper``: reproduces figures and tables of the source paper, as a client of the HTTP API."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from api.client import FINISHED, Client, Job, ProblemError, Progress, ServerUnreachable, Study
from api.paper.collection import collect_study
from api.paper.figures import fetch_figures
from api.paper.findings import FailedJob, Findings, JobFindings, TrainedSeed
from api.paper.preset import FollowUp, Options, OptionsDoNotFit, Preset
from api.paper.presets import PRESETS
from api.paper.report import QUICK_WARNING, what_is_trained, write_results, write_tables
from api.paper.submission import submit_job, submit_study
from api.paper.tables import tables_of
from api.progress_display import follow, progress_display
from ode_core.specs import StudySpec
from store.settings import Settings

POLL_SECONDS = 0.5


class PaperFailed(Exception):
    """A preset did not come to its end; the message says why, and how to go on."""


def list_presets(console: Console) -> None:
    """Print all presets."""
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("preset", "shows", "the paper", "2 cores", "--quick"):
        table.add_column(column, no_wrap=column in ("preset", "--quick"))
    for preset in PRESETS:
        name = Text("\n".join([preset.name, *(f"({alias})" for alias in preset.aliases)]), style="bold")
        shows = preset.shows + (f".\n{preset.hint}" if preset.hint else "")
        table.add_row(name, Text(shows), Text(preset.paper_says), preset.time, preset.quick_time)
        table.add_row()
    console.print(table)
    console.print(
        "One of them: odeness paper euler-grid --seeds 5 --url http://127.0.0.1:8000 --output results\n"
        "The server is to be running (odeness serve). The times are estimates.",
        highlight=False,
        soft_wrap=True,
    )


def run_preset(preset: Preset, options: Options, *, url: str, output: Path, again: bool, console: Console) -> None:
    """Submit a preset's studies, wait for them, and leave tables and figures in ``output``.

    Args:
        preset: what to reproduce.
        options: what is to be other than the preset has it.
        url: of the server.
        output: folder in which a folder of the preset's name is made.
        again: start new studies even if the server has them.
        console: for progress and tables.

    Raises:
        PaperFailed: it did not come to its end.
    """
    try:
        specs = preset.studies(options)
        key = Settings.load().api_key
        secret = None if key is None else key.get_secret_value()
        with Client(url, secret, patience=0) as client:
            client.ready()
        with Client(url, secret) as client:
            _PresetRun(client, console, preset, options, url, output / preset.name).run(specs, again=again)
    except ServerUnreachable as error:
        raise PaperFailed(str(error)) from error
    except OptionsDoNotFit as error:
        raise PaperFailed(f"these options do not fit {preset.name}: {error}") from error
    except ProblemError as error:
        reasons = "".join(f"; {one['path']}: {one['message']}" for one in error.errors)
        raise PaperFailed(f"the server refused it: {error.detail}{reasons}") from error
    except OSError as error:
        raise PaperFailed(f"cannot write the results: {error}") from error


class _PresetRun:
    """One run of the command."""

    def __init__(
        self, client: Client, console: Console, preset: Preset, options: Options, url: str, folder: Path
    ) -> None:
        self._client, self._console = client, console
        self._preset, self._options, self._url, self._folder = preset, options, url, folder

    def run(self, specs: Sequence[StudySpec], *, again: bool) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)  # before hours of work, not after
        if self._options.quick:
            self._say(f"{self._preset.name}, the quick variant of: {self._preset.shows}.")
            self._say(QUICK_WARNING)
            for spec in specs:
                self._say(f"  {what_is_trained(spec)}")
        else:
            self._say(f"{self._preset.name}: {self._preset.shows}.")
        submitted = {spec.name: submit_study(self._client, spec, again=again) for spec in specs}
        for study in submitted.values():
            self._say(f"  {study['name']}: {self._url}/v1/studies/{study['id']}")
        try:
            studies = self._follow({name: study["id"] for name, study in submitted.items()})
            findings = Findings(tuple(collect_study(self._client, study) for study in studies))
            findings = self._follow_up(findings)
        except KeyboardInterrupt:
            raise PaperFailed(self._how_to_come_back(list(submitted.values()))) from None
        except ServerUnreachable as error:
            raise PaperFailed(f"{error} What was begun is not lost; come back with:\n  {self._command()}") from error
        missing = self._write(findings)
        _require_complete(findings)
        if missing:
            raise PaperFailed(f"figures are missing. {'; '.join(missing)}")

    def _follow(self, ids: Mapping[str, str]) -> list[Study]:
        """Show how far the studies are until all have ended; return them."""
        ended: dict[str, Study] = {}
        with progress_display(self._console, list(ids)) as display:
            while True:
                for name, study_id in ids.items():
                    if name in ended:
                        continue
                    study = self._client.study(study_id)
                    progress = study["progress"]
                    jobs = f"{progress['finished_jobs']} of {progress['jobs']} jobs done"
                    shown: Progress = {"step": progress["step"], "total": progress["total"], "message": jobs}
                    display.show(name, study["status"], shown)
                    if study["status"] in FINISHED:
                        ended[name] = study
                if len(ended) == len(ids):
                    break
                time.sleep(POLL_SECONDS)
        cancelled = [study for study in ended.values() if study["status"] == "cancelled"]
        if cancelled:
            raise PaperFailed(f"{cancelled[0]['name']} was cancelled; the same command resumes it: {self._command()}")
        return [ended[name] for name in ids]

    def _follow_up(self, findings: Findings) -> Findings:
        """Submit the jobs on trained models and wait for them; return the findings with theirs.

        One that fails, or that the server refuses, is told among the findings: it spoils no other.
        """
        jobs: dict[str, tuple[FollowUp, TrainedSeed]] = {}
        followed: dict[str, str] = {}
        failed: list[FailedJob] = []

        def note_failure(label: str, reason: str) -> None:
            follow_up, seed = jobs[label]
            failed.append(FailedJob(follow_up.job["kind"], seed.label, seed.seed, reason))

        for follow_up in self._preset.follow_up_jobs(self._options):
            for seed in _models(findings, follow_up):
                label = f"{follow_up.job['kind']} {seed.label} seed {seed.seed}"
                jobs[label] = follow_up, seed
                document = {**follow_up.job, "model": seed.model, "version": seed.version}
                try:
                    followed[label] = submit_job(self._client, document)
                except ProblemError as refused:
                    note_failure(label, refused.detail)
        ended: dict[str, Job] = {}

        def on_success(label: str, job: Job) -> dict[str, str]:
            ended[label] = job
            return {}

        def on_failure(label: str, job: Job) -> None:
            note_failure(label, job["error"]["message"] if job["error"] else f"it was {job['status']}")

        follow(self._console, self._client, list(followed), followed, on_success, on_failure)
        found = [
            JobFindings(dict(ended[label]), seed.label, seed.seed, self._client.result(ended[label]["id"]))
            for label, (_, seed) in jobs.items()
            if label in ended
        ]
        return replace(findings, jobs=tuple(found), failed_jobs=tuple(failed))

    def _write(self, findings: Findings) -> list[str]:
        """Write and print everything; return why figures are missing."""
        tables = tables_of(self._preset, findings)
        arguments = (self._folder, self._preset, self._options, self._command(), findings, tables)
        files = [write_tables(*arguments), write_results(*arguments)]
        self._console.print()
        for table in tables:
            self._console.print(table.for_terminal())
            for note in table.notes:
                self._say(f"  {note}")
            self._console.print()
        self._say(f"The paper: {self._preset.paper_says}.")
        figures = fetch_figures(self._client, self._preset, findings, self._folder)
        self._say("Look at")
        for path in [*files, *figures.files]:
            self._say(f"  {path.absolute()}")
        return figures.missing

    def _how_to_come_back(self, studies: Sequence[Study]) -> str:
        cancel = "".join(f"\n  curl -X POST {self._url}/v1/studies/{study['id']}/cancel" for study in studies)
        return (
            f"stopped looking; the server goes on. To come back:\n  {self._command()}\n"
            f"To stop the server's work, too:{cancel}"
        )

    def _command(self) -> str:
        options = self._options
        given = {"--seeds": options.seeds, "--iterations": options.iterations, "--samples": options.samples}
        parts = [f"{name} {value}" for name, value in given.items() if value is not None]
        quick = ["--quick"] if options.quick else []
        where = ["--url", self._url, "--output", str(self._folder.parent)]
        return " ".join(["odeness paper", self._preset.name, *parts, *quick, *where])

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def _models(findings: Findings, follow_up: FollowUp) -> list[TrainedSeed]:
    by_configuration = [one.seeds for study in findings.studies for one in study.configurations if one.seeds]
    match follow_up.of:
        case "every seed":
            return [seed for seeds in by_configuration for seed in seeds]
        case "first seeds":
            return [seeds[0] for seeds in by_configuration]
        case "first model":
            return [seeds[0] for seeds in by_configuration[:1]]


def _require_complete(findings: Findings) -> None:
    """Raise ``PaperFailed`` when a job has failed: a training that diverged is a result, anything else is not."""
    errors = [
        f"{cell['label']}: {cell['error']['message']}"
        for study in findings.studies
        if study.study["status"] == "failed"
        for cell in study.study["cells"]
        if cell["error"] is not None
    ]
    errors += [f"{job.kind} of {job.label} seed {job.seed}: {job.reason}" for job in findings.failed_jobs]
    if errors:
        raise PaperFailed(
            f"the tables are incomplete, as jobs have failed; the same command runs these again. {'; '.join(errors)}"
        )
