"""What every spec shares: unknown fields refused, values finite, instances immutable."""

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """Base of all specs: a checked, frozen value that reads from and writes to JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
