"""Test results of all jobs."""

from collections.abc import Iterator
from typing import Any, cast

from api.client.answers import ResultRow
from api.client.transport import Transport


class ResultRequests(Transport):
    """Model versions tested under solvers."""

    def results(self, **filters: Any) -> Iterator[ResultRow]:
        """Yield test results.

        Filters are ``model``, ``version``, ``dataset``, ``train_method``, ``test_method``, ``job`` and ``study``;
        ``sort`` is a column, with a minus for the largest first.
        """
        return cast(Iterator[ResultRow], self._pages("/v1/results", filters))
