"""The door: every request passes here before any of it is read.

It gets an id and a line in the log; its host, key and rate are checked; its size, its time and the number of its like are
bounded, whatever the handler behind does.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from binderclip.search.serving.access import Access, RateLimit
from binderclip.search.serving.failures import ApiError, as_api_error, failure
from binderclip.search.serving.logs import log
from binderclip.search.serving.metrics import Metrics
from binderclip.search.serving.options import Options

__all__ = ["Guard"]

Message = MutableMapping[str, Any]
App = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Any]

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LIMITED = ("/v1/embeddings", "/v1/classify", "/v1/search")  # what makes vectors

_SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


@dataclass
class _Request:
    scope: MutableMapping[str, Any]
    headers: Headers
    id: str
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    read: int = 0
    whole: bool = False  # all of it was read
    done: bool = False  # all of the answer was sent
    error: BaseException | None = None

    @property
    def path(self) -> str:
        """Below the prefix of a proxy."""
        path, root = str(self.scope["path"]), str(self.scope.get("root_path", ""))
        return path.removeprefix(root) if root else path

    @property
    def client(self) -> str:
        held = self.scope.get("client")
        return str(held[0]) if held else "local"


class Guard:
    """ASGI middleware around the whole application.

    Args:
        app: what answers.
        options: the limits.
        metrics: where requests are counted.
    """

    def __init__(self, app: App, options: Options, metrics: Metrics) -> None:
        self.app, self.options, self.metrics = app, options, metrics
        self.access, self.rate = Access(options), RateLimit(options.rate_limit)
        self.active = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        sent = headers.get("x-request-id", "")
        request = _Request(scope, headers, sent if _ID.fullmatch(sent) else uuid.uuid4().hex)
        scope.setdefault("state", {})["request_id"] = request.id
        self.active += 1
        self.metrics.active.set(self.active)
        try:
            await self._answer(request, receive, send)
        finally:
            self.active -= 1
            self.metrics.active.set(self.active)
            self._tell(request)

    async def _answer(self, request: _Request, receive: Any, send: Any) -> None:
        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                held = {name for name, _ in message["headers"]}
                extra = [pair for pair in _SAFE if pair[0] not in held]
                message["headers"] = [*message["headers"], *extra, (b"x-request-id", request.id.encode())]
            await send(message)
            request.done = message["type"] == "http.response.body" and not message.get("more_body", False)

        async def take() -> Message:
            message: Message = await receive()
            request.read += len(message.get("body", b""))
            request.whole = not message.get("more_body", False)
            if request.read > self.options.max_body:
                # Of this kind alone FastAPI makes no 400 of its own while it reads a body.
                raise HTTPException(413, self._too_large().message)
            return message

        try:
            async with asyncio.timeout(self.options.timeout):
                try:
                    self._check(request)
                    await self.app(request.scope, take, reply)
                except Exception as error:  # a bug must not take the connection with it
                    await self._fail(request, error, reply)
        except TimeoutError:
            if not request.status:
                ours = request.whole or request.headers.get("content-length", "0") == "0"
                request.error = TimeoutError("over time") if ours else None
                answer = failure(_late() if ours else _slow())
                answer.headers["Connection"] = "close"  # the rest of a slow body is not waited for either
                await answer(request.scope, receive, reply)

    async def _fail(self, request: _Request, error: Exception, reply: Any) -> None:
        told = as_api_error(error)
        if told.status >= 500:
            request.error = error
        if request.done:
            return
        if request.status:
            raise error  # half an answer is out: all that is left is to close the connection
        await failure(told)(request.scope, _nothing, reply)

    def _check(self, request: _Request) -> None:
        """Raises ApiError for what goes no further."""
        if not self.access.knows_host(request.headers):
            raise self._refuse("host", ApiError(400, "this host name is not served: allow it with --allow-host"))
        if self.active > self.options.max_requests:
            raise self._refuse("requests", ApiError(429, "too many requests at once", code="busy", retry_after=1))
        key: int | None = 0
        if request.path.startswith("/v1/"):
            key = self.access.key_of(request.headers)
            if key is None:
                message = "a key is needed: send it as Authorization: Bearer KEY"
                raise self._refuse("key", ApiError(401, message, code="invalid_api_key"))
        request.scope["state"]["key"] = key
        if request.path.startswith(_LIMITED):
            wait = self.rate.wait(f"{key} {request.client}")
            if wait:
                raise self._refuse("rate", ApiError(429, "too many requests", code="rate_limited", retry_after=wait))
        length = request.headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or len(length) > 15 or int(length) > self.options.max_body:
            raise self._refuse("size", self._too_large())

    def _refuse(self, reason: str, error: ApiError) -> ApiError:
        self.metrics.rejected.labels(reason).inc()
        return error

    def _too_large(self) -> ApiError:
        return ApiError(413, f"a request may have at most {self.options.max_body:,} bytes", code="too_large")

    def _tell(self, request: _Request) -> None:
        route = getattr(request.scope.get("route"), "path", None) or "other"
        seconds = time.perf_counter() - request.started
        method = request.scope["method"] if request.scope["method"] in _METHODS else "OTHER"
        self.metrics.answered(method, route, request.status, seconds)
        quiet = route in ("/healthz", "/readyz", "/metrics") and request.status < 400
        level = logging.ERROR if request.status >= 500 or request.error else logging.DEBUG if quiet else logging.INFO
        fields = {"method": method, "path": request.path[:200], "status": request.status}
        timing = {"ms": round(1000 * seconds, 1), "bytes_in": request.read, "client": request.client}
        log("request", level=level, error=request.error, request_id=request.id, **fields, **timing)


def _late() -> ApiError:
    return ApiError(503, "the request took too long: send less, or try again", code="timeout", retry_after=1)


def _slow() -> ApiError:
    return ApiError(408, "the request did not come in time: send it faster, or in parts", code="timeout")


_METHODS = frozenset("GET HEAD POST PUT DELETE OPTIONS PATCH".split())


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
