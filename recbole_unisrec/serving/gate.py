"""What every request must pass before the application sees it: size, host, origin, kind of content, token."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse

BODY_SECONDS = 30
MAX_HEADERS = 16 << 10  # bytes of all names and values together
MAX_TARGET = 8 << 10  # bytes of path and query
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
OPEN = ("/", "/health", "/ready")  # what a monitor and a page without token may read
READING = ("GET", "HEAD", "OPTIONS")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Gate:
    """ASGI middleware before the application.

    Why not what the framework brings: TrustedHostMiddleware, in most of the versions that setup.cfg allows, cuts the Host
    header at its first colon, so that no IPv6 address can be allowed; it answers in plain text. CORSMiddleware refuses nothing: a request of another site's page
    is carried out, and only its answer is withheld. FastAPI's HTTPBearer looks when the body has been read, and its status
    differs between versions. Older FastAPI reads a body without a content type as JSON, which such a page can send without
    asking first. None bounds bodies and headers.

    Parameters
    ----------
    hosts
        Names in the Host header that are served; None for any.
    origins
        Values of the Origin header that are served beside the service's own.
    """

    def __init__(
        self, app: Any, token: str | None, hosts: tuple[str, ...] | None, max_body: int, origins: Sequence[str] = ()
    ) -> None:
        self.app, self.hosts, self.max_body = app, hosts, max_body
        self.origins = {origin.lower().rstrip("/") for origin in origins}
        self.token = None if token is None else b"Bearer " + token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 4xx."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        problem = self._problem(scope, scope["headers"])
        if problem is not None:
            status, detail = problem
            extra = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
            await JSONResponse({"detail": detail}, status, {**extra, "Connection": "close"})(scope, receive, send)
            return
        # the body is read before the application sees the request, so that a cut one never reaches it
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more and len(body) <= self.max_body:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError:
            problem = 408, f"the body did not come within {BODY_SECONDS} seconds"
        if len(body) > self.max_body:
            problem = 413, self._too_large()
        if problem is not None:
            await JSONResponse({"detail": problem[1]}, problem[0], {"Connection": "close"})(scope, receive, send)
            return
        given = False

        async def whole() -> MutableMapping[str, Any]:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self.app(scope, whole, send)

    def _too_large(self) -> str:
        return f"the body is larger than {self.max_body} bytes; send less at a time"

    def _problem(self, scope: Scope, raw: Sequence[tuple[bytes, bytes]]) -> tuple[int, str] | None:
        if sum(len(name) + len(value) for name, value in raw) > MAX_HEADERS:
            return 431, f"the headers are larger than {MAX_HEADERS} bytes"
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > MAX_TARGET:
            return 414, f"the address is longer than {MAX_TARGET} bytes"
        headers = dict(raw)
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self.hosts is not None and _name(host) not in self.hosts:
            # a page of another site whose name was made to point here must not reach a service without token
            return 400, "unknown host name; the service listens on this machine only"
        origin = headers.get(b"origin")
        if origin is not None and not self._own(origin.decode("latin-1").lower().rstrip("/"), host):
            return 403, "the request comes from a page of another site; if that page is yours, start with --origin"
        if self.token is not None and not (scope["path"] in OPEN and scope["method"] in ("GET", "HEAD")):
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self.token):
                return 401, "the bearer token is missing or wrong"
        length = headers.get(b"content-length")
        if length is not None and (not length.isdigit() or int(length[:18]) > self.max_body):
            return 413, self._too_large()
        if scope["method"] not in READING:
            # a form or script of another site can send the other kinds without asking first
            kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
            if kind != b"application/json":
                return 415, "send JSON, with the header Content-Type: application/json"
        return None

    def _own(self, origin: str, host: str) -> bool:
        """Whether an Origin is that of the service itself, or one that was allowed."""
        scheme, _, place = origin.partition("://")
        return origin in self.origins or (scheme in ("http", "https") and place == host)


def _name(host: str) -> str:
    """Host header without its port."""
    name, _, port = host.rpartition(":")
    return name if port.isdigit() else host
