"""Which versions are kept in memory for the checks of requests."""

import pytest

from api.inference import served_version
from api.inference.served_version import Catalogue
from tests.api.conftest import SPHERES_JOB, Served, train


def test_a_version_that_is_asked_for_by_its_number_stays_and_the_one_not_asked_for_longest_goes(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_version, "_MOST_KNOWN", 2)
    catalogue = Catalogue()
    first, second, third = (train(served.store, SPHERES_JOB) for _ in range(3))
    kept = catalogue.of(first)
    catalogue.of(second)
    assert catalogue.known("spheres", 1) is kept

    catalogue.of(third)

    assert catalogue.known("spheres", 1) is kept
    assert catalogue.known("spheres", 2) is None
