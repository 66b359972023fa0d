"""What every spec shares: unknown fields refused, values finite, instances immutable."""

from pydantic import BaseModel, ConfigDict, ValidationError


class Spec(BaseModel):
    """Base of all specs: a checked, frozen value that reads from and writes to JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


def first_reason(error: ValidationError) -> str:
    """Return in words why a spec was refused, the first reason of perhaps several."""
    return _reason(error.errors(include_url=False, include_input=False)[0]["msg"])


def reasons(error: ValidationError) -> str:
    """Return all reasons why a spec was refused, each with the field it is about."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {_reason(one['msg'])}".removeprefix(": ") for one in problems)


def _reason(message: str) -> str:
    return message.removeprefix("Value error, ")
