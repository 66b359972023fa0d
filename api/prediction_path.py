"""The short way for predictions: past the framework's routing, which costs more than a small prediction.

A prediction is also an ordinary route, which describes it and answers whatever is not plain here: a query, an alias,
another method. The short way calls the same function and answers the same.
"""

import re

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.routes import inference_protocol, predictions

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
    """ASGI middleware that answers plain predictions and passes everything else on.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        found = None
        if scope["type"] == "http" and scope["method"] == "POST" and not scope["query_string"]:
            found = _PLAIN.fullmatch(scope["raw_path"])
        if found is None:
            await self.app(scope, receive, send)
            return
        first, name, version = found.groups()
        scope["route"] = _ROUTES[first is not None, version is not None]
        request = Request(scope, receive)
        response = await _answer(request, first is not None, name.decode(), version)
        await response(scope, receive, send)


async def _answer(request: Request, ours: bool, name: str, version: bytes | None) -> Response:
    application = request.app
    try:
        if ours:
            reference = None if version is None else int(version)
            return await predictions.answer_prediction(request, application.state.services, name, reference)
        text = None if version is None else version.decode()
        return await inference_protocol.answer_infer(request, application.state.services, name, text)
    except Exception as error:
        for kind in type(error).__mro__:
            if handler := application.exception_handlers.get(kind):
                handled: Response = await handler(request, error)
                return handled
        raise
