"""The web page: a few files beside this one, sent as they are; nothing on it comes from anywhere else."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import resources

from fastapi import APIRouter, Request, Response

from binderclip.search.serving.failures import ApiError

__all__ = ["router"]

router = APIRouter()

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@lru_cache(maxsize=1)
def assets() -> dict[str, bytes]:
    """Name to content of the page's files."""
    folder = resources.files("binderclip.search.serving") / "assets"
    return {one.name: one.read_bytes() for one in folder.iterdir() if one.name.rsplit(".", 1)[-1] in _TYPES}


@router.get("/")
async def home(request: Request) -> Response:
    """The search page."""
    return _sent("index.html", request)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The API's description, for people."""
    return _sent("docs.html", request)


@router.get("/assets/{name}")
async def asset(name: str, request: Request) -> Response:
    """A file of the page."""
    return _sent(name, request)


def _sent(name: str, request: Request) -> Response:
    content = assets().get(name)  # a name of the list, or nothing: no path is ever made of it
    if content is None:
        raise ApiError(404, "no such page", code="not_found")
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache", "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_TYPES[name.rsplit(".", 1)[-1]], headers=headers)
