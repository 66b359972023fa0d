"""A classifier repaired by the modified field: accurate solvers give what its coarse training solver gave."""

import copy

from ode_core.fields.modified_field import ModifiedField
from ode_core.models.classifier import Classifier
from ode_core.specs.modified_field import ModifiedFieldSpec


def with_modified_field(model: Classifier, spec: ModifiedFieldSpec) -> Classifier:
    """Return a copy of a model whose field is the modified field of its own; it has the same weights.

    Any solver runs it. An evaluation of its field takes several of the model's, and these are counted and bounded.
    """
    repaired = copy.deepcopy(model)
    # The field of a classifier is what it calls: a module with ``for_states``.
    repaired.field = ModifiedField(repaired.field, spec, model.end_time)  # type: ignore[assignment]
    repaired.evaluations_in_field = spec.evaluations
    return repaired
