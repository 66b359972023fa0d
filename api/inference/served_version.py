"""Which version a call means, and what is known of it before its weights are read. Without torch."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

from api.identifiers import VersionReference, find_version
from ode_core.specs import (
    ModifiedFieldSpec,
    SolverSpec,
    TrainingJobSpec,
    evaluations_in_field,
    model_input_shape,
    model_state_shape,
)
from store.models import ModelVersion
from store.unit_of_work import Transaction

_MOST_KNOWN = 1024


@dataclass(frozen=True)
class ServedVersion:
    """A model version with what its requests are checked against; it never changes.

    Attributes:
        version: as it is stored.
        spec: the training job that made it, or what an upload declared.
        modified_field: of a repair.
    """

    version: ModelVersion
    spec: TrainingJobSpec
    modified_field: ModifiedFieldSpec | None

    @classmethod
    def of(cls, version: ModelVersion) -> "ServedVersion":
        """Read what is stored of a version."""
        modified = version.modified_field
        field = None if modified is None else ModifiedFieldSpec.model_validate(modified)
        return cls(version, TrainingJobSpec.model_validate(version.training_spec), field)

    @cached_property
    def own_solver(self) -> SolverSpec:
        """What it is predicted with where no solver is named."""
        return SolverSpec.model_validate(self.version.solver)

    @cached_property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return model_input_shape(self.spec.architecture, self.spec.dataset.input_shape)

    @cached_property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one state."""
        return model_state_shape(self.spec.architecture, self.spec.dataset.input_shape)

    @cached_property
    def state_size(self) -> int:
        """Numbers in one state."""
        return math.prod(self.state_shape)

    @property
    def has_plane(self) -> bool:
        """Whether its states, or else its inputs, are points of a plane, which can be drawn."""
        return self.state_size == 2 or math.prod(self.input_shape) == 2

    @cached_property
    def evaluations_in_field(self) -> int:
        """How often the trained field is called in one evaluation of what is solved."""
        return evaluations_in_field(self.modified_field, self.state_size)


class Catalogue:
    """Finds versions; those used last are kept, as a version never changes once it is there.

    What an alias or the latest version is, is asked of the database each time: whoever has seen a version finished,
    or moved an alias, gets it with the next request, from every server.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, ServedVersion] = OrderedDict()
        self._numbers: dict[tuple[str, int], str] = {}

    def known(self, model: str, reference: VersionReference) -> ServedVersion | None:
        """Return the version, if that needs no look at the database."""
        if not isinstance(reference, int):
            return None
        identifier = self._numbers.get((model, reference))
        return None if identifier is None else self.kept(identifier)

    def kept(self, identifier: str) -> ServedVersion | None:
        """Return the version with this id, if it is kept."""
        served = self._known.get(identifier)
        if served is not None:
            self._known.move_to_end(identifier)
        return served

    def find(self, tx: Transaction, model: str, reference: VersionReference) -> ServedVersion:
        """Return the version a call means.

        Raises:
            Problem: there is none.
        """
        return self.of(find_version(tx, model, reference))

    def of(self, version: ModelVersion) -> ServedVersion:
        """Return what requests to a version are checked against."""
        served = self.kept(version.id)
        if served is None:
            served = self._known[version.id] = ServedVersion.of(version)
            self._numbers[version.model, version.version] = version.id
            if len(self._known) > _MOST_KNOWN:
                _, oldest = self._known.popitem(last=False)
                self._numbers.pop((oldest.version.model, oldest.version.version), None)
        return served
