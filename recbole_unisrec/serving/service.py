"""The HTTP service: FastAPI on uvicorn, one thread that answers all waiting requests together."""

from __future__ import annotations

import asyncio
import hmac
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from recbole_unisrec.errors import UserError
from recbole_unisrec.serving.catalogue import Snapshot
from recbole_unisrec.serving.recommender import Recommendations, Recommender, rows_of

try:
    import polars as pl
    from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse
    from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr
except ImportError as missing:
    raise UserError('the service needs FastAPI; run pip install "recbole_unisrec[serve]"') from missing

from starlette.concurrency import run_in_threadpool

PAGE = Path(__file__).with_name("static") / "index.html"
MAX_BODY = 1 << 20  # bytes
MAX_HISTORY = 5_000
MAX_ITEMS = 1_000  # new items in one request
MAX_CANDIDATES = 20_000
MAX_K = 1_000
MAX_TEXT = 20_000  # characters
MAX_ID = 512
WAITING = 1_024  # requests; beyond them the answer is 503
BODY_SECONDS = 30
TOGETHER = 64  # requests answered in one pass
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]", "testserver")
# the page is one file: nothing is loaded from elsewhere, and nothing may frame it
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
log = logging.getLogger("recbole_unisrec.serving")


def _encodable(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("not valid Unicode text") from error
    return text


Text = Annotated[StrictStr, AfterValidator(_encodable)]
Id = Annotated[Text, Field(min_length=1, max_length=MAX_ID)]
History = Annotated[list[Id], Field(max_length=MAX_HISTORY, description="Item ids from old to new.")]
K = Annotated[StrictInt, Field(ge=1, le=MAX_K)]


class Body(BaseModel):
    """A request body; unknown fields are refused, so that a misspelt one does not go unnoticed."""

    model_config = ConfigDict(extra="forbid")


class RecommendBody(Body):
    """What to recommend after."""

    history: History = []
    k: K = 10
    exclude_seen: StrictBool = True
    candidates: Annotated[list[Id], Field(max_length=MAX_CANDIDATES)] | None = None
    strict: StrictBool = Field(False, description="An unknown item is an error (404) instead of being skipped.")


class NewItem(Body):
    """An item that the model was not trained on."""

    item_id: Id
    text: Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, pattern=r"\S")]
    title: Annotated[Text, Field(max_length=MAX_TEXT)] | None = None


class AddBody(Body):
    """Items to add, all or none."""

    items: Annotated[list[NewItem], Field(min_length=1, max_length=MAX_ITEMS)]
    replace: StrictBool = False


class RemoveBody(Body):
    """Items to remove, all or none."""

    item_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_ITEMS)]


class ExplainBody(Body):
    """Why `item` after `history`."""

    history: Annotated[History, Field(min_length=1)]
    item: Id


class PreviewBody(Body):
    """The text of an item that does not exist yet."""

    text: Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, pattern=r"\S")]
    history: History = []
    k: K = 10


class Item(BaseModel):
    """An item of an answer."""

    item_id: str
    title: str
    score: float | None = None


class Answer(BaseModel):
    """Items, best first; all from the state of the catalogue that `version` names."""

    items: list[Item]
    basis: str
    unknown: list[str]
    version: int


class ItemList(BaseModel):
    """Found items."""

    items: list[Item]
    version: int


class Changed(BaseModel):
    """Number of changed items, and of all items afterwards."""

    changed: int
    n_items: int
    version: int


class HistoryWeight(BaseModel):
    """Weight of an item of the history."""

    item_id: str
    title: str
    weight: float


class ExpertWeight(BaseModel):
    """Gate and weight of an expert of the adaptor."""

    gate: float
    weight: float


class Why(BaseModel):
    """An explanation: history by leave-one-out, experts as summands of the score."""

    item_id: str
    title: str
    score: float
    history: list[HistoryWeight]
    experts: list[ExpertWeight]
    id_weight: float


class Preview(BaseModel):
    """Where an item that does not exist yet would stand."""

    score: float | None
    rank: int | None
    n_items: int
    reach: float | None
    n_histories: int
    similar: list[Item]


class Health(BaseModel):
    """State of the service."""

    status: str
    model: str
    form: str
    dataset: str
    n_items: int
    version: int
    reads_text: bool


class Problem(BaseModel):
    """An error: one sentence."""

    detail: str


def _items(found: Recommendations) -> list[Item]:
    pairs = zip(found.ids, found.titles, found.scores, strict=True)
    return [Item(item_id=item, title=title, score=score) for item, title, score in pairs]


