"""From a model's name to towers that run: which engine, which graphs, which fingerprint.

``auto`` takes what ``binderclip tune`` found on this machine; untuned, ONNX Runtime where the checkpoint has graphs, else
torch. ``onnx`` and ``openvino`` export a checkpoint that has no graphs once, into the cache folder, by its fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from binderclip.engine.calibration import Calibration
from binderclip.engine.onnx import OnnxTowers
from binderclip.engine.tuned import ENGINES, Tuned, read_tuned
from binderclip.errors import InputError, NeedsExtraError, UnknownNameError
from binderclip.hub.embedded import checkpoint_folder
from binderclip.model.preprocess import Preprocess
from binderclip.model.tokenizer import Tokenizer

__all__ = ["Opened", "Towers", "fingerprint_of", "open_model", "read_config", "shared_towers"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Towers(Protocol):
    """What runs the two towers: ONNX Runtime, OpenVINO or torch."""

    def image(self, pixels: Floats) -> Floats:
        """``[N, 3, H, W]`` normalised pixels -> ``[N, D]``."""
        ...

    def text(self, ids: Ints, eos: Ints) -> Floats:
        """``[N, L]`` ids and ``[N]`` end positions -> ``[N, D]``."""
        ...


@dataclass(frozen=True)
class Opened:
    """A model ready to run.

    Attributes:
        towers: what runs it.
        engine: ``onnx``, ``openvino`` or ``torch``.
        config: of its folder, with ``embed_dim``.
        tokenizer: of its texts.
        preprocess: of its pictures.
        fingerprint: 16 hexadecimal digits; equal on every engine.
        calibration: from cosines to probabilities, where the model has one.
        batch: pictures a call; ``None`` where nothing was tuned.
    """

    towers: Towers
    engine: str
    config: dict[str, Any]
    tokenizer: Tokenizer
    preprocess: Preprocess
    fingerprint: str
    calibration: Calibration | None
    batch: int | None = None


def open_model(name: str, threads: int | None = None, engine: str | None = None) -> Opened:
    """Open a model.

    Args:
        name: whatever ``Encoder`` takes.
        threads: for the model; ``None``: as tuned, or every core.
        engine: one of ``auto onnx openvino torch``; ``None``: the variable ``BINDERCLIP_ENGINE``, or ``auto``.

    Raises:
        InputError: no such engine.
        UnknownNameError: no such model.
        CheckpointError: files missing or damaged.
        NeedsExtraError: what the engine needs is not installed.
    """
    asked = engine or os.environ.get("BINDERCLIP_ENGINE") or "auto"
    if asked not in ENGINES:
        raise InputError(f"{asked!r} is no engine: give one of {', '.join(ENGINES)}")
    folder = checkpoint_folder(name)
    config = {} if folder is None else read_config(folder)
    shares = shared_towers(config)
    if folder is not None and OnnxTowers.serves(folder, shares):
        fingerprint = fingerprint_of(folder, config)
        tuned = _tuned(asked, fingerprint)
        kind = tuned.engine or ("onnx" if asked == "auto" else asked)
        if kind != "torch":
            return _graphs(kind, folder, config, shares, threads or tuned.threads, fingerprint, tuned.batch)
        return _torch(name, threads or tuned.threads, fingerprint, tuned.batch)
    opened = _torch(name, threads)
    tuned = _tuned(asked, opened.fingerprint)
    kind = tuned.engine or ("torch" if asked == "auto" else asked)
    if kind == "torch":
        return opened
    folder = exported(opened)
    return _graphs(kind, folder, read_config(folder), {}, threads or tuned.threads, opened.fingerprint, tuned.batch)


def _tuned(asked: str, fingerprint: str) -> Tuned:
    """What was measured here; nothing where an engine is asked for by name."""
    return read_tuned(fingerprint) if asked == "auto" else Tuned()


def _graphs(
    kind: str,
    folder: Path,
    config: dict[str, Any],
    shares: dict[str, Path],
    threads: int | None,
    fingerprint: str,
    batch: int | None,
) -> Opened:
    towers: Towers
    if kind == "openvino":
        from binderclip.engine.openvino import OpenVinoTowers

        towers = OpenVinoTowers(folder, threads, shares)
    else:
        towers = OnnxTowers(folder, threads, shares)
    return Opened(
        towers,
        kind,
        config,
        Tokenizer.from_config(config["tokenizer"], folder),
        Preprocess.from_dict(config["preprocess"]),
        fingerprint,
        Calibration.load(folder, config),
        batch,
    )


def _torch(name: str, threads: int | None, fingerprint: str | None = None, batch: int | None = None) -> Opened:
    from binderclip.engine.torch_towers import TorchTowers

    towers = TorchTowers(name, threads)
    mark = fingerprint or towers.fingerprint
    return Opened(towers, "torch", towers.config, towers.tokenizer, towers.preprocess, mark, towers.calibration, batch)


def exported(opened: Opened) -> Path:
    """The folder of graphs of a torch model, made at its first use; whole or not there."""
    from binderclip.hub.cache import cache_folder

    place = cache_folder() / "exports" / opened.fingerprint
    if OnnxTowers.serves(place):
        return place
    clip = getattr(opened.towers, "clip", None)
    if clip is None:  # pragma: no cover - only torch models come here
        raise UnknownNameError("nothing to export")
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise NeedsExtraError("running this model on another engine", "export") from None
    from binderclip.engine.torch_export import export_onnx
    from binderclip.hub import native

    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".making-") as work:
        native.save(clip, Path(work) / "made")
        export_onnx(clip, Path(work) / "made")
        shutil.rmtree(place, ignore_errors=True)
        os.replace(Path(work) / "made", place)
    return place


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint folder."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def shared_towers(config: dict[str, Any]) -> dict[str, Path]:
    """Tower to folder of the embedded model whose tower it is; empty for a model that has all its own."""
    found = {tower: checkpoint_folder(owner) for tower, owner in config.get("shares", {}).items()}
    return {tower: place for tower, place in found.items() if place is not None}


def fingerprint_of(folder: Path, config: dict[str, Any]) -> str:
    """16 hexadecimal digits that change when the vectors may change: weights, preprocess, tokenizer, int8 graphs."""
    digest = hashlib.sha256()
    for place in (folder, *shared_towers(config).values()):
        with open(place / "model.safetensors", "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    digest.update(json.dumps([config["preprocess"], config["tokenizer"]], sort_keys=True).encode())
    if "quantized" in config:  # its graphs hold weights of their own
        digest.update(json.dumps(config["quantized"], sort_keys=True).encode())
    return digest.hexdigest()[:16]
