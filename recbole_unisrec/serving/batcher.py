"""One thread that answers all waiting requests together."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from fastapi import HTTPException

from recbole_unisrec.serving.answers import Recommendations
from recbole_unisrec.serving.recommender import Recommender
from recbole_unisrec.serving.schemas import RecommendBody
from recbole_unisrec.serving.served import Served
from recbole_unisrec.serving.snapshot import rows_of

WAITING = 1_024  # requests; beyond them the answer is 503
TOGETHER = 64  # requests answered in one pass
log = logging.getLogger("recbole_unisrec.serving")


@dataclass
class _Job:
    body: RecommendBody
    future: asyncio.Future[Recommendations]


class Batcher:
    """Answers the requests that wait, together, in one thread; so that many small ones cost little more than one."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.queue: asyncio.Queue[_Job] = asyncio.Queue(maxsize=WAITING)
        self.works = False

    async def ask(self, body: RecommendBody) -> Recommendations:
        """Wait for the answer.

        Raises
        ------
        HTTPException
            503 if too many wait; 404 for unknown items with ``strict``.
        """
        job = _Job(body, asyncio.get_running_loop().create_future())
        try:
            self.queue.put_nowait(job)
        except asyncio.QueueFull:
            raise HTTPException(503, "too many requests are waiting; try again", {"Retry-After": "1"}) from None
        self.served.metrics.waiting.inc()
        try:
            return await job.future
        finally:
            self.served.metrics.waiting.dec()

    async def work(self) -> None:
        """Answer until cancelled."""
        self.works = True
        try:
            await self._work()
        finally:
            self.works = False

    async def _work(self) -> None:
        while True:
            jobs = [await self.queue.get()]
            while len(jobs) < TOGETHER and not self.queue.empty():
                jobs.append(self.queue.get_nowait())
            try:
                answers = await self.served.answer(self._answer, [job.body for job in jobs])
            except Exception as error:
                log.exception("could not answer")
                answers = [error] * len(jobs)
            for job, answer in zip(jobs, answers, strict=True):
                if job.future.done():
                    continue
                if isinstance(answer, BaseException):
                    job.future.set_exception(answer)
                else:
                    job.future.set_result(answer)

    def _answer(self, bodies: list[RecommendBody]) -> list[Recommendations | Exception]:
        """Requests of one kind share a pass; all of a pass see one snapshot."""
        rec = self.served.rec
        answers: list[Recommendations | Exception | None] = [None] * len(bodies)
        groups: dict[tuple[int, bool], list[int]] = {}
        for i, body in enumerate(bodies):
            if body.strict or body.candidates is not None:
                try:
                    answers[i] = self._alone(rec, body)
                except Exception as error:
                    answers[i] = error
            else:
                groups.setdefault((body.k, body.exclude_seen), []).append(i)
        for (k, exclude_seen), members in groups.items():
            histories = [bodies[i].history for i in members]
            found = rec._recommend(rec.snapshot, histories, k, exclude_seen, None, False)
            for i, answer in zip(members, found, strict=True):
                answers[i] = answer
        return [answer for answer in answers if answer is not None]

    def _alone(self, rec: Recommender, body: RecommendBody) -> Recommendations:
        snapshot = rec.snapshot
        if body.strict:
            _, unknown = rows_of(snapshot, [*body.history, *(body.candidates or [])])
            if unknown:
                raise HTTPException(404, f"{len(unknown)} items are not in the catalogue, for example {unknown[0]!r}")
        allowed = None
        if body.candidates is not None:
            allowed = sorted(set(rows_of(snapshot, body.candidates)[0]))
        return rec._recommend(snapshot, [body.history], body.k, body.exclude_seen, allowed, False)[0]
