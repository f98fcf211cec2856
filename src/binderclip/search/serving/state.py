"""What a server holds between requests: the index, the encoder behind its queues, the counters."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from fastapi import Request

from binderclip.errors import BinderclipError
from binderclip.search.base import load_encoder
from binderclip.search.index import DEFAULT_MODEL, LocalIndex
from binderclip.search.serving.engine import Engine
from binderclip.search.serving.failures import ApiError
from binderclip.search.serving.library import Library
from binderclip.search.serving.metrics import Metrics
from binderclip.search.serving.options import Options
from binderclip.search.types import EncoderLike

__all__ = ["Server", "of"]

_FRESH = 5.0  # seconds for which a check of the model holds, so that probes cost nothing
_PATIENCE = 10.0


class Server:
    """One server's parts. The model is loaded here, so that a wrong name is told before a port is opened.

    Args:
        options: what the server was told.
        encoder: instead of the one that the options name.

    Raises:
        IndexStateError: no index there, an empty one, or one without vectors of the model.
        UnknownNameError: no such model.
    """

    def __init__(self, options: Options, encoder: EncoderLike | None = None) -> None:
        self.options, self.metrics, self.started = options, Metrics(), int(time.time())
        self.index = (
            None if options.db is None else LocalIndex(options.db, encoder or options.model, engine=options.engine)
        )
        if self.index is not None:
            self.index.ready()
            self.encoder: EncoderLike = self.index.encoder
            _ = self.index.model  # raises when the index has no vectors of this encoder
        else:
            self.encoder = encoder or load_encoder(options.model or DEFAULT_MODEL, options.engine)
        self.name = os.path.basename(self.encoder.name.rstrip("/")) or "model"
        self.library = None if self.index is None else Library(self.index, full_paths=options.full_paths)
        self.is_ready = False
        self._engine: Engine | None = None
        self._checked = (0.0, "")
        self._checking = asyncio.Lock()

    @property
    def engine(self) -> Engine:
        """The encoder behind its queues, there between `start` and `stop`."""
        if self._engine is None:
            raise ApiError(503, "the server is not running", code="stopping", retry_after=5)
        return self._engine

    @property
    def holdings(self) -> tuple[LocalIndex, Library]:
        """The index and its files.

        Raises:
            ApiError: this server has none.
        """
        if self.index is None or self.library is None:
            raise ApiError(404, "this server has no index: it was started with --no-search", code="no_index")
        return self.index, self.library

    async def start(self) -> None:
        """Opens the queues and warms the model."""
        self._engine = Engine(self.encoder, self.options, self.metrics.batch)
        for lane in (self._engine.texts, self._engine.pictures):
            self.metrics.watch(lane.name, lambda lane=lane: lane.pending)  # type: ignore[misc]
        await self._engine.check()
        self.is_ready = True

    async def stop(self) -> None:
        """Answers what waits, then closes everything."""
        self.is_ready = False
        if self._engine is not None:
            await self._engine.close()
        if self.library is not None:
            self.library.close()
        if self.index is not None:
            self.index.close()

    async def sickness(self) -> str:
        """Why the model does not answer, after a real encoding; empty when it does."""
        async with self._checking:
            moment, found = self._checked
            if moment and time.monotonic() - moment < _FRESH:
                return found
            try:
                await asyncio.wait_for(self.engine.check(), _PATIENCE)
                found = ""
            except TimeoutError:
                found = f"the model did not answer within {_PATIENCE:.0f} seconds"
            except Exception as error:  # whatever it is, the server is sick
                found = (
                    str(error) if isinstance(error, BinderclipError) else f"the model fails ({type(error).__name__})"
                )
            self._checked = (time.monotonic(), found)
            return found

    def check_model(self, asked: str | None) -> None:
        """Raises ApiError when a request asks for a model that is not served."""
        if asked and asked not in (self.name, self.encoder.name, self.encoder.fingerprint):
            message = f"this server serves the model {self.name!r}, not {asked!r}"
            raise ApiError(404, message, code="model_not_found", param="model")

    def describe(self) -> dict[str, Any]:
        """The model as /v1/models lists it."""
        facts: dict[str, Any] = {"id": self.name, "object": "model", "created": self.started, "owned_by": "binderclip"}
        facts |= {"dim": self.encoder.dim, "fingerprint": self.encoder.fingerprint, "modalities": ["text", "image"]}
        facts["calibrated"] = self.encoder.calibration is not None
        if self.index is not None:
            facts["index"] = {"files": self.index.store.counts()["files"], "originals": self.options.originals}
        return facts


def of(request: Request) -> Server:
    """The server that answers a request."""
    server: Server = request.app.state.server
    return server
