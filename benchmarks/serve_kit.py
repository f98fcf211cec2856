"""For the benchmarks of the server: a server in a process of its own, a lean client, and what the process holds."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import shared_data

SERVER = """
import sys
from pathlib import Path
from binderclip.search.serving.options import Options
from binderclip.search.serving.run import serve
db, port = sys.argv[1], int(sys.argv[2])
serve(Options(db=Path(db) if db else None, port=port), log_level="warning",
      on_start=lambda address: print(address, flush=True))
"""


@contextlib.contextmanager
def server(
    db: Path | None = None, *, program: str = SERVER, port: int = 0
) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """(port, process) of a running server; it is told to stop at the end, and must do so well."""
    # One thread for the model: the client needs the other core.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(db or ""), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        found = re.search(r":(\d+)$", process.stdout.readline().strip())
        assert found, "the server did not start"
        try:
            yield int(found[1]), process
        finally:
            process.terminate()
            process.wait(60)


def request_bytes(method: str, path: str, body: Any = None, headers: str = "") -> bytes:
    """One HTTP request as it goes over the wire."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "Content-Type: application/json\r\n" if data else ""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{kind}{headers}Content-Length: {len(data)}\r\n\r\n".encode()
        + data
    )


class Client:
    """One connection that is kept: little enough that the server is what is measured."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of one request's answer."""
        if self._link is None:
            self._link = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        reader, writer = self._link
        try:
            writer.write(request)
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = re.search(rb"content-length: (\d+)", head)
            body = await reader.readexactly(int(size[1])) if size and not request.startswith(b"HEAD") else b""
        except (OSError, asyncio.IncompleteReadError):
            await self.close()
            raise
        if b"connection: close" in head:
            await self.close()
        return int(head.split(b" ", 2)[1]), body

    async def close(self) -> None:
        """Ends the connection."""
        if self._link is not None:
            self._link[1].close()
            with contextlib.suppress(OSError):
                await self._link[1].wait_closed()
            self._link = None


def holds(pid: int) -> dict[str, float]:
    """Megabytes, file descriptors, threads and CPU seconds of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    times = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return {
        "rss_mb": int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024,
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(re.findall(r"Threads:\s+(\d+)", status)[0]),
        "cpu_s": (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"),
    }


def captions() -> list[str]:
    """Distinct captions of photos."""
    import pyarrow.parquet as pq

    rows = pq.read_table(shared_data() / "flickr8k_captions.parquet", columns=["captions"]).column(0).to_pylist()
    return sorted({text for row in rows for text in row})


def photos() -> list[bytes]:
    """Files of photos."""
    import pyarrow.parquet as pq

    return list(pq.read_table(shared_data() / "imagenet1k_photos.parquet", columns=["image"]).column(0).to_pylist())


def embedding(source: str | bytes) -> bytes:
    """The request for the vector of a text or of a photo."""
    if isinstance(source, bytes):
        source = "data:image/jpeg;base64," + base64.b64encode(source).decode()
    return request_bytes("POST", "/v1/embeddings", {"input": source, "encoding_format": "base64"})


async def ticks(seconds: float) -> AsyncIterator[float]:
    """The time now and then, until it is up."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        yield loop.time()
        await asyncio.sleep(0)
