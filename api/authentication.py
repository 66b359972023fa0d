"""One API key, sent as ``Authorization: Bearer``."""

import hashlib
import hmac
import ipaddress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import Problem, problem_response
from store.settings import Settings

# Everything else needs the key: a new route is closed unless it is named here.
OPEN_PATHS = frozenset(
    {"/", "/odeness.css", "/docs", "/openapi.json", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
)


class PublicBindWithoutKey(ValueError):
    """The server would listen for other machines without asking who they are."""


class ApiKey:
    """The key that requests must have.

    Args:
        key: in clear; None: there is none, and none is asked for.
    """

    def __init__(self, key: str | None) -> None:
        self._expected = None if key is None else _digest(key)

    def opens(self, authorization: str | None) -> bool:
        """Return whether a header ``Authorization`` has the key."""
        if self._expected is None:
            return True
        scheme, _, presented = (authorization or "").partition(" ")
        # Digests have one length, so that the comparison does not tell the key's.
        return scheme.lower() == "bearer" and hmac.compare_digest(_digest(presented.strip()), self._expected)


class Authentication:
    """ASGI middleware that lets requests with the right key pass; without a key set, all."""

    def __init__(self, app: ASGIApp, key: ApiKey) -> None:
        self.app = app
        self.key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if (
            scope["type"] == "http"
            and scope["path"] not in OPEN_PATHS
            and not self.key.opens(Headers(scope=scope).get("authorization"))
        ):
            await problem_response(_UNAUTHORIZED, scope)(scope, receive, send)
            return
        await self.app(scope, receive, send)


_UNAUTHORIZED = Problem(
    401,
    "unauthorized",
    "this server needs its API key: send the header Authorization: Bearer <key>",
    headers={"WWW-Authenticate": 'Bearer realm="odeness"'},
)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def require_key_for_public_bind(host: str, settings: Settings) -> None:
    """Raise ``PublicBindWithoutKey`` when ``host`` is reachable from other machines and there is no API key."""
    if settings.api_key is not None or is_loopback(host):
        return
    raise PublicBindWithoutKey(
        f"listening on {host or 'all addresses'} would let anyone on the network run jobs here: set ODENESS_API_KEY "
        "(or ODENESS_API_KEY_FILE), or use --host 127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``; a name other than ``localhost`` counts as public."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
