"""The application: what can be asked, and the answers."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable
from typing import Any

import anyio.to_thread
import numpy as np
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fastalign.engine.results import finite
from fastalign.line.serve.guard import Guard
from fastalign.line.serve.metrics import TEXT
from fastalign.line.serve.recent import Shown
from fastalign.line.serve.service import Service
from fastalign.line.serve.static import PAGE, content
from fastalign.verdict import TRUTHS

# A photograph is no form: a page elsewhere cannot send these kinds without asking first.
_KINDS = re.compile(r"image/[\w.+-]+|application/octet-stream", re.ASCII)
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_MOST_JSON = 10_000


def make_app(service: Service) -> Any:
    """The application of a service, guarded."""
    app = FastAPI(title="fastalign", docs_url=None, redoc_url=None, openapi_url=None)
    settings = service.settings

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        return _json({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        # What went wrong inside is for the server's own log.
        return _json({"error": "an error of the server; its log says more"}, 500)

    async def score(request: Request) -> Response:
        _only(request, {"name", "map"})
        name = request.query_params.get("name", "photograph")
        if not _NAME.fullmatch(name):
            raise HTTPException(400, "name: 1 to 200 characters, none of them a control character")
        wanted = request.query_params.get("map", "0")
        if wanted not in ("0", "1"):
            raise HTTPException(400, "map: 0 or 1")
        key = request.headers.get("idempotency-key")
        if key is not None and not _KEY.fullmatch(key):
            raise HTTPException(400, "Idempotency-Key: 1 to 200 visible characters of ASCII")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not _KINDS.fullmatch(kind):
            raise HTTPException(
                415, "send the bytes of a photograph's file as image/* or application/octet-stream"
            )
        if request.headers.get("content-encoding", "identity") != "identity":
            raise HTTPException(415, "send the file as it is, without Content-Encoding")
        # Before anything is read: what waits takes memory.
        with service.place():
            data = await _body(request, settings.most_bytes, settings.seconds)
            return _json(await service.score(data, name, key, wanted == "1"))

    # A plain route: nothing of it is for the framework to find out and check, and this one is
    # asked for every photograph.
    app.add_route("/score", score, methods=["POST"])

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> Response:
        alive = service.worker.alive
        return _json({"status": "ok" if alive else "broken"}, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=TEXT)

    @app.get("/drift")
    async def drift() -> Response:
        return _json(finite(await anyio.to_thread.run_sync(service.drift)))

    @app.get("/photographs")
    async def photographs(request: Request) -> Response:
        _only(request, {"changes"})
        if request.query_params.get("changes") == str(service.recent.changes):
            return Response(status_code=204)
        limits = service.limits
        about = {"image_threshold": limits.image, "pixel_threshold": limits.pixel}
        drift = [one["text"] for one in service.standing()]
        return _json({**service.about, **about, "drift": drift, **service.recent.summary()})

    @app.get("/photographs/{name}/{what}")
    async def picture(name: str, what: str) -> Response:
        shown = _known(service.recent.get(name))
        if what == "photo.jpg":
            photo = await anyio.to_thread.run_sync(service.recent.photo, shown)
            return Response(photo, media_type="image/jpeg")
        if what == "heat.png":
            heat = await anyio.to_thread.run_sync(service.recent.heat, shown)
            return Response(heat, media_type="image/png")
        if what == "map.npy":
            buffer = io.BytesIO()
            np.save(buffer, shown.map, allow_pickle=False)
            return Response(buffer.getvalue(), media_type="application/octet-stream")
        if what == "verdict.json":
            return _json({**shown.line, "truth": shown.truth})
        raise HTTPException(404, "photo.jpg, heat.png, map.npy or verdict.json")

    @app.post("/update")
    async def update(request: Request) -> Response:
        _only(request, set())
        if await _document(request, settings.seconds) != {}:
            raise HTTPException(400, "send {}")
        # To its end, whoever still waits.
        return _json(await asyncio.shield(anyio.to_thread.run_sync(service.update)))

    @app.post("/photographs/{name}/feedback")
    async def feedback(name: str, request: Request) -> Response:
        given = await _document(request, settings.seconds)
        if not (isinstance(given, dict) and set(given) == {"truth"}):
            raise HTTPException(400, 'send {"truth": "good"}, "anomaly" or null')
        truth = given["truth"]
        if not (truth is None or (isinstance(truth, str) and truth in TRUTHS.values())):
            raise HTTPException(400, 'truth: "good", "anomaly" or null')
        shown = await anyio.to_thread.run_sync(service.feedback, name, truth)
        return _json(_known(shown).summary())

    for place in PAGE:
        app.add_api_route(place, _static(place), methods=["GET"])
    return Guard(app, settings, service.metrics.refused)


def _static(place: str) -> Callable[[], Any]:
    body, kind = content(place)

    async def answer() -> Response:
        return Response(body, media_type=kind)

    return answer


def _only(request: Request, names: set[str]) -> None:
    given = [name for name, _ in request.query_params.multi_items()]
    if not set(given) <= names or len(given) != len(set(given)):
        raise HTTPException(400, f"the query may have each once: {', '.join(sorted(names))}")


async def _document(request: Request, seconds: float) -> Any:
    """The JSON that was sent."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "send application/json")
    try:
        return json.loads(await _body(request, _MOST_JSON, seconds))
    except (ValueError, RecursionError):
        raise HTTPException(400, "this is no JSON") from None


def _known(shown: Shown | None) -> Shown:
    if shown is None:
        raise HTTPException(404, "no such photograph among the last ones")
    return shown


async def _body(request: Request, most: int, seconds: float) -> bytes:
    """What was sent, as far as it is allowed."""
    stated = request.headers.get("content-length")
    if stated is not None and int(stated) > most:
        raise _too_large(most)

    async def read() -> bytes:
        chunks, length = [], 0
        async for chunk in request.stream():
            length += len(chunk)
            if length > most:
                raise _too_large(most)
            chunks.append(chunk)
        return b"".join(chunks)

    try:
        data = await asyncio.wait_for(read(), seconds)
    except asyncio.TimeoutError:
        words = f"the body did not come within {seconds:g} s"
        raise HTTPException(408, words, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection was closed") from None
    if not data:
        raise HTTPException(400, "the body is empty")
    return data


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"more than the {most} bytes that are taken", {"Connection": "close"})


def _json(document: Any, status: int = 200, headers: Any = None) -> Response:
    text = json.dumps(document, allow_nan=False)
    return Response(text, status, dict(headers or {}), media_type="application/json")
