"""Texts and photos a second, at 1, 8, 64 and 200 clients: our server against the same encoder behind plain FastAPI.

The plain server is what one writes in an afternoon: the same embedded model, the same decoding, one encoding a request in
FastAPI's own threads, no queue and no batches. Both answer in base64. Every text is asked once, so that no cache helps.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from typing import Any

from benchmarks.common import percentile, record
from benchmarks.serve_kit import Client, captions, embedding, photos, server

PLAIN = """
import base64, socket, sys
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from binderclip import Encoder

class Body(BaseModel):
    input: str
    encoding_format: str = "base64"

app, encoder = FastAPI(), Encoder("pocket")

@app.post("/v1/embeddings")
def embeddings(body: Body):
    if body.input.startswith("data:image/"):
        row = encoder.encode_image([base64.b64decode(body.input.split(",", 1)[1])])[0]
    else:
        row = encoder.encode_text([body.input])[0]
    vector = base64.b64encode(row.astype("<f4").tobytes()).decode()
    return {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": vector}], "model": "pocket"}

encoder.encode_text(["warm"])
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
listener.bind(("127.0.0.1", 0))
listener.listen(1024)
print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning")).run(sockets=[listener])
"""
CLIENTS = (1, 8, 64, 200)


async def load(port: int, requests: Any, clients: int, seconds: float) -> dict[str, float]:
    """A closed loop: each client asks again as soon as it is answered."""
    times: list[float] = []
    failed = 0

    async def one() -> None:
        nonlocal failed
        client = Client(port)
        while time.perf_counter() < until:
            start = time.perf_counter()
            try:
                status, _ = await client.ask(next(requests))
            except (OSError, asyncio.IncompleteReadError):
                status = 0
            if status == 200:
                times.append(1000 * (time.perf_counter() - start))
            else:
                failed += 1
        await client.close()

    began = time.perf_counter()
    until = began + seconds
    await asyncio.gather(*(one() for _ in range(clients)))
    passed = time.perf_counter() - began
    return {
        "per_s": round(len(times) / passed, 1),
        "p50_ms": round(percentile(times, 50), 1),
        "p99_ms": round(percentile(times, 99), 1),
        "failed": failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    seconds = parser.parse_args().seconds
    texts = (embedding(f"{text} {turn}" if turn else text) for turn in itertools.count() for text in captions())
    pictures = itertools.cycle([embedding(photo) for photo in photos()[:200]])
    figures: dict[str, Any] = {}
    with server() as (ours, _), server(program=PLAIN) as (plain, _):
        for kind, requests in (("text", texts), ("image", pictures)):
            for port in (ours, plain):
                asyncio.run(load(port, requests, 4, 1.5))  # warm
            for clients in CLIENTS:
                row: dict[str, Any] = {
                    name: asyncio.run(load(port, requests, clients, seconds))
                    for name, port in (("ours", ours), ("plain", plain))
                }
                row["speedup"] = round(row["ours"]["per_s"] / max(row["plain"]["per_s"], 1e-9), 2)
                figures[f"{kind}, {clients} clients"] = row
                print(kind, clients, row, flush=True)
    record(
        "serve_load",
        figures,
        wanted="image and text queries/s, p50/p99 at 1, 8, 64, 200 clients against the same encoder without batching",
        data="captions of flickr8k, each once; 200 photos of imagenet1k",
        notes=f"{seconds:g} s a cell, closed loop; servers and client share two cores with other work: compare within a row",
    )


if __name__ == "__main__":
    main()
