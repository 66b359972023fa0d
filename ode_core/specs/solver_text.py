"""What somebody meant who wrote a solver as a text, such as the ``rk4-16`` of tables and plots. Without torch."""

import json
import re
from typing import Any

from ode_core.specs.methods import METHODS

_LABEL = re.compile(r"(?P<method>[a-z0-9_]+?)[-: (]+(?:steps=)?(?P<steps>[0-9]{1,6})\)?")


def solver_meant(text: str) -> dict[str, Any]:
    """Return the solver a text is likely to mean, as JSON; an example where it names none."""
    text = text.strip().lower()
    if labelled := _labelled(text):
        return labelled
    facts = next((facts for method, facts in METHODS.items() if method == text), None)
    if facts is None:
        return {"method": "rk4", "steps": 16}
    return {"method": text} | ({"rtol": 1e-5, "atol": 1e-5} if facts.adaptive else {"steps": 16})


def refuse_text(solver: Any) -> Any:
    """Return what was given for a solver, unless it is a text.

    Raises:
        ValueError: it is one; with what to write in its place.
    """
    if isinstance(solver, str):
        raise ValueError(f"a solver is an object, for example {json.dumps(solver_meant(solver))}")
    return solver


def refuse_label(method: Any) -> Any:
    """Return what was given for a method, unless it is the label of a solver.

    Raises:
        ValueError: it is one; with method and steps.
    """
    if isinstance(method, str) and (meant := _labelled(method.strip().lower())):
        raise ValueError(f"{method[:50]} has the method {meant['method']}: name that, with steps {meant['steps']}")
    return method


def _labelled(text: str) -> dict[str, Any] | None:
    label = _LABEL.fullmatch(text)
    if label is None or label["method"] not in METHODS:
        return None
    return {"method": label["method"], "steps": int(label["steps"])}
