"""Aliases: names for a model's versions."""

import uuid
from collections.abc import Iterator
from typing import Any, cast

from api.client.transport import Transport, if_given, part


class AliasRequests(Transport):
    """Aliases, and their moves."""

    def aliases(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield a model's aliases by name, each with the ``version`` it points at."""
        return self._pages(f"/v1/models/{part(name)}/aliases", {})

    def alias(self, name: str, alias: str) -> dict[str, Any]:
        """Return an alias of a model with its ``history``, the newest move first."""
        return cast(dict[str, Any], self._get(f"/v1/models/{part(name)}/aliases/{part(alias)}"))

    def move_alias(self, name: str, alias: str, version: int, *, expected_version: int | None = None) -> dict[str, Any]:
        """Point an alias at a version, and return the alias.

        Args:
            name: the model.
            alias: such as ``production``; it is made if there is none.
            version: of the model.
            expected_version: where it has to point before, 0: there must be no such alias; None: anywhere.

        Raises:
            ProblemError: ``alias_moved`` where it points elsewhere than expected.
        """
        body = {"version": version, "expected_version": expected_version}
        place = f"/v1/models/{part(name)}/aliases/{part(alias)}"
        return cast(dict[str, Any], self._request("PUT", place, json=body, repeatable=True).json())

    def roll_back_alias(self, name: str, alias: str, *, expected_version: int | None = None) -> dict[str, Any]:
        """Put an alias back to where it pointed before its last move, and return the alias.

        Raises:
            ProblemError: ``nothing_to_roll_back``, or ``alias_moved`` where it points elsewhere than expected.
        """
        response = self._request(
            "POST",
            f"/v1/models/{part(name)}/aliases/{part(alias)}/rollback",
            params=if_given(expected_version=expected_version),
            headers={"Idempotency-Key": uuid.uuid4().hex},
            repeatable=True,
        )
        return cast(dict[str, Any], response.json())

    def remove_alias(self, name: str, alias: str, *, expected_version: int | None = None) -> None:
        """Remove an alias; the version it points at stays."""
        place = f"/v1/models/{part(name)}/aliases/{part(alias)}"
        # Not repeated: of an alias that is gone there is none to remove.
        self._request("DELETE", place, params=if_given(expected_version=expected_version), repeatable=False)
