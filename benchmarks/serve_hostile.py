"""Ten thousand hostile requests: none may end in a 500, and nothing of them may stay behind."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import random
import re
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import record
from benchmarks.serve_kit import Client, holds, request_bytes, server
from binderclip import Index

PATHS = ("/v1/embeddings", "/v1/search", "/v1/classify")
TRICKS = (
    "../ ..%2f %2e%2e/ ....// ..\\ %00 file:///etc/passwd /etc/passwd %ff%fe ;ls ' or 1=1-- %252e%252e%252f".split()
)
WORDS = [
    "input",
    "query",
    "plus",
    "minus",
    "labels",
    "text",
    "image",
    "id",
    "weight",
    "where",
    "limit",
    "offset",
    "fold",
    "model",
]


def drawn(seed: int) -> bytes:
    """The file of a noisy picture."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize(
        (320, 240), Image.Resampling.BICUBIC
    )
    out = io.BytesIO()
    soft.save(out, "JPEG")
    return out.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more than it holds."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 500_000)) + chunk(b"IEND", b"")


def value(rng: random.Random, depth: int = 0) -> Any:
    """JSON of no sense."""
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind < 3:
        return rng.choice(
            [
                None,
                True,
                -1,
                0,
                10**30,
                1e308,
                float("nan"),
                "",
                "a",
                "\ud800",
                "\x00",
                "é" * 300,
                "data:image/png;base64,",
            ]
        )
    if kind < 6:
        return rng.choice(
            [*WORDS, *TRICKS, "http://169.254.169.254/", "(" * 200, "size>1e999", "data:image/svg+xml,<svg/>"]
        )
    if kind < 7:
        return [value(rng, depth + 1) for _ in range(rng.randrange(6))]
    return {rng.choice(WORDS): value(rng, depth + 1) for _ in range(rng.randrange(6))}


