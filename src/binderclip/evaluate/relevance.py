"""Which parts of a picture, and which words, make a CLIP think that a text fits.

- Towers of blocks with attention: Generic attention-model explainability (Chefer et al. 2021, arXiv 2103.15679).
  ``R <- R + E_h[(dy/dA * A)^+] R`` through the blocks, ``A`` the attention weights, ``y`` the cosine; the class token's row,
  or the mean of all rows where the patches are averaged.
- Convolutional towers: Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) on what enters the pooling.
  ``M = (sum_c w_c (x_c - mean x_c))^+``, ``w_c`` the mean over places of ``dy/dx_c``. Taking off the mean is
  ours: a cosine hardly changes when all places grow alike, and the paper's form is then negative everywhere.
- Words: how far the cosine falls when a word is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from binderclip.errors import InputError, NeedsPartError
from binderclip.model.base import AttentionState, State
from binderclip.model.clip import CLIP

__all__ = ["Relevance", "explain", "image_relevance", "word_relevance"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Relevance:
    """An explanation of one cosine.

    Args:
        cosine: between picture and text.
        map: ``[h, w]`` from 0 to 1, 1 at the place that matters most; all 0 where nothing speaks for the text.
        words: (word, how far the cosine falls without it), in their order.
        how: the method that made the map.
    """

    cosine: float
    map: Floats
    words: tuple[tuple[str, float], ...]
    how: str


def explain(clip: CLIP, pixels: Tensor, text: str) -> Relevance:
    """Explain the cosine of a picture and a text.

    Args:
        clip: in eval mode, any image tower with sites.
        pixels: normalised ``[1, 3, H, W]``.
        text: that is looked for.

    Raises:
        InputError: an empty text, or more than one picture.
        NeedsPartError: the image tower has no sites.
    """
    if not text.split():
        raise InputError("there is no text to explain: write what you look for")
    if pixels.dim() != 4 or len(pixels) != 1:
        raise InputError(f"one picture [1, 3, H, W] is explained at a time, not {list(pixels.shape)}")
    with torch.no_grad():
        target = clip.encode_text([text])[0]
    cosine, found, how = image_relevance(clip, pixels, target)
    top = float(found.max())
    return Relevance(cosine, found / top if top > 0 else found, word_relevance(clip, pixels, text), how)


def image_relevance(clip: CLIP, pixels: Tensor, target: Tensor) -> tuple[float, Floats, str]:
    """Cosine with a unit vector ``[D]``, the map ``[h, w]`` (not scaled), and the method's name."""
    tower = clip.tower("image")
    sites: Sequence[str] = getattr(tower, "sites", ())
    attention = [name for name in sites if name.endswith(".attn") and name.startswith("blocks.")]
    if attention:
        return _attention(clip, pixels, target, attention)
    if "pool.in" in sites:
        return _grad_cam(clip, pixels, target)
    raise NeedsPartError(f"explaining needs the sites of an image tower, which {clip.name} has not")


def _attention(clip: CLIP, pixels: Tensor, target: Tensor, names: Sequence[str]) -> tuple[float, Floats, str]:
    kept: dict[str, Tensor] = {}
    state: dict[str, State] = {}

    def keep(name: str) -> Any:
        def function(attention: AttentionState) -> AttentionState:
            kept[name] = attention.weights()  # [1, H, S, S]
            return attention.mixed(kept[name])

        return function

    def last(value: State) -> State:
        state["last"] = value
        return value

    with torch.enable_grad():
        at: Mapping[str, Any] = {**{name: keep(name) for name in names}, "pool.in": last}
        pooled = clip.encode("image", pixels.detach().requires_grad_(True), at).pooled
        cosine = F.normalize(pooled, dim=-1)[0] @ target
        gradients = torch.autograd.grad(cosine, [kept[name] for name in names], allow_unused=True)
    tokens = kept[names[0]].shape[-1]
    relevance = torch.eye(tokens, device=pixels.device)
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is not None:
            flow = (gradient * kept[name]).clamp_min(0).mean(1)[0].detach()  # [S, S]
            relevance = relevance + flow @ relevance
    prefix, grid = state["last"].prefix, state["last"].grid
    if grid is None:
        raise NeedsPartError(f"{clip.name} does not say how its patches lie")
    row = relevance[0] if prefix else relevance.mean(0)
    own = row[prefix:] - (0 if prefix else 1 / tokens)  # what each patch began with of itself
    return float(cosine.detach()), _plain(own.clamp_min(0).reshape(grid)), "attention and its gradient"


def _grad_cam(clip: CLIP, pixels: Tensor, target: Tensor) -> tuple[float, Floats, str]:
    kept: list[Tensor] = []

    def keep(state: State) -> State:
        kept.append(state.x if state.x.requires_grad else state.x.requires_grad_(True))
        return state.with_(x=kept[0])

    with torch.enable_grad():
        pooled = clip.encode("image", pixels, {"pool.in": keep}).pooled
        cosine = F.normalize(pooled, dim=-1)[0] @ target
        (gradient,) = torch.autograd.grad(cosine, kept)
    x = kept[0].detach()
    if x.dim() != 4:
        raise NeedsPartError(f"{clip.name} pools no feature map, and its blocks have no attention to look at")
    weights = gradient.mean((2, 3), keepdim=True)  # [1, C, 1, 1]
    apart = x - x.mean((2, 3), keepdim=True)
    return float(cosine.detach()), _plain((weights * apart).sum(1).clamp_min(0)[0]), "Grad-CAM"


@torch.no_grad()
def word_relevance(clip: CLIP, pixels: Tensor, text: str) -> tuple[tuple[str, float], ...]:
    """Each word of a text, and how far the cosine falls when it is left out; a text of one word is that word's alone."""
    words = text.split()
    image = clip.encode_image(pixels)[0]
    shorter = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))] if len(words) > 1 else [""]
    cosines = clip.encode_text([text, *shorter]) @ image
    return tuple((word, float(cosines[0] - other)) for word, other in zip(words, cosines[1:], strict=True))


def _plain(found: Tensor) -> Floats:
    plain: Floats = found.float().cpu().numpy()
    return plain