@dataclass
class _Job:
    body: RecommendBody
    future: asyncio.Future[Recommendations]


class Batcher:
    """Answers the requests that wait, together, in one thread; so that many small ones cost little more than one."""

    def __init__(self, rec: Recommender) -> None:
        self.rec = rec
        self.queue: asyncio.Queue[_Job] = asyncio.Queue(maxsize=WAITING)

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
        return await job.future

    async def work(self) -> None:
        """Answer until cancelled."""
        while True:
            jobs = [await self.queue.get()]
            while len(jobs) < TOGETHER and not self.queue.empty():
                jobs.append(self.queue.get_nowait())
            try:
                answers = await run_in_threadpool(self._answer, [job.body for job in jobs])
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
        answers: list[Recommendations | Exception | None] = [None] * len(bodies)
        groups: dict[tuple[int, bool], list[int]] = {}
        for i, body in enumerate(bodies):
            if body.strict or body.candidates is not None:
                try:
                    answers[i] = self._alone(body)
                except Exception as error:
                    answers[i] = error
            else:
                groups.setdefault((body.k, body.exclude_seen), []).append(i)
        for (k, exclude_seen), members in groups.items():
            histories = [bodies[i].history for i in members]
            found = self.rec._recommend(self.rec.snapshot, histories, k, exclude_seen, None, False)
            for i, answer in zip(members, found, strict=True):
                answers[i] = answer
        return [answer for answer in answers if answer is not None]

    def _alone(self, body: RecommendBody) -> Recommendations:
        snapshot = self.rec.snapshot
        if body.strict:
            _, unknown = rows_of(snapshot, [*body.history, *(body.candidates or [])])
            if unknown:
                raise HTTPException(404, f"{len(unknown)} items are not in the catalogue, for example {unknown[0]!r}")
        allowed = None
        if body.candidates is not None:
            allowed = sorted(set(rows_of(snapshot, body.candidates)[0]))
        return self.rec._recommend(snapshot, [body.history], body.k, body.exclude_seen, allowed, False)[0]


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


def create_app(
    rec: Recommender, token: str | None = None, max_body: int = MAX_BODY, hosts: tuple[str, ...] | None = LOCAL_HOSTS
) -> FastAPI:
    """The application.

    Parameters
    ----------
    rec
        What answers.
    token
        Bearer token that every request but ``GET /`` and ``GET /health`` must carry; None for none.
    max_body
        Bytes of the largest request body.
    hosts
        Names in the Host header that are served where there is no token; None for any.
    """
    batcher = Batcher(rec)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.work())
        yield
        worker.cancel()

    app = FastAPI(
        title="recbole_unisrec",
        description="Recommendations from text histories.",
        version=str(rec.meta.versions.get("recbole_unisrec", "0")),
        lifespan=lifespan,
        responses={
            400: {"model": Problem, "description": "The body is no JSON, or the request makes no sense."},
            413: {"model": Problem, "description": "The body is too large."},
            422: {"model": Problem, "description": "A field has the wrong type or size."},
        },
    )
    if token is not None:
        responses = app.router.responses
        responses[401] = {"model": Problem, "description": "The bearer token is missing or wrong."}

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # without the input: it may be huge, or not even text
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return JSONResponse({"detail": "the body is no valid JSON"}, 400)
        where = ".".join(str(part) for part in first["loc"] if part != "body")[:200]
        detail = f"{where}: {first['msg']}" if where else str(first["msg"])
        return JSONResponse({"detail": detail.encode("utf-8", "replace").decode()}, 422)

    @app.exception_handler(UserError)
    async def mistake(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error).encode("utf-8", "replace").decode()}, 400)

    _add_routes(app, rec, batcher)
    app.add_middleware(Gate, token=token, hosts=hosts if token is None else None, max_body=max_body)
    return app


def _no_extra(request: Request) -> None:
    """Refuse misspelt query parameters."""
    route = request.scope.get("route")
    known = {p.alias for p in route.dependant.query_params} if route is not None else set()
    for name in request.query_params:
        if name not in known:
            raise HTTPException(422, f"unknown parameter {name[:40]!r}".encode("utf-8", "replace").decode())