def picture(rng: random.Random, real: bytes) -> bytes:
    """A picture that is none: cut, flipped bits, a bomb, another format."""
    kind = rng.randrange(5)
    if kind == 0:
        return real[: rng.randrange(len(real))]
    if kind == 1:
        data = bytearray(real)
        for _ in range(rng.randrange(1, 40)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    if kind == 2:
        return bomb(rng.choice([20_000, 60_000, 2**31 - 1]), rng.choice([1, 20_000, 60_000]))
    return rng.choice(
        [b"", b"%PDF-1.7", b"%!PS EPSF", b"<svg/>", b"GIF89a" + b"\xff" * 40, b"II*\0" + b"\0" * 60, rng.randbytes(300)]
    )


def hostile(rng: random.Random, real: bytes) -> bytes:
    """One request that nobody means well by."""
    kind = rng.randrange(6)
    if kind == 0:
        return request_bytes("POST", rng.choice(PATHS), json.dumps(value(rng)).encode("utf-8", "surrogatepass"))
    if kind == 1:
        text = base64.b64encode(picture(rng, real)).decode()
        text = text if rng.random() < 0.7 else text[: rng.randrange(len(text) + 1)] + rng.choice(["", "=", "@", "é"])
        body = {"input": "data:image/png;base64," + text}
        return request_bytes("POST", "/v1/embeddings", body)
    if kind == 2:
        trick = "".join(rng.choice(TRICKS) for _ in range(rng.randrange(1, 5))).replace(" ", "%20")
        place = rng.choice(
            [
                "/v1/files/",
                "/assets/",
                "/",
                "/v1/models/",
                "/v1/search?q=",
                "/v1/files/" + "0" * 32 + "/thumbnail?size=",
            ]
        )
        return request_bytes(rng.choice(["GET", "HEAD", "PUT", "DELETE"]), place + trick)
    if kind == 3:
        headers = rng.choice(
            ["Host: evil.example\r\n", f"X-Request-ID: {'a' * 500}\r\n", "Cookie: a=\x01\r\n", "X-A: b\r\n" * 60]
        )
        return request_bytes("GET", "/v1/models", headers=headers)
    if kind == 4:
        edge = rng.choice(["x", "", "y" * 80])
        head = f"Content-Type: multipart/form-data; boundary={edge}\r\n"
        body = b"--x\r\nContent-Disposition: form-data; name=image; filename=../a\r\n\r\n" + picture(rng, real)[:2000]
        return request_bytes("POST", "/v1/search/upload", body, head).replace(
            b"Content-Type: application/json\r\n", b"", 1
        )
    return rng.choice(
        [
            b"\x16\x03\x01\x02\x00",
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /v1/search HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
            b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
            b"G\0T / HTTP/1.1\r\n\r\n",
        ]
    )


async def attack(port: int, count: int, real: bytes, statuses: dict[int, int], bad: list[str]) -> None:
    rng = random.Random(0)
    gate = asyncio.Semaphore(16)

    async def one(request: bytes) -> None:
        async with gate:
            client, status = Client(port), 0
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
                status, _ = await asyncio.wait_for(client.ask(request), 30)
            await client.close()
            statuses[status] = statuses.get(status, 0) + 1
            if status >= 500:
                bad.append(repr(request[:300]))

    async def slow() -> None:
        """Says half a request and waits to be shown the door."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            rng.choice([b"", b"GET / HT", b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"])
        )
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(reader.read(), 90)
        writer.close()

    waiting = [asyncio.create_task(slow()) for _ in range(60)]
    for start in range(0, count, 500):
        await asyncio.gather(*(one(hostile(rng, real)) for _ in range(min(500, count - start))))
    await asyncio.gather(*waiting)


def schemathesis(program: str, port: int, examples: int) -> dict[str, Any]:
    """What schemathesis finds with our own OpenAPI description: server errors, and answers it does not promise."""
    command = [
        program,
        "run",
        f"http://127.0.0.1:{port}/openapi.json",
        "--checks",
        "not_a_server_error",
        "--max-examples",
        str(examples),
    ]
    done = subprocess.run([*command, "--seed", "0"], capture_output=True, text=True, check=False, timeout=900)
    cases = re.findall(r"(\d+) generated", done.stdout)
    return {"exit": done.returncode, "cases": sum(map(int, cases[:1])), "tail": done.stdout.strip().splitlines()[-6:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument(
        "--schemathesis", default=os.environ.get("SCHEMATHESIS", ""), help="its program, where there is one"
    )
    given = parser.parse_args()
    real = drawn(0)
    statuses: dict[int, int] = {}
    bad: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "photos").mkdir()
        (Path(place) / "photos" / "a.jpg").write_bytes(real)
        with Index.open(Path(place) / "db", "pocket") as index:
            index.add([Path(place) / "photos"])
        with server(Path(place) / "db") as (port, process):
            asyncio.run(attack(port, given.count, real, {}, bad))
            before = holds(process.pid)
            asyncio.run(attack(port, given.count, real, statuses, bad))
            after = holds(process.pid)
            told = (
                schemathesis(given.schemathesis, port, 150) if given.schemathesis else {"cases": 0, "tail": ["not run"]}
            )
            health = asyncio.run(Client(port).ask(request_bytes("GET", "/healthz")))[0]
    figures = {
        "requests": sum(statuses.values()),
        "statuses": {str(key) if key else "closed": count for key, count in sorted(statuses.items())},
        "server_errors": len(bad),
        "first_errors": bad[:5],
        "before": before,
        "after": after,
        "healthy_after": health == 200,
        "schemathesis": told,
    }
    record(
        "serve_hostile",
        figures,
        wanted="10,000 hostile requests (schemathesis, malformed base64, bombs, path tricks, slow clients): no 500, no leak",
        seed=0,
        data="drawn",
        notes="before and after the second ten thousand: the first fill caches and arenas; 60 slow clients beside each",
    )


if __name__ == "__main__":
    main()
