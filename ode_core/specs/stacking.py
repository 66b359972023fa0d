"""Which training runs that differ only in their seed can be trained as one, where torch is not loaded."""

from ode_core.specs.model import model_state_shape
from ode_core.specs.training import TrainingJobSpec

# Points up to which a convolution over a signal is run as a matrix product: from 8 on the zeros in the matrix cost more
# than they save (measured with 32 and 128 channels).
LONGEST_SIGNAL = 4


def require_stackable(spec: TrainingJobSpec) -> None:
    """Raise ``ValueError`` with the reason when runs of a spec cannot be stacked."""
    model = spec.architecture
    if spec.solver.adaptive or spec.adaptation is not None:
        raise ValueError("runs with tolerances or step adaptation take different steps: train them one by one")
    if spec.solver.facts.family != "explicit" or spec.solver.runs_on != "odeness" or spec.solver.grid == "truncate":
        raise ValueError("only explicit methods on uniform grids can be stacked: train these runs one by one")
    if spec.gradient != "backprop":
        raise ValueError(f"stacked runs use gradient backprop, not {spec.gradient}: train these runs one by one")
    if spec.regularisation is not None:
        raise ValueError("regularised runs draw steps, or estimate errors, each by itself: train them one by one")
    if spec.start_from is not None:
        raise ValueError("runs that start from a stored version are trained one by one")
    if model.stem is not None or model.field_arithmetic != "full":
        raise ValueError("a model with a stem, or with its field in reduced arithmetic, is trained by itself")
    if model.field.kind == "growing_ellipses":
        raise ValueError("a field without weights leaves only the head to be trained: train its runs one by one")
    if model.field.kind == "conv2d":
        raise ValueError("a field of image convolutions keeps the processor busy by itself: train its runs one by one")
    if model.field.kind == "conv1d" and model_state_shape(model, spec.dataset.input_shape)[-1] > LONGEST_SIGNAL:
        raise ValueError(f"a convolution over more than {LONGEST_SIGNAL} points is trained by itself")


def is_stackable(spec: TrainingJobSpec) -> bool:
    """Return whether runs of a spec that differ in their seed can be trained as one."""
    try:
        require_stackable(spec)
    except ValueError:
        return False
    return True
