"""The application: routes, the guard around them, and OpenAI's error object for whatever goes wrong."""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from binderclip import __version__
from binderclip.errors import BinderclipError
from binderclip.search.serving import embedding, page, searching
from binderclip.search.serving.access import COOKIE, Access
from binderclip.search.serving.failures import ApiError, as_api_error, failure
from binderclip.search.serving.guard import Guard
from binderclip.search.serving.options import Options
from binderclip.search.serving.state import Server, of
from binderclip.search.types import EncoderLike

__all__ = ["create_app"]

_state = APIRouter(tags=["state"])
_models = APIRouter(prefix="/v1", tags=["models"])


def create_app(options: Options, encoder: EncoderLike | None = None) -> Any:
    """The ASGI application of a server; the model is loaded and the index opened here.

    Args:
        options: what the server is told.
        encoder: instead of the model that the options name.

    Raises:
        IndexStateError: no index there, an empty one, or one without vectors of the model.
        InputError: an option that cannot be.
    """
    server = Server(options, encoder)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await server.start()
        yield
        await server.stop()

    # FastAPI's own documentation pages load their scripts from elsewhere: ours is at /docs, beside the page.
    app = FastAPI(
        title="binderclip",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        root_path=options.root_path,
        redirect_slashes=False,
    )
    app.state.server, app.state.classes = server, OrderedDict()
    for router in (embedding.router, searching.router, _models, _state):
        app.include_router(router, responses=_FAILURES)  # type: ignore[arg-type]
    if options.page:
        app.include_router(page.router, include_in_schema=False)
    for kind in (ApiError, BinderclipError, Exception):
        app.add_exception_handler(kind, _failed)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    described = app.openapi
    app.openapi = lambda: _honest(described())  # type: ignore[method-assign]
    guarded: Any = Guard(app, options, server.metrics)
    if options.cors:
        exposed = ["X-Request-ID", "Retry-After"]
        guarded = CORSMiddleware(
            guarded, allow_origins=options.cors, allow_methods=["*"], allow_headers=["*"], expose_headers=exposed
        )
    return guarded


@_models.get("/models", summary="The model that is served")
async def models(request: Request) -> dict[str, Any]:
    """A list of one, in OpenAI's schema, with what a search needs to know."""
    server = of(request)
    return {"object": "list", "data": [await server.engine.work(server.describe)]}


@_models.get("/models/{name:path}", summary="One model")
async def model(name: str, request: Request) -> dict[str, Any]:
    """The model, or 404."""
    server = of(request)
    server.check_model(name)
    return await server.engine.work(server.describe)


@_models.post("/session", status_code=204, summary="A cookie for the key", response_class=Response)
async def session(request: Request) -> Response:
    """Sets a cookie that stands for the key the request was made with, so that a browser can load thumbnails."""
    access: Access = Access(of(request).options)
    answer = Response(status_code=204)
    answer.set_cookie(
        COOKIE,
        access.session(request.state.key or 0),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path=request.scope.get("root_path") or "/",
    )
    return answer


@_state.get("/healthz", summary="Whether the model answers: a text and a picture are encoded")
async def healthz(request: Request) -> JSONResponse:
    """200 after a real encoding (not older than five seconds), 503 with the reason otherwise."""
    sickness = await of(request).sickness()
    if sickness:
        raise ApiError(503, sickness, code="unhealthy")
    return JSONResponse({"status": "ok"})


@_state.get("/readyz", summary="Whether requests may come")
async def readyz(request: Request) -> JSONResponse:
    """200 between the model's first encoding and the order to stop, while the index can be read; 503 otherwise."""
    server = of(request)
    if not server.is_ready:
        raise ApiError(503, "the server is starting or stopping", code="not_ready", retry_after=1)
    if server.index is not None:
        await server.engine.work(server.index.ready)
    return JSONResponse({"status": "ready"})


@_state.get("/metrics", summary="Counters for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _failed(request: Request, error: Exception) -> Response:
    return failure(as_api_error(error))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status_code)
    message = "there is nothing at this address: see /docs" if error.status_code == 404 else str(error.detail)
    answer = failure(ApiError(error.status_code, message, code=code))
    answer.headers.update(error.headers or {})
    return answer


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # Where a field may be of several kinds, pydantic adds the kind's name, which tells a client nothing.
    named = itertools.takewhile(lambda part: re.fullmatch(r"\w+", part), (str(part) for part in first["loc"][1:]))
    where = ".".join(named)
    message = str(first["msg"]).removeprefix("Value error, ")
    return failure(ApiError(400, f"{where or 'the body'}: {message}", param=where or None, code="invalid_request"))


_FAILURES = {
    status: {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    for status, text in {
        400: "The request cannot be used.",
        401: "A key is needed.",
        404: "No such thing.",
        408: "Too slow.",
        413: "Too large.",
        429: "Too many: try again after Retry-After seconds.",
        503: "Not now.",
    }.items()
}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                name: {"type": ["string", "null"] if name in ("param", "code") else "string"}
                for name in ("message", "type", "param", "code")
            },
        }
    },
}


def _honest(description: dict[str, Any]) -> dict[str, Any]:
    """FastAPI promises a 422 of its own; ours are 400 in OpenAI's shape."""
    schemas = description.setdefault("components", {}).setdefault("schemas", {})
    schemas["Error"] = _ERROR_SCHEMA
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path in description["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    return description
