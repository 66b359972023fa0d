"""Is a trained model an ODE, why not, and what then; ``audit_field`` asks it of any field ``f(t, z)``."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ode_core.audit.field_audit import FieldAudit, NotAuditable, UnusableLoader, audit_field

__all__ = ["FieldAudit", "NotAuditable", "UnusableLoader", "audit_field"]


def __getattr__(name: str) -> Any:
    # With the first use: who needs a module of this package need not load them all.
    if name in __all__:
        from ode_core.audit import field_audit  # noqa: PLC0415

        return getattr(field_audit, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
