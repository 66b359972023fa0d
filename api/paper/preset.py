"""A preset: the studies and jobs that reproduce one figure or table of the source paper."""

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from ode_core.specs import StudySpec
from ode_core.specs.spec import reasons

TableKind = Literal["studies", "gradients", "trajectories", "fan", "audits", "mechanism"]
Document = Mapping[str, Any]


class UnknownPreset(LookupError):
    """There is no preset of that name; the message has those that look like it."""


class OptionsDoNotFit(ValueError):
    """The options make a study that is refused; the message has the reason."""


@dataclass(frozen=True)
class PaperNumbers:
    """What the paper gives for one data set; None where it gives nothing.

    Attributes:
        critical_evaluations: function evaluations an iteration between which the critical step lies, as printed. The
            paper counts one more than there are Euler steps.
        grid_accuracy: of the grid search, in percent with its spread over five seeds.
        adaptation_evaluations: mean function evaluations over a training with step adaptation.
        adaptation_accuracy: of such a training.
    """

    critical_evaluations: tuple[int, int] | None = None
    grid_accuracy: str | None = None
    adaptation_evaluations: float | None = None
    adaptation_accuracy: str | None = None


@dataclass(frozen=True)
class FollowUp:
    """A job on each model that a preset's studies have trained.

    Attributes:
        job: an evaluation job without model and version.
        of: which models get one: all, those of each configuration's first seed, or the very first only.
    """

    job: Document
    of: Literal["every seed", "first seeds", "first model"]


@dataclass(frozen=True)
class Options:
    """What a user may change of a preset; None: as the preset has it.

    Attributes:
        quick: the variant of a minute.
        seeds: how many; they are 0, 1, ...
        iterations: of each training.
        samples: test samples of sweeps and follow-up jobs.
    """

    quick: bool = False
    seeds: int | None = None
    iterations: int | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Preset:
    """One figure or table.

    Attributes:
        name: by which it is asked for.
        shows: what comes out, in a sentence.
        paper_says: the paper's numbers in words.
        time: that it takes on two cores, about.
        quick_time: the same of the quick variant.
        table: what is made of the findings.
        full: the studies, each a ``StudySpec`` as JSON; its name is only its part of this preset.
        quick: the studies of the quick variant.
        numbers: the paper's, for the tables.
        follow_ups: jobs on the trained models.
        accuracy_charts: whether the accuracies of each study are drawn.
        compares_trainings: whether all its trainings are drawn side by side.
        portrait_charts: names of the charts drawn of each portrait.
        aliases: other names.
        hint: a line for the list, such as a command for other hardware.
    """

    name: str
    shows: str
    paper_says: str
    time: str
    quick_time: str
    table: TableKind
    full: tuple[Document, ...]
    quick: tuple[Document, ...]
    numbers: PaperNumbers = PaperNumbers()
    follow_ups: tuple[FollowUp, ...] = ()
    accuracy_charts: bool = True
    compares_trainings: bool = False
    portrait_charts: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    hint: str = ""

    def studies(self, options: Options) -> list[StudySpec]:
        """Return the studies to submit.

        Raises:
            OptionsDoNotFit: they are refused with these options.
        """
        documents = self.quick if options.quick else self.full
        variant = ".quick" if options.quick else ""
        studies = []
        for document in documents:
            part = f".{document['name']}" if "name" in document else ""
            changed = _with_options(document, options) | {"name": f"paper.{self.name}{part}{variant}"}
            try:
                studies.append(StudySpec.model_validate(changed))
            except ValidationError as error:
                raise OptionsDoNotFit(reasons(error)) from error
        return studies

    def follow_up_jobs(self, options: Options) -> list[FollowUp]:
        """Return the jobs on trained models; audits with the options' number of samples."""
        samples = {} if options.samples is None else {"samples": options.samples}
        return [
            FollowUp({**one.job, **samples}, one.of) if one.job["kind"] == "audit" else one for one in self.follow_ups
        ]


def find_preset(presets: Sequence[Preset], name: str) -> Preset:
    """Return the preset of a name or alias.

    Raises:
        UnknownPreset: there is none.
    """
    by_name = {alias: preset for preset in presets for alias in (preset.name, *preset.aliases)}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name, by_name, n=3)
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    raise UnknownPreset(f"there is no preset {name!r}{meant} (odeness paper lists all)")


def _with_options(document: Document, options: Options) -> dict[str, Any]:
    changed = copy.deepcopy(dict(document))
    if options.seeds is not None:
        changed["seeds"] = options.seeds
    if options.iterations is not None:
        changed["base"]["training"]["iterations"] = options.iterations
    if options.samples is not None and changed.get("sweep") is not None:
        changed["sweep"]["samples"] = options.samples
    return changed
