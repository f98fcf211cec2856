"""``load``: a CLIP from a name, a folder or a file, whatever its layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from binderclip.errors import CheckpointError
from binderclip.hub import native
from binderclip.hub.embedded import embedded_models
from binderclip.hub.files import read_weights
from binderclip.hub.hints import Hints, from_hf, from_open_clip, from_openai
from binderclip.hub.infer import infer_config
from binderclip.hub.jsons import read_json
from binderclip.hub.layout_tables import HF_CLIP, HF_SIGLIP, open_clip_layout
from binderclip.hub.layouts import Layout, from_layout
from binderclip.hub.torchscript import is_torchscript
from binderclip.hub.zoo import find, resolve
from binderclip.model.build import FORMAT, build
from binderclip.model.clip import CLIP

__all__ = ["detect_layout", "load"]

CLIP_VOCABULARY = 49408
OPEN_CLIP_CONFIG = "open_clip_config.json"
# In the order they are looked for; the first that is there is read.
WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "model.pt",
)


def load(name: str | Path, *, activation: str | None = None, verify: bool = True) -> CLIP:
    """A CLIP in eval mode, weights as float32.

    Args:
        name: an embedded model (``pocket``), a published name (``ViT-B-32/openai``, ``google/siglip-base-patch16-224``),
            a folder as the hub serves it, or a file of weights.
        activation: ``gelu`` or ``quick_gelu``, for a bare file of weights that does not tell.
        verify: compare the stored probe of binderclip's own checkpoints.

    Returns:
        The model; ``clip.config`` holds its towers, activation and preprocess, and where it came from.

    Raises:
        CheckpointError: truncated, of an unknown layout, or incomplete; the line says what to do.
        UnknownNameError: no such file, folder or published name; close ones are named.
        OfflineError: it must be downloaded and the network does not answer.
    """
    path = Path(name)
    embedded = embedded_models()
    if str(name) in embedded:
        return native.load(embedded[str(name)], verify=verify)
    if path.is_file():
        return _from_file(path, activation)
    if path.is_dir():
        return _from_folder(path, activation, verify)
    entry = find(str(name))
    clip = _from_folder(resolve(str(name)), activation or entry.activation, verify)
    clip.config |= {"name": entry.name}
    return clip


def detect_layout(state: Mapping[str, Tensor]) -> Layout:
    """Which published layout a state dict is in, by its keys.

    Raises:
        CheckpointError: none that is known.
    """
    if any(k.startswith(("image.", "towers.")) for k in state):
        raise CheckpointError("these are binderclip's own weights: load their folder, with its config.json")
    if any(k.startswith("vision_model.") for k in state):
        return HF_SIGLIP if "logit_bias" in state or "vision_model.head.probe" in state else HF_CLIP
    if any(k.startswith("visual.") for k in state):
        return open_clip_layout(state)
    some = ", ".join(list(state)[:2])
    raise CheckpointError(
        f"no CLIP that is known names its weights {some}: OpenAI, open_clip and Hugging Face layouts are"
    )


def _from_file(path: Path, activation: str | None) -> CLIP:
    if path.suffix == ".json":
        raise CheckpointError(f"{path.name} is a config: give its folder, or the file of weights")
    if (path.parent / "config.json").is_file() and path.name in (native.WEIGHTS, *WEIGHT_FILES):
        return _from_folder(path.parent, activation, True)
    state = read_weights(path)
    layout = detect_layout(state)
    if layout.name != "OpenAI":
        raise CheckpointError(
            f"{path.name} is in the {layout.name} layout, which needs its config: give its whole folder"
        )
    ours = from_layout(state, layout)
    # Only OpenAI's own archives are known to be theirs; all of them use the quick approximation.
    activation = activation or ("quick_gelu" if is_torchscript(path) or "input_resolution" in state else None)
    if activation is None:
        raise CheckpointError(
            f"{path.name} does not tell its activation: load(..., activation='quick_gelu') for OpenAI's models, "
            "'gelu' for most of open_clip's"
        )
    kind = "vit" if "image.patch.weight" in ours else "other"
    return _assemble(ours, from_openai(activation, kind), path.stem, layout)


def _from_folder(folder: Path, activation: str | None, verify: bool) -> CLIP:
    folder = snapshot(folder)
    config_path = folder / OPEN_CLIP_CONFIG
    if config_path.is_file():
        hints = from_open_clip(read_json(config_path))
    else:
        config = read_json(folder / native.CONFIG)
        if "towers" in config or "format" in config:
            return native.load(folder, verify=verify)
        preprocessor = folder / "preprocessor_config.json"
        hints = from_hf(config, read_json(preprocessor) if preprocessor.is_file() else None)
    if activation is not None:
        hints = _with_activation(hints, activation)
    weights = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{folder} holds no weights (one of {', '.join(WEIGHT_FILES)}): fetch it again")
    state = read_weights(weights)
    layout = detect_layout(state)
    return _assemble(from_layout(state, layout), hints, folder.name, layout, folder)


def snapshot(folder: Path) -> Path:
    """The files of a hub cache folder (``snapshots/<revision>``), or the folder itself."""
    snapshots = folder / "snapshots"
    if not snapshots.is_dir():
        return folder
    main = folder / "refs" / "main"
    if main.is_file() and (snapshots / main.read_text().strip()).is_dir():
        return snapshots / main.read_text().strip()
    found = sorted(p for p in snapshots.iterdir() if p.is_dir())
    if not found:
        raise CheckpointError(f"{folder} holds no snapshot: fetch it again")
    return max(found, key=lambda p: p.stat().st_mtime)


def _with_activation(hints: Hints, activation: str) -> Hints:
    towers = {
        name: {**spec, "activation": activation} if "activation" in spec else spec
        for name, spec in hints.towers.items()
    }
    return replace(hints, towers=towers)


def _assemble(ours: dict[str, Tensor], hints: Hints, name: str, layout: Layout, folder: Path | None = None) -> CLIP:
    config = infer_config(ours, hints.towers)
    image, text = config["towers"]["image"], config["towers"]["text"]
    if text["kind"] == "bert":  # the table has `position_offset` rows more than the longest text
        text["context_length"] -= text.get("position_offset", 0)
    scale = ours.get("logit_scale")
    if scale is None:
        raise CheckpointError("logit_scale is missing: the file is not whole, or no CLIP; fetch it again")
    size = image.get("image_size", 224)
    config |= {
        "format": FORMAT,
        "name": name,
        "preprocess": {"size": size, **hints.preprocess},
        "tokenizer": _tokenizer(hints, text, folder),
        "logit_scale": float(scale),
        "source": {"layout": layout.name},
    }
    if "logit_bias" in ours:
        config["logit_bias"] = float(ours["logit_bias"])
    with torch.device("meta"):
        clip = build(config, folder)
    _add_counters(clip, ours)
    native.assign(
        clip, {k: v.to(torch.float32 if v.is_floating_point() else v.dtype, copy=True) for k, v in ours.items()}
    )
    return clip


def _tokenizer(hints: Hints, text: Mapping[str, object], folder: Path | None) -> dict[str, object] | None:
    if hints.tokenizer["kind"] == "hf" and (folder is None or not (folder / native.TOKENIZER).is_file()):
        return None  # texts then need ids; encode_text says so
    if hints.tokenizer["kind"] == "clip_bpe" and text["vocab_size"] != CLIP_VOCABULARY:
        return None
    return {**hints.tokenizer, "context_length": text["context_length"]}


def _add_counters(clip: CLIP, ours: dict[str, Tensor]) -> None:
    """Batch norms' counters of steps are absent from old files and mean nothing here."""
    for key in clip.state_dict():
        if key.endswith("num_batches_tracked"):
            ours.setdefault(key, torch.tensor(0))
