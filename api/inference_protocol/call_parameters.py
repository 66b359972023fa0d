"""What an infer request asks for in its ``parameters``: the solver, a certificate, states along the way, a deadline."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.inference.prediction_call import LONGEST_SECONDS, AutoSolver
from api.inference.prediction_request import read_deadline, read_times
from api.inference_protocol.request import InferRequest
from api.inference_protocol.signature import CERTIFICATE_OUTPUTS, TRAJECTORY
from api.inference_protocol.solver_parameters import SOLVER_PARAMETERS, asked_solver, real_number
from api.problems import invalid
from ode_core.specs import SolverSpec

_CALL_PARAMETERS = ("certify", "times", "deadline_seconds", "timeout")
_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")

# What the protocol's clients and servers put there for themselves. There are no levels of priority, and without any
# Triton ignores it, too.
_IGNORED = frozenset({"content_type", "headers", "priority"})


@dataclass(frozen=True)
class AskedCall:
    """What is asked besides the inputs.

    Attributes:
        solver: None: the version's own.
        certify: whether to say of each prediction how sure it is of its solver.
        times: at which the states are wanted, ascending.
        seconds: how long the caller waits, at most.
    """

    solver: SolverSpec | AutoSolver | None = None
    certify: bool = False
    times: tuple[float, ...] = ()
    seconds: float = LONGEST_SECONDS


_NOTHING = AskedCall()


def asked_call(request: InferRequest) -> AskedCall:
    """Return what a request asks for; an output that belongs to a certificate asks for one.

    Values may come as texts, because some clients have only these.

    Raises:
        Problem: a parameter is unknown or wrong, or an output asked for needs one that is not there.
    """
    if not request.parameters and request.outputs is None:
        return _NOTHING
    given = {name: value for name, value in request.parameters.items() if name not in _IGNORED and value is not None}
    _refuse_sequences(given)
    own = {name: given.pop(name) for name in _CALL_PARAMETERS if name in given}
    if unknown := sorted(given.keys() - set(SOLVER_PARAMETERS)):
        known = ", ".join((*SOLVER_PARAMETERS, *_CALL_PARAMETERS))
        raise invalid(f"parameters.{unknown[0][:100]}", f"there is no such parameter: use {known}")
    names = {output.name for output in request.outputs or ()}
    return AskedCall(
        asked_solver(given),
        _certify(own.get("certify"), names),
        _times(own.get("times"), None if request.outputs is None else names),
        _seconds(own),
    )


def _refuse_sequences(given: dict[str, Any]) -> None:
    for name in _SEQUENCE:
        if given.pop(name, None):  # 0, an empty text and false mean that the request is in no sequence
            raise invalid(
                f"parameters.{name}",
                "sequences are not supported, as a prediction depends on nothing but its request: leave it out",
            )


def _certify(value: Any, outputs: set[str]) -> bool:
    if value is None:
        return not outputs.isdisjoint(CERTIFICATE_OUTPUTS)
    if str(value).lower() not in ("true", "false") or not isinstance(value, bool | str):
        raise invalid("parameters.certify", "must be true or false")
    certify = str(value).lower() == "true"
    if not certify and (unwanted := sorted(outputs & set(CERTIFICATE_OUTPUTS))):
        raise invalid("parameters.certify", f"the output {unwanted[0]} is a certificate's: leave certify out")
    return certify


def _times(value: Any, outputs: set[str] | None) -> tuple[float, ...]:
    path = "parameters.times"
    wanted = outputs is None or TRAJECTORY in outputs
    if value is None:
        if outputs is not None and wanted:
            raise invalid(path, f'the output {TRAJECTORY} needs the times of its states, for example "0, 0.5, 1"')
        return ()
    if not wanted:
        raise invalid(path, f"is for the output {TRAJECTORY}: ask for that, too, or leave times out")
    if isinstance(value, str):
        value = [real_number(one, path) for one in value.strip().removeprefix("[").removesuffix("]").split(",")]
    return read_times(value if isinstance(value, list) else [value], path)


def _seconds(own: Mapping[str, Any]) -> float:
    """Return how long the caller waits: ``deadline_seconds``, or Triton's ``timeout``, which is in microseconds."""
    deadline, timeout = own.get("deadline_seconds"), own.get("timeout")
    if deadline is not None:
        if timeout is not None:
            raise invalid("parameters.timeout", "give either timeout or deadline_seconds, not both")
        return read_deadline(real_number(deadline, "parameters.deadline_seconds"), "parameters.deadline_seconds")
    if timeout is None:
        return LONGEST_SECONDS
    microseconds = real_number(timeout, "parameters.timeout")
    if microseconds < 0 or not microseconds.is_integer():
        raise invalid("parameters.timeout", "must be a whole number of microseconds, 0 for none")
    # More than anybody may wait is as none: it is the server's bound then that ends the wait.
    return min(microseconds / 1e6, LONGEST_SECONDS) if microseconds else LONGEST_SECONDS
