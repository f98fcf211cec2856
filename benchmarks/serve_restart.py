"""kill -9 under load: every request is answered in the end, each with the offline vector, and the index is whole."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import record
from benchmarks.serve_hostile import drawn
from benchmarks.serve_kit import Client, embedding, server
from binderclip import Encoder, Index


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def supervise(db: Path, port: int, kills: int, stop: threading.Event, down: list[float]) -> None:
    """Starts the server again whenever it is killed, and kills it now and then."""
    for left in range(kills, -1, -1):
        with server(db, port=port) as (_, process):
            if down and down[-1] < 0:
                down[-1] += time.monotonic()
            if left == 0:
                stop.wait()
            else:
                stop.wait(2.0)
                down.append(-time.monotonic())
                process.send_signal(signal.SIGKILL)
                process.wait(30)


async def ask_all(port: int, texts: list[str], clients: int) -> tuple[dict[str, np.ndarray], int]:
    """Every text's vector, however often it has to be asked for."""
    found: dict[str, np.ndarray] = {}
    again = 0
    ahead = iter(texts)

    async def one() -> None:
        nonlocal again
        client = Client(port)
        for text in ahead:
            while text not in found:
                try:
                    status, body = await client.ask(embedding(text))
                    if status == 200:
                        packed = json.loads(body)["data"][0]["embedding"]
                        found[text] = np.frombuffer(base64.b64decode(packed), "<f4")
                        break
                except (OSError, asyncio.IncompleteReadError):
                    await client.close()
                again += 1
                await asyncio.sleep(0.05)
        await client.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    return found, again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    given = parser.parse_args()
    texts = [
        f"{colour} {thing} number {i}"
        for i in range(250)
        for colour in ("red", "blue", "old", "wet")
        for thing in ("car", "boat", "dog")
    ]
    encoder = Encoder("pocket", threads=1)
    down: list[float] = []
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as place:
        folder, db, port = Path(place) / "photos", Path(place) / "db", free_port()
        folder.mkdir()
        for i in range(40):
            (folder / f"{i}.jpg").write_bytes(drawn(i))
        with Index.open(db, encoder) as index:
            index.add([folder])
        thread = threading.Thread(target=supervise, args=(db, port, given.kills, stop, down))
        thread.start()
        found: dict[str, np.ndarray] = {}
        again = rounds = 0
        while len(down) < given.kills or not rounds:
            found, more = asyncio.run(ask_all(port, texts, 16))
            again, rounds = again + more, rounds + 1
        stop.set()
        thread.join()
        with Index.open(db, encoder) as index:
            faults: Any = index.verify(deep=True)  # type: ignore[attr-defined]
    offline = encoder.encode_text(texts)
    worst = max(float(np.abs(found[text] - row).max()) for text, row in zip(texts, offline, strict=True))
    figures = {
        "kills": given.kills,
        "requests": len(texts) * rounds,
        "unanswered": len(texts) - len(found),
        "asked_again": again,
        "worst_difference": worst,
        "down_s": [round(one, 2) for one in down],
        "index_faults": faults,
    }
    record(
        "serve_restart",
        figures,
        wanted="kill -9 and restart under load with nothing lost",
        data="drawn",
        notes="16 clients that ask again until they are answered; the server is started again at once by its supervisor",
    )


if __name__ == "__main__":
    main()
