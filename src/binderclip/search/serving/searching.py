"""/v1/search by JSON, address and upload, and the files of the index: thumbnails and originals."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Annotated, Any, cast
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, File, Form, Query, Request, Response, UploadFile

from binderclip.errors import InputError
from binderclip.search.base import Index
from binderclip.search.serving.engine import Picture
from binderclip.search.serving.failures import ApiError
from binderclip.search.serving.library import Library, Side
from binderclip.search.serving.schemas import Part, SearchRequest, as_parts
from binderclip.search.serving.state import Server, of
from binderclip.search.types import FloatArray, Hit, Row

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["search"])

_FOREVER = "private, max-age=31536000, immutable"  # an id names a content, which never changes
_MOST_PARTS = 32
_SEALED = "default-src 'none'; sandbox"


@router.post("/search", summary="Search by texts, pictures, and mixes of both")
async def search(body: SearchRequest, request: Request) -> dict[str, Any]:
    """The best files for a query, best first; without a query, the files in the order of their paths."""
    return await _search(of(request), body)


@router.get("/search", summary="Search by a text")
async def search_text(
    request: Request,
    q: Annotated[str, Query(description="What to look for; empty lists all.", max_length=2000)] = "",
    where: Annotated[str | None, Query(max_length=4096)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 24,
    offset: Annotated[int, Query(ge=0, le=10_000)] = 0,
) -> dict[str, Any]:
    """As POST, for a text alone."""
    return await _search(of(request), SearchRequest(query=q, where=where, limit=limit, offset=offset))


@router.post("/search/upload", summary="Search by uploaded pictures")
async def search_upload(
    request: Request,
    image: Annotated[list[UploadFile], File(description="Pictures to search for.")],
    plus: Annotated[list[str] | None, Form(description="Texts to move towards.")] = None,
    minus: Annotated[list[str] | None, Form(description="Texts to move away from.")] = None,
    where: Annotated[str | None, Form(max_length=4096)] = None,
    limit: Annotated[int, Form(ge=1, le=200)] = 24,
    offset: Annotated[int, Form(ge=0, le=10_000)] = 0,
) -> dict[str, Any]:
    """As POST /v1/search with files of a form, for `curl -F image=@cat.jpg`."""
    body = SearchRequest(plus=list(plus or []), minus=list(minus or []), where=where, limit=limit, offset=offset)
    return await _search(of(request), body, [await one.read() for one in image])


@router.get("/files/{key}/thumbnail", summary="A thumbnail of a file of the index", response_class=Response)
async def thumbnail(
    key: str,
    request: Request,
    size: Side = Side.SMALL,
    time: Annotated[float, Query(ge=0, le=1e6, allow_inf_nan=False, description="Seconds into a video.")] = 0.0,
) -> Response:
    """A JPEG whose long side is `size` pixels or less."""
    server = of(request)
    _, library = server.holdings
    tag = f'"{key}-{size}-{time:g}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304)
    data = await server.engine.work(library.thumbnail, key, size, time, kind="files")
    headers = {"Cache-Control": _FOREVER, "ETag": tag, "Content-Security-Policy": _SEALED}
    return Response(data, media_type="image/jpeg", headers=headers)


@router.get("/files/{key}", summary="A file of the index, as it is", response_class=Response)
async def original(key: str, request: Request) -> Response:
    """The bytes that were indexed; a file that has changed since is not sent."""
    server = of(request)
    _, library = server.holdings
    if not server.options.originals:
        raise ApiError(403, "this server hands out thumbnails only", code="no_originals")
    data, kind, name = await server.engine.work(library.original, key, kind="files")
    shown = "inline" if kind.startswith("image/") else "attachment"
    headers = {"Cache-Control": _FOREVER, "ETag": f'"{key}"', "Content-Security-Policy": _SEALED}
    headers["Content-Disposition"] = f"{shown}; filename*=UTF-8''{quote(name, safe='')}"
    return Response(data, media_type=kind, headers=headers)


async def _search(server: Server, body: SearchRequest, uploads: Sequence[bytes] = ()) -> dict[str, Any]:
    index, library = server.holdings
    signed = [(part, 1.0) for part in as_parts(body.query)] + [(part, 1.0) for part in as_parts(body.plus)]
    signed += [(part, -1.0) for part in as_parts(body.minus)]
    if len(signed) + len(uploads) > _MOST_PARTS:
        raise ApiError(400, f"a search has at most {_MOST_PARTS} parts", param="query", code="too_many_inputs")
    if not signed and not uploads:
        return await server.engine.work(_browse, server, library, body, kind="search")
    vector, calibrated, seen = await _vector(server, library, signed, uploads)
    if body.min_score == "auto" and not calibrated:
        message = "min_score auto needs texts alone and a calibrated model: give a number"
        raise ApiError(400, message, param="min_score", code="not_calibrated")

    def find() -> dict[str, Any]:
        wanted = body.offset + body.limit + 1  # one further than the page, to know whether there is a next one
        among = cast("Index", _Without(index, seen)) if seen else index
        hits = Index.search_vector(
            among, vector, wanted, where=body.where, min_score=body.min_score, fold=body.fold, calibrated=calibrated
        )
        page = hits[body.offset : body.offset + body.limit]
        more = len(hits) > body.offset + body.limit
        return _answer(server, body, _shown(server, library, page), more)

    return await server.engine.work(find, kind="search")


_COPIES = 16  # paths to one content that are looked past


class _Without:
    """An index without the pictures that were asked with: left out before folding, or their likes would go with them."""

    def __init__(self, index: Index, contents: set[str]) -> None:
        self.encoder, self._index, self._contents = index.encoder, index, contents

    def nearest(self, query: FloatArray, k: int, where: str | None = None) -> tuple[list[Row], FloatArray, FloatArray]:
        """See `Index.nearest`."""
        rows, cosines, vectors = self._index.nearest(query, k + _COPIES * len(self._contents), where)
        kept = [i for i, row in enumerate(rows) if row.content not in self._contents][:k]
        return [rows[i] for i in kept], cosines[kept], vectors[kept]


async def _vector(
    server: Server, library: Library, signed: Sequence[tuple[Part, float]], uploads: Sequence[bytes]
) -> tuple[FloatArray, bool, set[str]]:
    """The unit vector [D] of a search, whether a calibration on texts holds for it, and pictures of the index in it."""
    encoded = [(part.source, sign * part.weight) for part, sign in signed if not part.id]
    encoded += [(Picture(data), 1.0) for data in uploads]
    kept = [(str(part.id), sign * part.weight) for part, sign in signed if part.id]
    summed = np.zeros(server.encoder.dim, np.float32)
    if encoded:
        rows = await server.engine.vectors([source for source, _ in encoded], "query")  # [T, D]
        summed += np.array([weight for _, weight in encoded], np.float32) @ rows
    for key, weight in kept:
        row, _ = await server.engine.work(library.vector_of, key, kind="search")
        summed += weight * row
    length = float(np.linalg.norm(summed))
    if length < 1e-6 * max(sum(abs(weight) for _, weight in [*encoded, *kept]), 1.0):
        raise InputError("the parts of the query cancel each other: change a weight")
    texts_alone = not kept and all(isinstance(source, str) and weight > 0 for source, weight in encoded)
    calibrated = texts_alone and server.encoder.calibration is not None
    return summed / length, calibrated, {key.lower() for key, _ in kept}


def _browse(server: Server, library: Library, body: SearchRequest) -> dict[str, Any]:
    rows = server.holdings[0].rows(body.where)
    found = list(itertools.islice(rows, body.offset, body.offset + body.limit + 1))
    roots = library.roots()
    page = [_facts(server, library.shown(row, roots), row) for row in found[: body.limit]]
    return _answer(server, body, page, len(found) > body.limit)


def _answer(server: Server, body: SearchRequest, hits: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    following = body.offset + body.limit if more and body.offset + body.limit <= 10_000 else None
    return {"object": "list", "data": hits, "model": server.name, "offset": body.offset, "next_offset": following}


def _shown(server: Server, library: Library, hits: Sequence[Hit]) -> list[dict[str, Any]]:
    roots = library.roots()
    return [
        _facts(server, library.shown(hit.row, roots), hit.row)
        | {"score": hit.score, "probability": hit.probability, "folded": [os.path.basename(one) for one in hit.folded]}
        for hit in hits
    ]


def _facts(server: Server, path: str, row: Row) -> dict[str, Any]:
    prefix = f"{server.options.root_path}/v1/files/{row.content}"
    return {
        "id": row.content,
        "path": path,
        "name": os.path.basename(row.path),
        "score": None,
        "probability": None,
        "width": row.width,
        "height": row.height,
        "size": row.size,
        "mtime": row.mtime,
        "taken": row.taken,
        "time": row.time,
        "thumbnail": f"{prefix}/thumbnail" + ("" if row.time is None else f"?time={row.time:g}"),
        "url": prefix if server.options.originals else None,
        "folded": [],
    }
