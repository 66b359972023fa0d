"""A classifier repaired by the modified field: accurate solvers give what its coarse training solver gave."""

import copy
import math
from typing import TypeVar

from ode_core.fields.modified_field import ModifiedField
from ode_core.models.audited_model import AuditedModel
from ode_core.specs.modified_field import ModifiedFieldSpec

Model = TypeVar("Model", bound=AuditedModel)


def with_modified_field(model: Model, spec: ModifiedFieldSpec) -> Model:
    """Return a copy of a model whose field is the modified field of its own; it has the same weights.

    Any solver runs it. An evaluation of its field takes several of the model's, and these are counted and bounded.
    """
    repaired = copy.deepcopy(model)
    # What an audit only reads may be exchanged: a model calls its field, and nothing else.
    repaired.field = ModifiedField(repaired.field, spec, model.end_time)  # type: ignore[misc]
    repaired.evaluations_in_field = spec.evaluations(math.prod(model.state_shape))  # type: ignore[misc]
    return repaired
