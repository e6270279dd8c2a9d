"""What is told of every request: its id, a line in the access log, counts and times for Prometheus, safe headers."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from collections.abc import MutableMapping
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from fastapi.responses import JSONResponse

from recbole_unisrec.errors import UserError
from recbole_unisrec.serving.gate import Receive, Scope, Send
from recbole_unisrec.serving.metrics import Metrics

ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
# nothing is loaded from elsewhere, and nothing may frame it
CSP = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
log = logging.getLogger("recbole_unisrec.access")
errors = logging.getLogger("recbole_unisrec.serving")


def start_access_log(target: str) -> None:
    """Write the access log to a file, to stderr (``-``), or nowhere (``none``).

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    log.handlers.clear()
    log.propagate, log.disabled = False, target == "none"
    if target == "none":
        return
    try:
        # a file that logrotate moved is opened anew
        handler = logging.StreamHandler(sys.stderr) if target == "-" else WatchedFileHandler(Path(target))
    except OSError as error:
        raise UserError(f"cannot write the access log {target}: {error.strerror}; choose another file") from error
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


class Observe:
    """ASGI middleware around everything else."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and tell of it when its answer has gone."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        name = given if ID.fullmatch(given) else uuid.uuid4().hex.encode()
        status, sent, started = 499, 0, time.perf_counter()  # 499: the client went away

        async def told(message: MutableMapping[str, Any]) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [*message.get("headers", []), (b"x-request-id", name)]
                there = {key.lower() for key, _ in own}
                message = {**message, "headers": own + [(key, value) for key, value in HEADERS if key not in there]}
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, told)
        except Exception:
            errors.exception("request %s failed", name.decode())
            if status != 499:
                raise  # the answer is under way and can only be cut off
            problem = {"detail": f"the service failed; its log says more under the request id {name.decode()}"}
            await JSONResponse(problem, 500)(scope, receive, told)
        finally:
            seconds = time.perf_counter() - started
            self.metrics.answered(scope, status, seconds)
            if log.handlers and not log.disabled:
                log.info(_line(scope, name, status, sent, seconds))


def _line(scope: Scope, name: bytes, status: int, sent: int, seconds: float) -> str:
    """One request as JSON; without query and body, which say what somebody bought."""
    client = scope.get("client")
    return json.dumps(
        {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": name.decode(),
            "client": client[0] if client else None,
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "ms": round(seconds * 1e3, 2),
            "bytes": sent,
        }
    )
