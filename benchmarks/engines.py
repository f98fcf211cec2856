"""Engines side by side on the embedded models, and int8 against float. `python -m benchmarks.engines`.

Each engine is timed in turn with ONNX Runtime's float graph, one thread each, so that a noisy machine disturbs both alike.
int8: calibrated and checked on disjoint test photos and labelled small pictures.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.common import digest, is_test, record, shared_data, versus
from binderclip import Encoder
from binderclip.compress.quantize import Limits, quantize

BATCH, LABELLED = 8, 2000
TABLES = ("imagenet1k_photos", "tiny_imagenet")


def pictures(table: str, count: int) -> tuple[list[Image.Image], list[str]]:
    """The first test rows and their names."""
    rows = pq.read_table(shared_data() / f"{table}.parquet", columns=["id", "image", "name"]).to_pylist()
    kept = [row for row in rows if is_test(row["id"]) or table == "imagenet1k_photos"]
    kept = kept[:: max(len(kept) // count, 1)][:count]
    return [Image.open(io.BytesIO(row["image"])).convert("RGB") for row in kept], [row["name"] for row in kept]


def pair(model: str, ours: Encoder, peer: Encoder) -> dict[str, float]:
    """Pictures and texts a second of two encoders, and their ratio."""
    size = peer.preprocess.size
    pixels = np.random.default_rng(0).standard_normal((BATCH, 3, size, size), dtype=np.float32)
    images = versus(lambda: ours.towers.image(pixels), lambda: peer.towers.image(pixels), repeat=9)
    ids, eos = peer.tokenizer(["a red bicycle leaning on a wall"])
    texts = versus(lambda: ours.towers.text(ids, eos), lambda: peer.towers.text(ids, eos), repeat=25)
    found = {
        "images/s": round(BATCH / images["ours"], 1),
        "onnx images/s": round(BATCH / images["peer"], 1),
        "images: times onnx": round(images["ratio"], 2),
        "text: times onnx": round(texts["ratio"], 2),
    }
    print(model, found, flush=True)
    return found


def main() -> None:
    """Measure and record."""
    figures: dict[str, Any] = {}
    for model in ("pocket", "pocket-vit"):
        peer = Encoder(model, threads=1, engine="onnx")
        for engine in ("openvino", "torch"):
            figures[f"{model} on {engine}"] = pair(f"{model} {engine}", Encoder(model, threads=1, engine=engine), peer)
        for table, count in (("imagenet1k_photos", 645), ("tiny_imagenet", LABELLED)):
            images, names = pictures(table, count)
            with tempfile.TemporaryDirectory() as place:
                out = Path(place) / "int8"
                checks = quantize(model, out, images, names if table == "tiny_imagenet" else None, force=True)
                small = Encoder(str(out), threads=1, engine="onnx")
                how: Any = small.config["quantized"]["image"]
                figures[f"{model} in int8, {table}"] = {
                    **{k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(checks).items()},
                    "image tower": how["how"] + (f", {how['float']} convolutions in float" if "float" in how else ""),
                    "below the limits": checks.problems(Limits()),
                    **pair(f"{model} int8", small, peer),
                }
            print(figures[f"{model} in int8, {table}"], flush=True)
    record(
        "engines",
        figures,
        seed=0,
        data=digest(*(shared_data() / f"{table}.parquet" for table in TABLES)),
        wanted="int8: cosine, zero-shot accuracy within 0.5 points, top 10 of 100 searches overlapping by 95 %",
        notes=f"one thread, batches of {BATCH}; 'times onnx' is the peer's time over ours in one run (over 1: faster than "
        "ONNX Runtime in float); calibration pictures and compared pictures are disjoint",
    )


if __name__ == "__main__":
    main()
