"""Run the service: the socket, the signals, uvicorn."""

from __future__ import annotations

import sys

from recbole_unisrec.errors import UserError
from recbole_unisrec.serving.batcher import WAITING
from recbole_unisrec.serving.catalogue import search_items
from recbole_unisrec.serving.recommender import Recommender
from recbole_unisrec.serving.service import create_app


def run(rec: Recommender, host: str, port: int, token: str | None, max_body: int, drain: int) -> None:
    """Serve until SIGTERM or SIGINT; then finish the open requests, for at most `drain` seconds.

    Raises
    ------
    UserError
        If the address cannot be listened on.
    """
    import signal
    import socket

    import uvicorn

    if not 0 <= port < 1 << 16:
        raise UserError(f"port {port} does not exist; use 1 to 65535, or 0 for a free one")
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    # with its protocol named asyncio switches off Nagle's algorithm, which holds answers back for 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((bare, port))
    except OSError as error:
        listener.close()
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror}; choose another --port") from error
    listener.listen(2048)  # who connects from now on is served as soon as all is ready
    port = listener.getsockname()[1]
    app = create_app(rec, token, max_body)
    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=drain, limit_concurrency=2 * WAITING, server_header=False,
        h11_max_incomplete_event_size=64 << 10,
    )  # fmt: skip
    for history in ([], rec.snapshot.ids(rec.snapshot.by_popularity[:1])):
        rec.recommend(history, 1)  # what is computed at the first request is computed now
    search_items(rec.snapshot, "a", 1)
    # uvicorn drains, then raises the signal again; what comes after `run` is ours to do
    signal.signal(signal.SIGTERM, lambda *_: None)
    print(f"serving {len(rec):,} items of {rec.meta.dataset} on http://{host}:{port}/ (docs: /docs)", flush=True)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    finally:
        listener.close()
