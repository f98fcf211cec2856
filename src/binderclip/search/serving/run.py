"""Runs a server until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from binderclip.errors import InputError
from binderclip.search.serving.app import create_app
from binderclip.search.serving.logs import log, set_up
from binderclip.search.serving.options import Options

__all__ = ["configuration", "listen", "serve"]

_HEADERS = 15.0  # seconds in which a client must have sent a whole head, from its connection or its last answer on
_IDLE = 30  # seconds that a connection is kept for another request
_HEAD_BYTES = 32 * 1024


class _PatientNoLonger(H11Protocol):
    """uvicorn's protocol, which would wait for ever for a client that opens a connection and says half a line."""

    _alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wind()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._unwind()  # a request has begun: from here on the guard keeps the time
        elif self._alarm is None and (before is None or before.response_complete):
            self._wind()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwind()
        super().connection_lost(exc)

    def _wind(self) -> None:
        self._alarm = self.loop.call_later(_HEADERS, self.transport.close)

    def _unwind(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        InputError: the address is not this machine's, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named asyncio sends small answers at once; otherwise each would wait 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
        return listener
    except OSError as error:
        listener.close()
        why = error.strerror or str(error)
        raise InputError(
            f"cannot listen on {host} port {port} ({why}): choose another --port (0: a free one)"
        ) from None


def configuration(app: Any, options: Options) -> uvicorn.Config:
    """How uvicorn runs an application of ours."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=_PatientNoLonger,
        ws="none",
        lifespan="on",
        server_header=False,
        root_path=options.root_path,
        proxy_headers=bool(options.trust_proxy),
        forwarded_allow_ips=list(options.trust_proxy),
        timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=max(int(options.drain), 1),
        h11_max_incomplete_event_size=_HEAD_BYTES,
    )


def serve(options: Options, *, log_level: str = "info", on_start: Callable[[str], None] | None = None) -> None:
    """Serves until SIGTERM or Ctrl-C, then answers what is at work and returns.

    Args:
        options: what the server is told.
        log_level: debug, info, warning or error.
        on_start: called with the address once the port is open.

    Raises:
        IndexStateError: no index there, an empty one, or one without vectors of the model.
        InputError: an option that cannot be, or a port that is taken.
    """
    app = create_app(options)
    listener = listen(options.host, options.port)
    shown = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{shown}:{listener.getsockname()[1]}{options.root_path}"
    set_up(log_level)
    server = _Server(configuration(app, options), lambda: _started(address, on_start))
    # uvicorn raises the signal that stopped it once more at the end; a server that was told to stop has not failed.
    held = {one: signal.signal(one, _no_more) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listener])
    finally:
        for one, handler in held.items():
            signal.signal(one, handler)
        listener.close()
    log("stopped", address=address)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()


def _started(address: str, on_start: Callable[[str], None] | None) -> None:
    log("started", address=address)
    if on_start is not None:
        on_start(address)


def _no_more(*_: Any) -> None:
    return None
