"""POST /v1/embeddings (OpenAI's) and POST /v1/classify."""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from binderclip.data.templates import check_names, class_vectors, templates
from binderclip.search.serving.engine import Engine, Picture
from binderclip.search.serving.failures import ApiError, as_api_error
from binderclip.search.serving.schemas import ClassifyRequest, EmbeddingRequest, read_input
from binderclip.search.serving.state import Server, of
from binderclip.search.types import FloatArray

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["vectors"])

_TOKENS = (
    "arrays of token ids are of OpenAI's vocabulary, which this model does not have: send texts"
    " (in LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
)
_KEPT_CLASSES = 16
_MOST_SENTENCES = 20_000  # of one classification: names with their synonyms, times templates
_SENTENCES = 256  # of a classification that are in the queue at once


@router.post("/embeddings", summary="Unit vectors of texts and pictures, in OpenAI's schema")
async def embeddings(body: EmbeddingRequest, request: Request) -> JSONResponse:
    """OpenAI's request and answer: unit vectors of texts and pictures in one space, in the order of the inputs."""
    server = of(request)
    server.check_model(body.model)
    if body.dimensions not in (None, server.encoder.dim):
        message = f"vectors of {server.name} have {server.encoder.dim} dimensions: leave `dimensions` out"
        raise ApiError(400, message, param="dimensions", code="unsupported_value")
    inputs = _inputs(server, body.input, body.modality)
    counts = await server.engine.count(inputs)
    rows = await server.engine.vectors(inputs, counts=counts)
    usage = _usage(server.engine, counts, len(inputs))
    as_list = body.encoding_format == "float"
    data = [
        {"object": "embedding", "index": i, "embedding": row.tolist() if as_list else _packed(row)}
        for i, row in enumerate(rows)
    ]
    # Written out here: FastAPI would look at each of the numbers once more.
    return JSONResponse({"object": "list", "data": data, "model": server.name, "usage": usage})


@router.post("/classify", summary="Name pictures with words of your own")
async def classify(body: ClassifyRequest, request: Request) -> dict[str, Any]:
    """Classes of each input, best first: cosine, and softmax over the classes. An input that fails has an `error`."""
    server = of(request)
    server.check_model(body.model)
    check_names(body.labels)
    inputs = _inputs(server, body.input, body.modality)
    counts = await server.engine.count(inputs)
    found = await server.engine.encode(inputs, counts)
    classes = await _class_vectors(server, request.app.state.classes, body)
    scale = float(getattr(server.encoder, "logit_scale", 100.0))
    data: list[dict[str, Any]] = []
    for i, row in enumerate(found):
        if isinstance(row, Exception):
            data.append({"object": "classification", "index": i, "error": as_api_error(row).as_json()})
        else:
            ranked = _rank(classes @ row, body.labels, scale)[: body.top]
            data.append({"object": "classification", "index": i, "classes": ranked})
    return {"object": "list", "data": data, "model": server.name, "usage": _usage(server.engine, counts, len(inputs))}


def _inputs(server: Server, given: Any, modality: str | None) -> list[str | Picture]:
    listed = [given] if isinstance(given, str) else list(given)
    if any(not isinstance(one, str) for one in listed):
        raise ApiError(400, _TOKENS, param="input", code="token_ids")
    if not listed:
        raise ApiError(400, "the input is empty: give at least one text or picture", param="input")
    if len(listed) > server.options.max_inputs:
        message = f"{len(listed):,} inputs: at most {server.options.max_inputs:,} in one request"
        raise ApiError(400, message, param="input", code="too_many_inputs")
    return [read_input(one, modality) for one in listed]


def _usage(engine: Engine, counts: Sequence[int], inputs: int) -> dict[str, int]:
    read = sum(min(count, engine.context) for count in counts)
    cut = sum(count > engine.context for count in counts)
    usage = {"prompt_tokens": read, "total_tokens": read, "images": inputs - len(counts)}
    return usage | ({"truncated": cut} if cut else {})


def _packed(row: FloatArray) -> str:
    return base64.b64encode(np.asarray(row, dtype="<f4").tobytes()).decode()


def _rank(cosines: FloatArray, labels: Sequence[str], scale: float) -> list[dict[str, Any]]:
    logits = scale * cosines.astype(np.float64)
    chances = np.exp(logits - logits.max())
    chances /= chances.sum()
    order = np.argsort(-logits, kind="stable")
    return [{"label": labels[i], "score": float(cosines[i]), "probability": float(chances[i])} for i in order]


class _Sentences:
    """`encode_text` for a thread that waits: the texts take their turn in the queue, a part at a time."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine, self._loop = engine, loop
        self.is_wanted = True

    def encode_text(self, texts: Sequence[str]) -> FloatArray:
        parts = []
        for start in range(0, len(texts), _SENTENCES):
            if not self.is_wanted:
                raise TimeoutError("nobody waits for these classes")
            job = self._engine.vectors(list(texts[start : start + _SENTENCES]), "labels")
            waiting: Future[FloatArray] = asyncio.run_coroutine_threadsafe(job, self._loop)
            parts.append(waiting.result())
        return np.concatenate(parts)


async def _class_vectors(server: Server, kept: OrderedDict[Any, FloatArray], body: ClassifyRequest) -> FloatArray:
    """Unit class vectors [T, D]; those asked for lately are kept."""
    template = body.template if isinstance(body.template, str) else list(body.template)
    key = (tuple(body.labels), template if isinstance(template, str) else tuple(template))
    if key in kept:
        kept.move_to_end(key)
        return kept[key]
    count = sum(name.count("|") + 1 for name in body.labels) * len(templates(template))
    if count > _MOST_SENTENCES:
        message = f"{count:,} sentences: at most {_MOST_SENTENCES:,} (names with synonyms, times templates)"
        raise ApiError(400, message, param="labels", code="too_many_inputs")
    sentences = _Sentences(server.engine, asyncio.get_running_loop())
    try:
        # A thread of its own: one of the workers could wait for a worker.
        vectors = await asyncio.to_thread(class_vectors, sentences, body.labels, template)
    finally:
        sentences.is_wanted = False
    kept[key] = vectors
    while len(kept) > _KEPT_CLASSES:
        kept.popitem(last=False)
    return vectors
