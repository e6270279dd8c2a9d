"""The HTTP service: a FastAPI application around a recommender, and its paths."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from recbole_unisrec.errors import UserError
from recbole_unisrec.serving.recommender import FullError, Recommender
from recbole_unisrec.serving.snapshot import Snapshot, rows_of, search_items

try:
    from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse, Response
    from pydantic import AfterValidator
except ImportError as missing:
    raise UserError('the service needs FastAPI; run pip install "recbole_unisrec[serve]"') from missing

from recbole_unisrec.serving.batcher import Batcher
from recbole_unisrec.serving.gate import LOCAL_HOSTS, Gate
from recbole_unisrec.serving.metrics import TYPE
from recbole_unisrec.serving.observe import Observe
from recbole_unisrec.serving.schemas import (
    MAX_ID,
    MAX_K,
    AddBody,
    Answer,
    Changed,
    ExpertWeight,
    ExplainBody,
    Health,
    HistoryWeight,
    Item,
    ItemList,
    Preview,
    PreviewBody,
    Problem,
    Ready,
    RecommendBody,
    RemoveBody,
    Why,
    encodable,
    items_of,
)  # fmt: skip
from recbole_unisrec.serving.served import Served

PAGES = Path(__file__).with_name("static")
MAX_BODY = 1 << 20  # bytes


def create_app(
    rec: Recommender | Served,
    token: str | None = None,
    max_body: int = MAX_BODY,
    hosts: tuple[str, ...] | None = LOCAL_HOSTS,
    origins: Sequence[str] = (),
) -> FastAPI:
    """The application.

    Parameters
    ----------
    rec
        What answers.
    token
        Bearer token that every request but ``GET /``, ``/health`` and ``/ready`` must carry; None for none.
    max_body
        Bytes of the largest request body.
    hosts
        Names in the Host header that are served where there is no token; None for any.
    origins
        Pages of other sites that may send requests, as ``https://shop.example``.
    """
    served = rec if isinstance(rec, Served) else Served(rec)
    batcher = Batcher(served)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(batcher.work()), asyncio.create_task(served.follow())]
        served.measure()
        yield
        for task in tasks:
            task.cancel()
        served.close()

    app = FastAPI(
        title="recbole_unisrec",
        description="Recommendations from text histories.",
        version=str(served.rec.meta.versions.get("recbole_unisrec", "0")),
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own loads scripts from another site
        redoc_url=None,
        responses={
            400: {"model": Problem, "description": "The body is no JSON, or the request makes no sense."},
            403: {"model": Problem, "description": "The request comes from a page of another site."},
            413: {"model": Problem, "description": "The body is too large."},
            415: {"model": Problem, "description": "The body is not said to be JSON."},
            422: {"model": Problem, "description": "A field has the wrong type or size."},
            431: {"model": Problem, "description": "The headers are too large."},
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
        status = 409 if isinstance(error, FullError) else 400
        return JSONResponse({"detail": str(error).encode("utf-8", "replace").decode()}, status)

    _add_pages(app, served, batcher)
    _add_routes(app, served, batcher)
    app.add_middleware(
        Gate, token=token, hosts=hosts if token is None else None, max_body=max_body, origins=tuple(origins)
    )
    app.add_middleware(Observe, metrics=served.metrics)  # added last, so around the gate
    return app


def _no_extra(request: Request) -> None:
    """Refuse misspelt query parameters."""
    route = request.scope.get("route")
    known = {p.alias for p in route.dependant.query_params} if route is not None else set()
    for name in request.query_params:
        if name not in known:
            raise HTTPException(422, f"unknown parameter {name[:40]!r}".encode("utf-8", "replace").decode())


def _add_pages(app: FastAPI, served: Served, batcher: Batcher) -> None:
    """What people and monitors look at."""

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse((PAGES / "index.html").read_text(encoding="utf-8"))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse((PAGES / "docs.html").read_text(encoding="utf-8"))

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        served.measure()
        return Response(await served.look(served.metrics.text), media_type=TYPE)


def _add_routes(app: FastAPI, served: Served, batcher: Batcher) -> None:
    """The interface of programs."""
    missing: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "No such item."}}
    busy: dict[int | str, dict[str, Any]] = {503: {"model": Problem, "description": "Too many requests wait."}}
    taken: dict[int | str, dict[str, Any]] = {
        409: {"model": Problem, "description": "An item exists already, or the catalogue is full."}
    }
    api = APIRouter(dependencies=[Depends(_no_extra)])

    @api.get("/health")
    async def health() -> Health:
        """Whether the process lives, and with what."""
        rec = served.rec
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

    @api.get("/ready", responses={503: {"model": Problem, "description": "Not yet, or no more."}})
    async def ready() -> Ready:
        """Whether requests are answered now."""
        if not batcher.works:
            raise HTTPException(503, "the service starts or stops")
        return Ready(status="ready")

    @api.post("/recommend", responses={**missing, **busy})
    async def recommend(body: RecommendBody) -> Answer:
        """Recommend items after a history; by popularity if none of its items is known."""
        found = await batcher.ask(body)
        return Answer(items=items_of(found), basis=found.basis, unknown=found.unknown, version=found.version)

    @api.get("/items")
    async def items(
        q: Annotated[str, AfterValidator(encodable), Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> ItemList:
        """Items whose title holds all words of `q` in any case, the most popular first; or the one with that id."""
        return await served.look(_search, served.rec.snapshot, q, limit)

    @api.get("/similar", responses=missing)
    async def similar(
        item: Annotated[str, AfterValidator(encodable), Query(min_length=1, max_length=MAX_ID)],
        k: Annotated[int, Query(ge=1, le=MAX_K)] = 10,
    ) -> Answer:
        """The items nearest to one."""
        rec = served.rec
        _must_exist(rec, [item])
        found = await served.look(rec.similar_items, item, k)
        return Answer(items=items_of(found), basis="item", unknown=[], version=found.version)

    def changed(n: int) -> Changed:
        after = served.rec.snapshot
        return Changed(changed=n, n_items=after.n_items, version=after.version)

    @api.post("/items", status_code=201, responses={**taken, **busy})
    async def add(body: AddBody) -> Changed:
        """Add items by their texts; they can be recommended, and stand in histories, at once."""
        ids = [item.item_id for item in body.items]
        if len(set(ids)) < len(ids):
            raise HTTPException(422, "items: an id occurs more than once")
        snapshot = served.rec.snapshot
        existing = [item for item in ids if snapshot.row(item) is not None]
        if existing and not body.replace:
            raise HTTPException(409, f"{len(existing)} items exist already, for example {existing[0]!r}")
        return changed(await served.add([item.model_dump() for item in body.items], body.replace))

    @api.post("/items/remove", responses={**missing, **busy})
    async def remove(body: RemoveBody) -> Changed:
        """Remove items."""
        _must_exist(served.rec, body.item_ids)
        return changed(await served.remove(body.item_ids))

    @api.post("/explain", responses=missing)
    async def explain(body: ExplainBody) -> Why:
        """Which items of the history, and which experts, speak for an item."""
        rec = served.rec
        _must_exist(rec, [body.item])
        if not rows_of(rec.snapshot, body.history)[0]:
            raise HTTPException(404, "no item of the history is in the catalogue")
        found = await served.look(rec.explain, body.history, body.item)
        return Why(
            item_id=found.item,
            title=found.title,
            score=found.score,
            history=[HistoryWeight(item_id=i, title=t, weight=w) for i, t, w in found.history],
            experts=[ExpertWeight(gate=g, weight=w) for g, w in found.experts],
            id_weight=found.id_weight,
            text_weight=found.text_weight,
        )

    @api.post("/preview")
    async def preview(body: PreviewBody) -> Preview:
        """Where an item with this text would be recommended; nothing is added."""
        found = await served.preview(served.rec.preview, body.text, body.history, body.k)
        values = {k: v for k, v in asdict(found).items() if k != "similar"}
        return Preview(**values, similar=items_of(found.similar))

    app.include_router(api)


def _search(snapshot: Snapshot, words: str, limit: int) -> ItemList:
    rows = search_items(snapshot, words, limit)
    found = zip(snapshot.ids(rows), snapshot.titles(rows), strict=True)
    return ItemList(items=[Item(item_id=i, title=t) for i, t in found], version=snapshot.version)


def _must_exist(rec: Recommender, ids: list[str]) -> None:
    _, unknown = rows_of(rec.snapshot, ids)
    if unknown:
        raise HTTPException(404, f"no item {unknown[0]!r} in the catalogue")
