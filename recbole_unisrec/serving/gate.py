"""What every request must pass before the application sees it: size of the body, name of the host, token."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi.responses import JSONResponse

BODY_SECONDS = 30

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Gate:
    """ASGI middleware before everything else: size of the body, name of the host, token."""

    def __init__(self, app: Any, token: str | None, hosts: tuple[str, ...] | None, max_body: int) -> None:
        self.app, self.hosts, self.max_body = app, hosts, max_body
        self.token = None if token is None else b"Bearer " + token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 4xx."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        problem = self._problem(scope, headers)
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

    def _problem(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        if self.hosts is not None:
            # a page of another site whose name was made to point here must not reach a service without token
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
            if name not in self.hosts:
                return 400, "unknown host name; the service listens on this machine only"
        is_open = scope["path"] in ("/", "/health") and scope["method"] in ("GET", "HEAD")
        if self.token is not None and not is_open:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self.token):
                return 401, "the bearer token is missing or wrong"
        length = headers.get(b"content-length")
        if length is not None and (not length.isdigit() or int(length[:18]) > self.max_body):
            return 413, self._too_large()
        return None
