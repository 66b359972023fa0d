"""docs/solvers.md against the code: its tables."""

from tests.docs.method_table import GUIDE, method_table, status_table, with_tables

TEXT = GUIDE.read_text()


def test_the_tables_are_those_of_the_code() -> None:
    assert method_table() in TEXT, "run python -m tests.docs.method_table"
    assert status_table() in TEXT, "run python -m tests.docs.method_table"


def test_writing_the_tables_mends_them_and_leaves_the_rest() -> None:
    broken = TEXT.replace("| `euler` |", "| `oiler` |")

    assert broken != TEXT
    assert with_tables(broken) == TEXT
