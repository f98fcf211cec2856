"""A live server on a free port, and a client that is nothing but the standard library's."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from binderclip.search.serving.app import create_app
from binderclip.search.serving.options import Options
from binderclip.search.serving.run import configuration, listen


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        assert set(found) == {"message", "type", "param", "code"}
        assert "\n" not in found["message"]
        return found


class Live:
    """A running server."""

    def __init__(self, options: Options, encoder: Any = None) -> None:
        self.app = create_app(options, encoder)
        self._listener = listen("127.0.0.1", 0)
        self.port = int(self._listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = uvicorn.Server(configuration(self.app, options))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self._thread.start()
        until = time.monotonic() + 30
        while not self._server.started and self._thread.is_alive() and time.monotonic() < until:
            time.sleep(0.005)
        assert self._server.started

    def ask(
        self, method: str, path: str, value: Any = None, *, data: bytes | None = None, headers: Any = None
    ) -> Answer:
        sent = dict(headers or {})
        if value is not None:
            data = json.dumps(value).encode()
            sent = {"Content-Type": "application/json"} | sent
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            link.request(method, path, body=data, headers=sent)
            answer = link.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            link.close()

    def get(self, path: str, **more: Any) -> Answer:
        return self.ask("GET", path, **more)

    def post(self, path: str, value: Any = None, **more: Any) -> Answer:
        return self.ask("POST", path, value, **more)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._listener.close()


@contextlib.contextmanager
def live(db: Path | None, encoder: Any = None, **changes: Any) -> Iterator[Live]:
    """A server for the length of a block."""
    server = Live(replace(Options(db=db), **changes), encoder)
    try:
        yield server
    finally:
        server.stop()


def picture(colour: tuple[int, int, int] = (220, 30, 30), size: tuple[int, int] = (32, 24), kind: str = "PNG") -> bytes:
    """The file of a picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


def data_address(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def unpack(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")