def _add_routes(app: FastAPI, rec: Recommender, batcher: Batcher) -> None:
    """All paths of the service."""
    missing: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "No such item."}}
    busy: dict[int | str, dict[str, Any]] = {503: {"model": Problem, "description": "Too many requests wait."}}
    taken: dict[int | str, dict[str, Any]] = {409: {"model": Problem, "description": "An item exists already."}}
    api = APIRouter(dependencies=[Depends(_no_extra)])

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=PAGE_HEADERS)

    @api.get("/health")
    async def health() -> Health:
        """Whether the service answers, and with what."""
        snapshot, meta = rec.snapshot, rec.meta
        return Health(
            status="ok",
            model=meta.model,
            form=meta.form,
            dataset=meta.dataset,
            n_items=snapshot.n_items,
            version=snapshot.version,
            reads_text=rec.network.moe_adaptor is not None,
        )

    @api.post("/recommend", responses={**missing, **busy})
    async def recommend(body: RecommendBody) -> Answer:
        """Recommend items after a history; by popularity if none of its items is known."""
        found = await batcher.ask(body)
        return Answer(items=_items(found), basis=found.basis, unknown=found.unknown, version=found.version)

    @api.get("/items")
    def items(
        q: Annotated[str, AfterValidator(_encodable), Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> ItemList:
        """Items whose title holds all words of `q` in any case, the most popular first; or the one with that id."""
        snapshot = rec.snapshot
        rows = search_items(snapshot, q, limit)
        found = zip(snapshot.ids(rows), snapshot.titles(rows), strict=True)
        return ItemList(items=[Item(item_id=i, title=t) for i, t in found], version=snapshot.version)

    @api.get("/similar", responses=missing)
    def similar(
        item: Annotated[str, AfterValidator(_encodable), Query(min_length=1, max_length=MAX_ID)],
        k: Annotated[int, Query(ge=1, le=MAX_K)] = 10,
    ) -> Answer:
        """The items nearest to one."""
        _must_exist(rec, [item])
        found = rec.similar_items(item, k)
        return Answer(items=_items(found), basis="item", unknown=[], version=found.version)

    def changed(n: int) -> Changed:
        after = rec.snapshot
        return Changed(changed=n, n_items=after.n_items, version=after.version)

    @api.post("/items", status_code=201, responses=taken)
    def add(body: AddBody) -> Changed:
        """Add items by their texts; they can be recommended, and stand in histories, at once."""
        ids = [item.item_id for item in body.items]
        if len(set(ids)) < len(ids):
            raise HTTPException(422, "items: an id occurs more than once")
        existing = [item for item in ids if rec.snapshot.row(item) is not None]
        if existing and not body.replace:
            raise HTTPException(409, f"{len(existing)} items exist already, for example {existing[0]!r}")
        return changed(rec.add_items([item.model_dump() for item in body.items], replace=body.replace))

    @api.post("/items/remove", responses=missing)
    def remove(body: RemoveBody) -> Changed:
        """Remove items."""
        _must_exist(rec, body.item_ids)
        return changed(rec.remove_items(body.item_ids))

    @api.post("/explain", responses=missing)
    def explain(body: ExplainBody) -> Why:
        """Which items of the history, and which experts, speak for an item."""
        _must_exist(rec, [body.item])
        if not rows_of(rec.snapshot, body.history)[0]:
            raise HTTPException(404, "no item of the history is in the catalogue")
        found = rec.explain(body.history, body.item)
        return Why(
            item_id=found.item,
            title=found.title,
            score=found.score,
            history=[HistoryWeight(item_id=i, title=t, weight=w) for i, t, w in found.history],
            experts=[ExpertWeight(gate=g, weight=w) for g, w in found.experts],
            id_weight=found.id_weight,
        )

    @api.post("/preview")
    def preview(body: PreviewBody) -> Preview:
        """Where an item with this text would be recommended; nothing is added."""
        found = rec.preview(body.text, body.history, body.k)
        values = {k: v for k, v in asdict(found).items() if k != "similar"}
        return Preview(**values, similar=_items(found.similar))

    app.include_router(api)


def _must_exist(rec: Recommender, ids: list[str]) -> None:
    _, unknown = rows_of(rec.snapshot, ids)
    if unknown:
        raise HTTPException(404, f"no item {unknown[0]!r} in the catalogue")


def search_items(snapshot: Snapshot, words: str, limit: int) -> list[int]:
    """Rows of items whose title holds all words in any case, the most popular first, after the one with that id."""
    found = [row for row in (snapshot.row(words),) if row is not None]
    parts = words.lower().split()
    if parts:
        lower = snapshot.lower_titles
        hit = pl.Series([True]).new_from_index(0, len(lower))
        for part in parts[:20]:
            hit = hit & lower.str.contains(part, literal=True)
        matches = hit.to_numpy()
        order = snapshot.by_popularity
        rows = order[matches[order]][:limit].tolist()
    else:
        rows = snapshot.by_popularity[:limit].tolist()
    return [*found, *(row for row in rows if row not in found)][:limit]


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
