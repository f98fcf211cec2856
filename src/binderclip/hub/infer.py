"""A CLIP's config from the shapes of its weights, and from what a config file adds to them.

Shapes tell widths, depths, patches and which parts there are. They do not tell the activation, the number of heads or
the norms' eps: those are hints, from the published config or the checkpoint's family.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from binderclip.errors import CheckpointError

__all__ = ["infer_config"]

# Widths whose heads are not 64 wide, in published image towers.
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1536: 16, 1664: 16}

State = Mapping[str, Tensor]


def infer_config(state: State, hints: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The ``embed_dim`` and ``towers`` of a config.

    Args:
        state: weights under our names.
        hints: for ``image`` and ``text``, arguments that shapes do not tell or that a config file states; they win.

    Raises:
        CheckpointError: a tower is not there, or is of no kind that is known.
    """
    image = {**_image(state), **hints.get("image", {})}
    text = {**_text(state), **hints.get("text", {})}
    width = image["width"] if image.get("proj") == "none" else image.pop("embed_dim")
    image.setdefault("embed_dim", width)
    return {"embed_dim": width, "towers": {"image": image, "text": text}}


def _count(state: State, pattern: str) -> int:
    """One more than the largest number that ``pattern``'s group takes."""
    found = [int(m[1]) for key in state if (m := re.match(pattern, key))]
    return max(found, default=-1) + 1


def _image(state: State) -> dict[str, Any]:
    if "image.patch.weight" in state:
        return _vit(state)
    if "image.stem.conv1.weight" in state:
        return _resnet(state)
    if "image.stem.0.weight" in state:
        return _convnext(state)
    raise CheckpointError("the checkpoint has no image tower that is known: it may be a text model alone")


def _vit(state: State) -> dict[str, Any]:
    width, _, patch, _ = state["image.patch.weight"].shape
    positions = _get(state, "image.positions")
    class_token = "image.class_token" in state
    side = round((len(positions) - class_token) ** 0.5)
    proj = state.get("image.proj.weight")
    spec: dict[str, Any] = {
        "kind": "vit",
        "image_size": side * patch,
        "patch_size": patch,
        "width": width,
        "layers": _count(state, r"image\.blocks\.(\d+)\."),
        "heads": _HEADS.get(width, max(width // 64, 1)),
        "embed_dim": width if proj is None else len(proj),
        "mlp_hidden": len(_get(state, "image.blocks.0.mlp.up.weight")),
        "class_token": class_token,
        "pre_norm": "image.norm_pre.weight" in state,
        "pool": "map" if "image.head.probe" in state else "cls" if class_token else "avg",
        "patch_bias": "image.patch.bias" in state,
        "proj": "none" if proj is None else "linear",
    }
    if "image.blocks.0.scale1.gamma" in state:
        spec["block"] = {"layer_scale": 1e-5}
    return spec


def _resnet(state: State) -> dict[str, Any]:
    stem = len(_get(state, "image.stem.conv3.weight"))
    side = round((len(_get(state, "image.head.positions")) - 1) ** 0.5)
    return {
        "kind": "resnet",
        "image_size": side * 32,
        "layers": [_count(state, rf"image\.stages\.{i}\.(\d+)\.") for i in range(4)],
        "stem_width": stem,
        "heads": max(stem * 32 // 64, 1),
        "embed_dim": len(_get(state, "image.head.out.weight")),
    }


def _convnext(state: State) -> dict[str, Any]:
    stages = _count(state, r"image\.stages\.(\d+)\.")
    linear, hidden = state.get("image.proj.weight"), state.get("image.proj.2.weight")
    last = linear if linear is not None else hidden
    if last is None:
        raise CheckpointError("the checkpoint's ConvNeXt has no projection: it is not a CLIP")
    return {
        "kind": "convnext",
        "depths": [_count(state, rf"image\.stages\.{i}\.(\d+)\.") for i in range(stages)],
        "widths": [len(_get(state, f"image.stages.{i}.0.norm.weight")) for i in range(stages)],
        "embed_dim": len(last),
        "layer_scale": 1e-6 if "image.stages.0.0.gamma" in state else None,
        "proj": "linear" if linear is not None else "mlp",
        "proj_bias": "image.proj.bias" in state or "image.proj.2.bias" in state,  # the hidden layer always has one
    }


def _text(state: State) -> dict[str, Any]:
    vocab, width = _get(state, "text.token_embedding.weight").shape
    spec: dict[str, Any] = {
        "vocab_size": vocab,
        "context_length": len(_get(state, "text.positions")),
        "width": width,
        "layers": _count(state, r"text\.blocks\.(\d+)\."),
        "heads": max(width // 64, 1),
        "mlp_hidden": len(_get(state, "text.blocks.0.mlp.up.weight")),
        "proj_bias": "text.proj.bias" in state or "text.proj.2.bias" in state,
    }
    if "text.norm_pre.weight" in state:
        spec |= {"kind": "bert", "token_types": len(state["text.token_type"]) if "text.token_type" in state else 0}
        spec["proj"] = "mlp" if "text.proj.2.weight" in state else "linear" if "text.proj.weight" in state else "none"
        return spec
    return spec | {"kind": "text_transformer", "proj": "linear" if "text.proj.weight" in state else "none"}


def _get(state: State, key: str) -> Tensor:
    if key not in state:
        raise CheckpointError(f"{key} is missing: the file is not whole, or of another layout; fetch it again")
    return state[key]
