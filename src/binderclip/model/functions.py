"""What acts on a CLIP: freezing, copying, grouping parameters, and differentiable preprocessing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.errors import InputError
from binderclip.model.clip import CLIP
from binderclip.model.preprocess import Preprocess

__all__ = ["freeze", "frozen_copy", "norm_parameters", "parameter_groups", "preprocess_tensor", "unfreeze"]

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


def frozen_copy(clip: CLIP) -> CLIP:
    """A copy in eval mode whose weights get no gradient; the original may be trained without changing it."""
    shared = {id(part): part for part in (clip.tokenizer, clip.preprocess) if part is not None}
    twin = copy.deepcopy(clip, shared)
    return twin.requires_grad_(False).eval()


def freeze(clip: nn.Module, pattern: str = "*") -> list[str]:
    """Stop gradients of the parameters whose name matches, e.g. ``image.*`` or ``text.blocks.[0-5].*``.

    Returns:
        The names that matched.

    Raises:
        InputError: nothing matches.
    """
    return _switch(clip, pattern, False)


def unfreeze(clip: nn.Module, pattern: str = "*") -> list[str]:
    """The opposite of ``freeze``."""
    return _switch(clip, pattern, True)


def _switch(clip: nn.Module, pattern: str, wanted: bool) -> list[str]:
    matched = [name for name, _ in clip.named_parameters() if fnmatchcase(name, pattern)]
    if not matched:
        first = ", ".join(name for name, _ in list(clip.named_parameters())[:3])
        raise InputError(f"no parameter matches {pattern!r}; names look like {first}")
    chosen = set(matched)
    for name, parameter in clip.named_parameters():
        if name in chosen:
            parameter.requires_grad_(wanted)
    return matched


def norm_parameters(clip: nn.Module) -> dict[str, nn.Parameter]:
    """Name to parameter of every norm's weights and biases (what test-time adaptation tunes)."""
    return {
        f"{prefix}.{name}" if prefix else name: parameter
        for prefix, module in clip.named_modules()
        if isinstance(module, _NORMS)
        for name, parameter in module.named_parameters(recurse=False)
    }


def parameter_groups(
    clip: nn.Module, rates: Mapping[str, float], *, lr: float, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: the first pattern that matches a name gives its learning rate.

    Args:
        clip: whose trainable parameters are grouped.
        rates: name pattern to learning rate.
        lr: rate of the rest.
        weight_decay: for matrices; vectors and scalars (norms, biases, logit scale) get none.

    Returns:
        ``[{"params": [...], "lr": ..., "weight_decay": ..., "names": [...]}, ...]``
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in clip.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = next((r for pattern, r in rates.items() if fnmatchcase(name, pattern)), lr)
        decay = weight_decay if parameter.dim() >= 2 else 0.0
        group = groups.setdefault((rate, decay), {"params": [], "names": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def preprocess_tensor(preprocess: Preprocess | CLIP, pixels: Tensor) -> Tensor:
    """Pixels in [0, 1] to a tower's normalised input, differentiable.

    The same geometry as the picture path; pixel values may differ by about 1/255, which rounds to 8 bits in between.

    Args:
        preprocess: or the CLIP that holds it.
        pixels: ``[N, 3, H, W]``.

    Returns:
        ``[N, 3, size, size]``.
    """
    chosen = preprocess.preprocess if isinstance(preprocess, CLIP) else preprocess
    if chosen is None:
        raise InputError("this CLIP has no preprocess: pass one")
    if pixels.dim() != 4 or pixels.shape[1] != 3:
        raise InputError(f"pixels are [N, 3, H, W], not {list(pixels.shape)}")
    x = _fit(pixels, chosen)
    mean = torch.tensor(chosen.mean, dtype=x.dtype, device=x.device)[:, None, None]
    std = torch.tensor(chosen.std, dtype=x.dtype, device=x.device)[:, None, None]
    return (x - mean) / std


def _fit(x: Tensor, p: Preprocess) -> Tensor:
    h, w = x.shape[-2:]
    if p.resize_mode == "squash":
        return _resize(x, p.size, p.size, p)
    if p.resize_mode == "shortest":
        side = p.min_side
        new_h, new_w = (max(int(side * h / w), 1), side) if w <= h else (side, max(int(side * w / h), 1))
        x = _resize(x, new_h, new_w, p)
        top, left = round((new_h - p.size) / 2), round((new_w - p.size) / 2)
        return x[..., top : top + p.size, left : left + p.size]
    ratio = p.size / max(h, w)
    new_h, new_w = max(round(h * ratio), 1), max(round(w * ratio), 1)
    x = _resize(x, new_h, new_w, p)
    top, left = (p.size - new_h) // 2, (p.size - new_w) // 2
    return F.pad(x, (left, p.size - new_w - left, top, p.size - new_h - top), value=p.fill / 255)


def _resize(x: Tensor, h: int, w: int, p: Preprocess) -> Tensor:
    if (h, w) == tuple(x.shape[-2:]):
        return x
    if p.interpolation == "nearest":
        return F.interpolate(x, size=(h, w), mode="nearest-exact")
    mode = "bilinear" if p.interpolation == "bilinear" else "bicubic"  # torch has no lanczos: bicubic is the nearest
    return F.interpolate(x, size=(h, w), mode=mode, antialias=True, align_corners=False).clamp(0, 1)
