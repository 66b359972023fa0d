"""What a user is told when a job fails: a code to act on and a sentence, never a stack trace."""

from typing import Any

from pydantic import ValidationError

from ode_core.datasets.files import DatasetUnavailable
from ode_core.specs import (
    AuditBatchTooLarge,
    BudgetExceeded,
    Impossible,
)


class ModelUnavailable(Exception):
    """The model version a job names cannot be read; the message says why."""


class EverySeedDiverged(Exception):
    """None of the trainings of a study's job came to its end.

    Attributes:
        failed_seeds: ``{"seed", "reason"}`` for each.
    """

    def __init__(self, failed_seeds: list[dict[str, Any]]) -> None:
        reasons = "; ".join(f"seed {failed['seed']}: {failed['reason']}" for failed in failed_seeds)
        super().__init__(f"the training of every seed diverged: {reasons}")
        self.failed_seeds = failed_seeds


def describe_failure(error: Exception) -> dict[str, Any]:
    """Return ``{"code", "message"}`` for the exception that ended a job."""
    if type(error).__name__ == "TrainingDiverged":
        return _described("training_diverged", str(error))
    if isinstance(error, EverySeedDiverged):
        return _described("training_diverged", str(error)) | {"failed_seeds": error.failed_seeds}
    if isinstance(error, DatasetUnavailable):
        return _described("dataset_unavailable", str(error))
    if type(error).__name__ == "DeviceUnavailable":
        return _described("device_unavailable", str(error))
    if isinstance(error, ModelUnavailable) or type(error).__name__ == "WeightsMismatch":
        return _described("model_unavailable", str(error))
    if isinstance(error, AuditBatchTooLarge):
        return _described("invalid_spec", f"adaptation: {error}")
    if isinstance(error, Impossible):
        return _described(error.code, str(error))
    if type(error).__name__ in ("ExportFailed", "ExportUnavailable"):
        return _described("export_failed", str(error))
    if isinstance(error, BudgetExceeded):
        return _described("budget_exceeded", str(error))
    if isinstance(error, ValidationError):
        return _described("invalid_spec", f"the job's spec is not valid: {_first_problem(error)}")
    if is_out_of_memory(error):
        return _described(
            "out_of_memory",
            "the worker ran out of memory: use a smaller batch_size, fewer solver steps or a smaller model, "
            "or run the worker on a machine with more memory",
        )
    return _described(
        "internal_error",
        f"the worker met an unexpected error ({type(error).__name__}); its log has the details under the job's id",
    )


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the main memory or a GPU's was exhausted."""
    if isinstance(error, MemoryError):
        return True
    # torch raises OutOfMemoryError for a GPU, and a plain RuntimeError from its CPU allocator.
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def _described(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message}


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'spec'}: {first['msg']}"
