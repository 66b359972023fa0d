"""docs/deployment.md against the settings and files it describes."""

import re
import shlex

import pytest

from ode_core.specs import Budget
from store.settings import Settings
from tests.deployment.image import ROOT


def _table(heading: str) -> dict[str, str]:
    """Return the first two columns of the table below a heading: names and defaults."""
    text = (ROOT / "docs" / "deployment.md").read_text()
    _, _, section = text.partition(f"# {heading}\n")
    assert section, f"docs/deployment.md has no section {heading}"
    rows = re.findall(r"^\| `(\w+)` \| (.*?) ?\|", section.partition("\n#")[0], flags=re.MULTILINE)
    assert len(dict(rows)) == len(rows), "a name stands in the table twice"
    return dict(rows)


def _defaults() -> dict[str, object]:
    own = {f"ODENESS_{name.upper()}": field.default for name, field in Settings.model_fields.items()}
    del own["ODENESS_BUDGET"]
    budget = {f"ODENESS_BUDGET__{name.upper()}": field.default for name, field in Budget.model_fields.items()}
    return own | budget


def test_every_setting_is_documented_and_every_documented_setting_exists() -> None:
    assert list(_table("Settings")) == list(_defaults())


@pytest.mark.parametrize("name", [name for name, default in _defaults().items() if default is not None])
def test_the_documented_default_is_the_settings(name: str) -> None:
    told, default = _table("Settings")[name].strip("`"), _defaults()[name]

    if isinstance(default, bool):
        assert told == str(default).lower()
    else:
        assert float(told) == default if isinstance(default, int | float) else told == str(default)


def test_every_variable_of_the_compose_file_is_documented_with_its_default() -> None:
    used: dict[str, set[str]] = {}
    for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", (ROOT / "docker-compose.yml").read_text()):
        used.setdefault(name, set()).add(default)
    told = {
        name: set(re.findall(r"`(.*?)`", text)) or {""}
        for name, text in _table("Variables of docker-compose.yml").items()
    }

    assert told == used


def test_the_services_and_files_that_it_names_are_there(services: dict[str, object]) -> None:
    text = (ROOT / "docs" / "deployment.md").read_text()

    named = re.findall(r"^docker compose (?:stop|exec -T|up .*--no-deps) (.*)$", text, flags=re.MULTILINE)
    assert len(named) == 6
    for arguments in named:
        assert shlex.split(arguments, comments=True)[0] in services
    assert (ROOT / "deploy" / "make_secrets.sh").exists()
