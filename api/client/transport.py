"""Requests and answers as they travel: repeated while the server is away, page by page, in JSON."""

import time
import uuid
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx
from pydantic import BaseModel

from api.client.errors import ServerUnreachable, problem_of

Spec = Mapping[str, Any] | BaseModel
Solver = Mapping[str, Any] | BaseModel

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 2.0
_PAGE = 200


def part(text: str) -> str:
    """Return a text as one part of a path, whatever signs it has."""
    return quote(text, safe="")


def version_path(model: str, version: int | str) -> str:
    """Return the path of a model's version: a number, an alias, or ``latest``."""
    return f"/v1/models/{part(model)}/versions/{part(str(version))}"


class Transport:
    """A connection to one server, with the arguments of ``Client``."""

    def __init__(self, url: str, api_key: str | None = None, *, timeout: float = 60.0, patience: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self._patience = patience
        self._http = httpx.Client(
            base_url=self.url,
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            timeout=timeout,
            # A proxy of the environment is not for this machine's own addresses.
            trust_env=urlsplit(self.url).hostname not in ("127.0.0.1", "localhost", "::1"),
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _submit(self, path: str, spec: Spec, idempotency_key: str | None) -> Any:
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self._request("POST", path, json=as_json(spec), headers=headers, repeatable=True).json()

    def _get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return self._request("GET", path, params=query, repeatable=True).json()

    def _pages(self, path: str, filters: Mapping[str, Any]) -> Iterator[Any]:
        query = if_given(**filters) | {"limit": _PAGE}
        while True:
            page = self._get(path, query)
            yield from page["data"]
            if not page["has_more"]:
                return
            query["after"] = page["next_cursor"]

    def _request(
        self, method: str, path: str, *, repeatable: bool, stream: bool = False, **arguments: Any
    ) -> httpx.Response:
        deadline = time.monotonic() + self._patience
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                response = self._http.send(self._http.build_request(method, path, **arguments), stream=stream)
                if not response.is_success:
                    response.read()
            except httpx.TransportError as error:
                # A timeout is not repeated: it took all the time it was given.
                if not repeatable or isinstance(error, httpx.TimeoutException) or time.monotonic() >= deadline:
                    reason = str(error) or type(error).__name__
                    raise ServerUnreachable(f"no answer from {self.url}: {reason}; is the server running?") from error
            else:
                if response.is_success:
                    return response
                if response.status_code != 503 or not repeatable or time.monotonic() >= deadline:
                    raise problem_of(response)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def if_given(**query: Any) -> dict[str, Any]:
    """Return a query without what is None."""
    return {name: value for name, value in query.items() if value is not None}


def as_json(spec: Spec) -> Any:
    """Return a spec as the JSON that the server takes."""
    return spec.model_dump(mode="json", exclude_none=True) if isinstance(spec, BaseModel) else dict(spec)
