"""The server itself: how it is, and what it knows."""

from typing import Any, cast

from api.client.transport import Transport


class ServerRequests(Transport):
    """What does not depend on jobs and models."""

    def solvers(self) -> list[dict[str, Any]]:
        """Return the solver methods."""
        return cast(list[dict[str, Any]], self._get("/v1/solvers")["data"])

    def ready(self) -> dict[str, Any]:
        """Return the state of the server's parts; a server that cannot work raises ``ProblemError``."""
        return cast(dict[str, Any], self._get("/readyz"))
