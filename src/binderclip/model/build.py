"""From a checkpoint's config to a CLIP: names of constructors and their flat arguments, nothing else."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from binderclip.errors import BinderclipError, CheckpointError
from binderclip.model.clip import CLIP
from binderclip.model.preprocess import Preprocess
from binderclip.model.tokenizer import Tokenizer

__all__ = ["FORMAT", "TOWERS", "build"]

FORMAT = 1

# kind -> where its class is; a kind is imported when it is first built
TOWERS = {
    "efficientnet_lite": ("binderclip.model.efficientnet_lite", "EfficientNetLite"),
    "vit": ("binderclip.model.vit", "VisionTransformer"),
    "resnet": ("binderclip.model.resnet", "ModifiedResNet"),
    "convnext": ("binderclip.model.convnext", "ConvNeXt"),
    "text_transformer": ("binderclip.model.text", "TextTransformer"),
    "bert": ("binderclip.model.bert", "BertText"),
}


def build(config: Mapping[str, Any], folder: Path | None = None) -> CLIP:
    """Make a CLIP with random weights.

    Args:
        config: ``{"format": 1, "name": ..., "embed_dim": D, "towers": {"image": {"kind": ..., arguments}, ...},
            "preprocess": {...}, "tokenizer": {...}, "logit_scale": ..., "logit_bias": ..., "exponential": true}``.
            ``embed_dim`` is given to every tower that does not state its own.
        folder: where a tokenizer's file is looked up.

    Raises:
        CheckpointError: a newer format, an unknown kind of tower, or an argument it does not take.
    """
    version = config.get("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        raise CheckpointError(f"this model's format is {version} and this version reads {FORMAT}: upgrade binderclip")
    if not isinstance(config.get("embed_dim"), int) or not isinstance(config.get("towers"), Mapping):
        raise CheckpointError("config.json of a binderclip model states 'embed_dim' and 'towers'; this one does not")
    try:
        towers = {name: _tower(name, spec, config["embed_dim"]) for name, spec in config["towers"].items()}
        tokenizer = Tokenizer.from_config(config["tokenizer"], folder) if config.get("tokenizer") else None
        preprocess = Preprocess.from_dict(config["preprocess"]) if config.get("preprocess") else None
        options = {k: config[k] for k in ("logit_scale", "logit_bias", "exponential") if k in config}
        return CLIP(
            towers, config["embed_dim"], tokenizer=tokenizer, preprocess=preprocess, config=config, **options
        ).eval()
    except CheckpointError:
        raise
    except (BinderclipError, TypeError, ValueError) as error:
        raise CheckpointError(f"config.json cannot be built: {error}") from None


def _tower(name: str, spec: Mapping[str, Any], embed_dim: int) -> nn.Module:
    arguments = dict(spec)
    kind = arguments.pop("kind", None)
    if kind not in TOWERS:
        raise CheckpointError(f"tower {name!r} is of unknown kind {kind!r}; this version has {', '.join(TOWERS)}")
    module, attribute = TOWERS[kind]
    arguments.setdefault("embed_dim", embed_dim)
    tower: nn.Module = getattr(importlib.import_module(module), attribute)(**arguments)
    return tower
