"""Run the service: the socket, the signals, one process of uvicorn or several."""

from __future__ import annotations

import functools
import os
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass, field
from typing import Any

from dataset_tools.encoder_process import EncoderProcess
from recbole_unisrec.errors import UserError
from recbole_unisrec.serving.batcher import WAITING
from recbole_unisrec.serving.gate import MAX_HEADERS
from recbole_unisrec.serving.metrics import SHARED
from recbole_unisrec.serving.observe import start_access_log
from recbole_unisrec.serving.process import set_threads, start_log
from recbole_unisrec.serving.recommender import Recommender, load
from recbole_unisrec.serving.served import Following, Served, warm
from recbole_unisrec.serving.service import MAX_BODY, create_app
from recbole_unisrec.serving.workers import run_workers

SWITCH = 0.001  # seconds after which a thread that computes lets one that answers go first


@dataclass(frozen=True)
class Options:
    """How to serve.

    Attributes
    ----------
    token, max_body, origins
        As `create_app` takes them.
    drain
        Seconds for open requests at the end.
    workers
        Processes that answer; several share the model's tables, and changes go into its folder.
    max_items
        Items that the catalogue may have.
    access_log
        File, ``-`` for stderr, or ``none``.
    threads
        Of an answer.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    max_body: int = MAX_BODY
    origins: tuple[str, ...] = ()
    drain: int = 30
    workers: int = 1
    max_items: int | None = None
    access_log: str = "none"
    threads: int = 1


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises
    ------
    UserError
        If the address cannot be listened on.
    """
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
    return listener


def _application(served: Served, options: Options) -> Any:
    served.rec.max_items = options.max_items
    served.rec.texts.loader = functools.partial(EncoderProcess, threads=options.threads)
    start_access_log(options.access_log)
    sys.setswitchinterval(SWITCH)
    warm(served.rec)
    return create_app(served, options.token, options.max_body, origins=options.origins)


def _configuration(app: Any, options: Options) -> Any:
    import uvicorn

    # h11 and no other reader of HTTP: it bounds the memory that headers can take
    return uvicorn.Config(
        app, http="h11", h11_max_incomplete_event_size=4 * MAX_HEADERS, log_level="warning", server_header=False,
        timeout_graceful_shutdown=options.drain, limit_concurrency=2 * WAITING,
    )  # fmt: skip


def run(rec: Recommender, options: Options, following: Following | None = None) -> Recommender:
    """Serve until SIGTERM or SIGINT; then finish the open requests, for at most `options.drain` seconds.

    Returns
    -------
    Recommender
        The one that answered last, with the changes that it has seen.

    Raises
    ------
    UserError
        If the address cannot be listened on, or the access log not written.
    """
    import uvicorn

    listener = listen(options.host, options.port)
    port = listener.getsockname()[1]
    told = f"serving {len(rec):,} items of {rec.meta.dataset} on http://{options.host}:{port}/ (docs: /docs)"
    # uvicorn drains, then raises the signal again; what comes after `run` is ours to do
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        if options.workers > 1:
            assert following is not None
            start_access_log(options.access_log)  # whether it can be written is known here
            with tempfile.TemporaryDirectory(prefix="unisrec-metrics-") as folder:
                os.environ[SHARED] = folder  # where the workers count together
                print(f"{told}, {options.workers} workers", flush=True)
                run_workers(_work, (listener, following, options), options.workers, options.drain)
            return rec
        served = Served(rec, following=following)
        app = _application(served, options)
        print(told, flush=True)
        uvicorn.Server(_configuration(app, options)).run(sockets=[listener])
        return served.rec
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return served.rec
    finally:
        listener.close()


def _work(listener: socket.socket, following: Following, options: Options) -> None:
    """One of several processes."""
    import uvicorn

    start_log()
    set_threads(options.threads)
    rec = load(following.path, index=following.index, precision=following.precision, share=True)
    app = _application(Served(rec, following=following), options)
    uvicorn.Server(_configuration(app, options)).run(sockets=[listener])
