"""``odeness paper`` against a real server, with presets small enough for a test."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import api.paper.run
from api.client import Client
from api.paper.preset import Options, Preset, find_preset
from api.paper.presets import PRESETS
from api.paper.run import PaperFailed, run_preset
from tests.e2e.main_job import environment
from tests.e2e.test_embedded import EmbeddedServer, serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the server's processes in /proc")

TINY = Options(quick=True, iterations=4, samples=20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    folder = tmp_path_factory.mktemp("paper")
    with serving(folder / "data", folder / "output") as running:
        yield running


def preset_of(name: str, called: str, **changes: Any) -> Preset:
    """A preset under a name of this test's own, so that tests find no studies of each other."""
    return replace(find_preset(PRESETS, name), name=called, **changes)


def run(server: EmbeddedServer, preset: Preset, output: Path, options: Options = TINY, again: bool = False) -> str:
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    run_preset(preset, options, url=server.url, output=output, again=again, console=console)
    return printed.getvalue()


def studies_of(server: EmbeddedServer, name: str) -> list[dict[str, Any]]:
    with Client(server.url) as client:
        return list(client.studies(name=f"paper.{name}.quick"))


def test_a_grid_leaves_its_tables_beside_the_papers_numbers(server: EmbeddedServer, tmp_path: Path) -> None:
    printed = run(server, preset_of("euler-grid", "grid", accuracy_charts=False), tmp_path)

    table = (tmp_path / "grid" / "table.md").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "grid" / "results.json").read_text(encoding="utf-8"))
    assert "between 65 and 129" in table
    assert "A quick run" in table
    trained = "paper.grid.quick trains euler-2, euler-8, euler-32; 2 seeds, 4 iterations"
    assert trained in table
    assert trained in printed
    assert re.search(r"\| euler-32 \| [\d.]+ ± [\d.]+ \| [\d.]+ ± [\d.]+ \|", table)
    assert "euler-32" in printed
    assert str(tmp_path / "grid" / "table.md") in printed
    (study,) = results["studies"]
    assert [one["label"] for one in study["configurations"]] == ["euler-2", "euler-8", "euler-32"]
    # Three methods with seven step counts, of two seeds.
    assert all(len(one["rows"]) == 42 for one in study["configurations"])


@pytest.mark.slow
def test_trained_models_are_followed_up_by_audits(server: EmbeddedServer, tmp_path: Path) -> None:
    run(server, preset_of("three-minima", "audited", accuracy_charts=False), tmp_path)

    table = (tmp_path / "audited" / "table.md").read_text(encoding="utf-8")
    assert table.index("## Audits") < table.index("accuracy by training solver")
    assert (
        len(re.findall(r"\| (?:euler-2|rk4-16) \| 0 \| [\d.]+ \| [\d.]+ \| [\d.]+ \([\d.]+ to [\d.]+\) \|", table)) == 2
    )


def test_an_interrupted_command_says_how_to_come_back_and_then_finds_its_study(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = preset_of("midpoint-grid", "interrupted", accuracy_charts=False)

    class Interrupted:
        @staticmethod
        def sleep(_: float) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(api.paper.run, "time", Interrupted)
        with pytest.raises(
            PaperFailed, match=r"the server goes on. To come back:\s+odeness paper interrupted"
        ) as raised:
            run(server, preset, tmp_path)
    (study,) = studies_of(server, "interrupted")
    assert f"/v1/studies/{study['id']}/cancel" in str(raised.value)

    printed = run(server, preset, tmp_path)

    assert [one["id"] for one in studies_of(server, "interrupted")] == [study["id"]]
    assert study["id"] in printed


@pytest.mark.slow
def test_a_cancelled_study_is_resumed_and_other_options_or_again_begin_another(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    preset = preset_of("rk4-grid", "resumed", accuracy_charts=False)
    spec = preset.studies(TINY)[0]
    with Client(server.url) as client:
        study = client.submit_study(spec.document())
        client.cancel_study(study["id"])
        while client.study(study["id"])["status"] not in ("cancelled", "succeeded"):
            pass

        run(server, preset, tmp_path)

        assert client.study(study["id"])["status"] == "succeeded"
        assert len(studies_of(server, "resumed")) == 1
    run(server, preset, tmp_path, replace(TINY, seeds=1))
    assert len(studies_of(server, "resumed")) == 2
    run(server, preset, tmp_path, again=True)
    assert len(studies_of(server, "resumed")) == 3


def test_seeds_whose_training_diverged_are_shown(server: EmbeddedServer, tmp_path: Path) -> None:
    plain = find_preset(PRESETS, "euler-grid")
    (document,) = plain.quick
    training = {"iterations": 200, "optimizer": "sgd", "learning_rate": 10.0}
    wild = {
        **document,
        "base": {**document["base"], "training": training},
        "train": {"methods": ["rk4"], "steps": [64]},
    }
    preset = replace(plain, name="diverged", quick=(wild,), accuracy_charts=False)

    printed = run(server, preset, tmp_path, Options(quick=True, samples=20))

    assert "Seeds without a model" in printed
    assert re.search(r"rk4-64 +0 +in iteration \d+", printed)


def test_figures_of_a_study_and_of_an_adapted_training_are_fetched_in_every_format(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    run(server, preset_of("step-adaptation", "drawn"), tmp_path)

    written = {path.name for path in (tmp_path / "drawn").iterdir()}
    names = [one for one in written if one.endswith("-step-adaptation.svg")]
    assert {"accuracy.svg", "accuracy.png", "accuracy.html", "accuracy-by-evaluations.svg"} <= written
    assert len(names) >= 2
    for name in names:
        assert (tmp_path / "drawn" / name).read_text().startswith("<svg")


class TestCommand:
    def paper(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "api.command_line", "paper", *arguments]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)

    def test_lists_the_presets(self) -> None:
        listed = self.paper()
        assert listed.returncode == 0
        assert all(preset.name in listed.stdout for preset in PRESETS)
        assert "figure-4a" in listed.stdout

    def test_answers_an_unknown_name_with_those_that_are_near(self) -> None:
        refused = self.paper("euler-gird")
        assert refused.returncode == 1
        assert "did you mean euler-grid" in refused.stderr

    def test_says_in_one_line_that_the_server_is_away(self, tmp_path: Path) -> None:
        refused = self.paper("euler-grid", "--quick", "--url", "http://127.0.0.1:9", "--output", str(tmp_path))
        assert refused.returncode == 1
        assert "is the server running?" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert list(tmp_path.iterdir()) == []
