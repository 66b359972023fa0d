"""The short way for predictions: past the framework's middleware and routing, which cost more than a small prediction.

A prediction is also an ordinary route, which describes it and answers whatever is not plain here: a query, an alias,
another method, a body of unknown or too great length, a wrong key, or requests that are traced. The short way has the
same guard, calls the same functions and answers the same.
"""

import re
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.authentication import ApiKey
from api.body_limit import announces_at_most, bounded
from api.openapi import DescribedApp
from api.request_guard import RequestGuard
from api.routes import inference_protocol, predictions
from api.services import Services
from api.whole_answer import whole

_PLAIN = re.compile(rb"/(?:(v1)|v2)/models/([A-Za-z0-9._-]{1,100})(?:/versions/([1-9][0-9]{0,8}))?/(?(1)predict|infer)")
_TEMPLATES = {
    (True, False): "/v1/models/{name}/predict",
    (True, True): "/v1/models/{name}/versions/{version}/predict",
    (False, False): "/v2/models/{name}/infer",
    (False, True): "/v2/models/{name}/versions/{version}/infer",
}


class _Served:
    """What the measurements want to know of a route."""

    def __init__(self, path: str) -> None:
        self.path = path


_ROUTES = {key: _Served(path) for key, path in _TEMPLATES.items()}


class PredictionPath:
    """ASGI application that answers plain predictions.

    Args:
        app: the application whose predictions these are.
        services: of it.
        key: who may ask.
    """

    def __init__(self, app: "PredictingApp", services: Services, key: ApiKey) -> None:
        self._app = app
        self._services = services
        self._key = key
        self._most_bytes = services.settings.max_body_bytes
        self._guarded: ASGIApp = RequestGuard(self._serve, services.metrics)

    def takes(self, scope: Scope) -> bool:
        """Return whether a request is a plain prediction; it then has what ``__call__`` needs in its scope."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
            return False
        path = scope.get("raw_path")  # not every server tells it
        found = None if path is None else _PLAIN.fullmatch(path)
        if found is None:
            return False
        headers = _PlainHeaders(scope["headers"])
        length = headers.get("content-length", "")
        if not length or not announces_at_most(length, self._most_bytes):
            return False
        if not self._key.opens(headers.get("authorization")):
            return False
        scope["odeness.prediction"] = _PlainPrediction(found, headers)
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that it takes."""
        await self._guarded(scope, receive, whole(scope, send))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked: _PlainPrediction = scope.pop("odeness.prediction")
        scope["route"] = asked.route
        scope["app"] = self._app
        response = await self._answer(asked, _PlainRequest(scope, bounded(receive, self._most_bytes), asked.headers))
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body})

    async def _answer(self, asked: "_PlainPrediction", request: Request) -> Response:
        version = asked.version
        try:
            if asked.ours:
                number = None if version is None else int(version)
                return await predictions.answer_prediction(request, self._services, asked.model, number)
            return await inference_protocol.answer_infer(request, self._services, asked.model, version)
        except Exception as error:
            for kind in type(error).__mro__:
                if handler := self._app.exception_handlers.get(kind):
                    handled: Response = await handler(request, error)  # type: ignore[misc]
                    return handled
            raise


class PredictingApp(DescribedApp):
    """The application, with a short way for predictions while it runs.

    Attributes:
        predictions: the short way; None: there is none.
    """

    predictions: PredictionPath | None = None

    def take_short_way(self, services: Services, key: ApiKey) -> None:
        """Answer plain predictions on the short way from now on; it makes no spans, for where requests are traced."""
        self.predictions = PredictionPath(self, services, key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if self.predictions is not None and self.predictions.takes(scope):
            await self.predictions(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class _PlainPrediction:
    __slots__ = ("headers", "model", "ours", "route", "version")

    def __init__(self, found: re.Match[bytes], headers: "_PlainHeaders") -> None:
        first, model, version = found.groups()
        self.ours = first is not None
        self.model: str = model.decode()
        self.version: str | None = None if version is None else version.decode()
        self.route = _ROUTES[self.ours, version is not None]
        self.headers = headers


class _PlainHeaders(Headers):
    """A request's headers, by name at once; of several with one name the first, as for those of the framework."""

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        super().__init__(raw=raw)
        self._first = dict(reversed(raw))

    def get(self, key: str, default: Any = None) -> Any:
        """Return a header's value."""
        value = self._first.get(key.lower().encode("latin-1"))
        return default if value is None else value.decode("latin-1")

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.lower().encode("latin-1") in self._first


class _PlainRequest(Request):
    """A request whose headers are read, and whose body mostly comes in one piece."""

    def __init__(self, scope: Scope, receive: Receive, headers: _PlainHeaders) -> None:
        super().__init__(scope, receive)
        self._headers = headers

    async def body(self) -> bytes:
        """Return the body, however often it is asked for."""
        if not hasattr(self, "_body"):
            self._body = await self._whole_body()
        return self._body

    async def _whole_body(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._stream_consumed = True
            body: bytes = message.get("body", b"")
            return body
        first: list[Any] = [message]

        async def receive() -> Any:
            return first.pop() if first else await self._receive()

        return await Request(self.scope, receive).body()
