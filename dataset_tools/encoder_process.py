"""A text encoder in a process of its own, so that its work does not hold up the threads that answer."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from dataset_tools.common import UserError

NICE = 2  # what it leaves to who answers


def _encode_until_closed(connection: Connection, name: str, options: Sequence[Any], threads: int) -> None:
    """What the process does: load the encoder, say what it is, and encode what comes until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the keyboard; who asked waits for the answer
    import torch

    from dataset_tools.features import TextEncoder

    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICE)
    torch.set_num_threads(threads)
    try:
        encoder = TextEncoder.load(name, *options)
    except UserError as error:
        connection.send(str(error))
        return
    connection.send({key: getattr(encoder, key) for key in ("name", "width", "pooling", "max_length", "prompt")})
    with contextlib.suppress(EOFError, OSError):
        while True:
            texts = connection.recv()
            try:
                connection.send(encoder.encode(texts))
            except UserError as error:
                connection.send(str(error))


class EncoderProcess:
    """As `dataset_tools.features.TextEncoder`; a process that dies is started again.

    Attributes
    ----------
    name, width, pooling, max_length, prompt
        Of the encoder.
    """

    def __init__(
        self, name: str, pooling: str = "CLS", max_length: int = 512, prompt: str = "", threads: int = 1
    ) -> None:
        self._given, self._threads = (name, (pooling, max_length, prompt)), threads
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        with self._lock:
            told = self._start()
        self.name, self.width, self.pooling = str(told["name"]), int(told["width"]), str(told["pooling"])
        self.max_length, self.prompt = int(told["max_length"]), str(told["prompt"])

    def _start(self) -> dict[str, Any]:
        context = multiprocessing.get_context("spawn")
        own, other = context.Pipe()
        arguments = (other, *self._given, self._threads)
        context.Process(target=_encode_until_closed, args=arguments, daemon=True, name="encoder").start()
        other.close()
        try:
            told = own.recv()
        except EOFError as error:
            own.close()
            raise UserError(
                f"the process of the encoder {self._given[0]!r} ended while it started; see its log"
            ) from error
        if isinstance(told, str):
            own.close()
            raise UserError(told)
        self._connection = own
        return dict(told)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts -> float32 [n, width].

        Raises
        ------
        UserError
            If they cannot be encoded, or the process died twice over them.
        """
        with self._lock:
            for _ in range(2):
                if self._connection is None:
                    self._start()
                assert self._connection is not None
                try:
                    self._connection.send(list(texts))
                    found = self._connection.recv()
                except (EOFError, OSError):
                    self._connection.close()
                    self._connection = None
                    continue
                if isinstance(found, str):
                    raise UserError(found)
                return np.asarray(found)
        raise UserError(f"the process of the encoder {self.name!r} died; is there memory enough?")

    def close(self) -> None:
        """End the process."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
