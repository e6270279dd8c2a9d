"""Notices when another process of a run has died, and ends this one with a sentence that says which."""

from __future__ import annotations

import datetime
import os
import sys
import threading
import time

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

BEAT = 2.0  # seconds between signs of life
SILENCE = 30.0  # seconds without one after which a process counts as dead
ENDED = "ended"


class Watch:
    """A thread that gives signs of life through the store of the processes, and looks for those of the others.

    Collective operations wait for a process that is gone for half an hour, or end in a message about sockets.

    Parameters
    ----------
    rank, size
        This process among the others.
    prefix
        Of its keys in the store, see `distributed.start`.
    beat, silence
        See `BEAT` and `SILENCE`.
    """

    def __init__(self, rank: int, size: int, prefix: str, beat: float = BEAT, silence: float = SILENCE) -> None:
        self.rank, self.size, self.beat, self.silence = rank, size, beat, silence
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=datetime.timedelta(seconds=10))
        self.store = PrefixStore(prefix, store)
        self.dead: str | None = None
        self.over = threading.Event()
        self.found = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True, name="watch")
        self.thread.start()

    def _key(self, rank: int) -> str:
        return f"recbole_unisrec/alive/{rank}"

    def _run(self) -> None:
        heard = {rank: (b"", time.monotonic()) for rank in range(self.size) if rank != self.rank}
        number, failed_since = 0, None
        while not self.over.wait(self.beat):
            number += 1
            now = time.monotonic()
            try:
                self.store.set(self._key(self.rank), str(number))
                for rank, (last, _) in heard.items():
                    if self.store.check([self._key(rank)]):
                        value = self.store.get(self._key(rank))
                        if value != last or value == ENDED.encode():
                            heard[rank] = (value, now)
                failed_since = None
            except (RuntimeError, OSError):  # the store is gone, and with it the process or machine that keeps it
                failed_since = failed_since or now
                if now - failed_since > self.silence / 2:
                    self._end("the first process (rank 0), or the machine that started the run,")
                continue
            for rank, (_, when) in heard.items():
                if now - when > self.silence:
                    self._end(f"process {rank} of {self.size}")
                    return

    def _end(self, who: str) -> None:
        self.dead = who
        self.found.set()
        if self.over.wait(self.beat):  # somebody is about to say so
            return
        print(f"error: {self.sentence()}", file=sys.stderr, flush=True)
        os._exit(1)

    def sentence(self) -> str:
        """What became of the others."""
        return f"{self.dead} has died, so process {self.rank} ends too; start the run again"

    def who_died(self) -> str | None:
        """Wait until it is known which process died, and give the sentence; None if none did."""
        if not self.found.wait(self.silence + 5 * self.beat):
            return None
        self.over.set()
        return self.sentence()

    def stop(self) -> None:
        """This process ends as it should."""
        self.over.set()
        self.thread.join(timeout=15)
        try:
            self.store.set(self._key(self.rank), ENDED)
        except (RuntimeError, OSError):
            return
