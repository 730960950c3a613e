"""Which requests are answered at all, and the security headers of every answer.

A page elsewhere can make its visitor's browser send requests to the visitor's own machine. Three
rules keep it out:

1. The Host header must be a name of this server. After DNS rebinding a browser sends the name of
   the foreign page.
2. A request that is not GET or HEAD must have this server as its Origin, or none. Browsers always
   send one; programs such as curl don't.
3. With a token, a request must have it: as a bearer, or in the cookie that the address with
   ``?token=`` sets and leads on from, so that the token does not stay in the address bar.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::\d*)?")  # IPv6 address or name, and port
TOKEN = "token"
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # frame-ancestors of browsers before it
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Access:
    """Under which names a server is reached, and by whom.

    Attributes
    ----------
    names : frozenset of str
        The host names and addresses that a Host header may have, in lower case, IPv6 without
        brackets.
    any_address : bool
        Whether every IP address is one of its own, as for a server on ``0.0.0.0``. No name of a
        foreign page is an address, so rebinding stays impossible.
    token : str or None
        What a request must have; None lets all in.
    """

    names: frozenset[str] = LOOPBACK_NAMES
    any_address: bool = False
    token: str | None = None

    def has_host(self, host: str) -> bool:
        """Whether a Host header names this server; its port is the browser's matter."""
        name = _without_port(host).lower()
        return name in self.names or (self.any_address and _is_address(name))

    def is_token(self, value: str | None) -> bool:
        """Whether a value is the token, compared in constant time."""
        return value is not None and hmac.compare_digest(
            value.encode("utf-8", "replace"), (self.token or "").encode()
        )


class Guard:
    """Middleware that refuses requests by the rules above.

    Parameters
    ----------
    app : ASGI application
        Gets the other requests.
    access : Access
        Names and token of the server.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        answer = self._answer_instead(scope)
        await (answer or self._app)(scope, receive, send_with_headers)

    def _answer_instead(self, scope: Scope) -> Response | None:
        """Return the answer to a request that is not passed on."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._access.has_host(host):
            return problem(421, f"this server is not {host or 'a server without a name'}")
        if scope["method"] not in ("GET", "HEAD"):
            origin = headers.get("origin")
            if origin is not None and origin.lower() != f"http://{host.lower()}":
                return problem(403, f"a page of {origin} may not use this server")
        return self._answer_without_token(Request(scope)) if self._access.token else None

    def _answer_without_token(self, request: Request) -> Response | None:
        # Cookies are shared by all ports of a host, where several of these servers may run.
        port = (request.scope.get("server") or ("", 0))[1]
        cookie = f"cnncodes-{port}"
        if request.url.path == "/" and self._access.is_token(request.query_params.get(TOKEN)):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(cookie, self._access.token or "", httponly=True, samesite="lax")
            return answer
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        is_bearer = scheme.lower() == "bearer" and self._access.is_token(bearer.strip())
        if is_bearer or self._access.is_token(request.cookies.get(cookie)):
            return None
        return problem(
            401,
            "this server wants its token: open the address that it printed when it started, or "
            "send it in the header 'Authorization: Bearer TOKEN'",
            {"WWW-Authenticate": "Bearer"},
        )


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return the answer to a request that fails."""
    return JSONResponse({"error": message}, status, headers)


def _without_port(host: str) -> str:
    """Return the name or address of a Host header; nothing if it is malformed."""
    match = HOST.fullmatch(host)
    return match.group(1) or match.group(2) if match else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
