"""Cloaks: small changes of a picture that move its vector to another identity's (Fawkes, LowKey): to audit, not to trust."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from binderclip.errors import InputError

if TYPE_CHECKING:
    from binderclip.model.clip import CLIP

__all__ = ["cloak", "jpeg"]


def cloak(
    clip: CLIP,
    image: Image.Image,
    target: Any,
    eps: float = 8 / 255,
    steps: int = 50,
    perceptual: Callable[[Any, Any], Any] | None = None,
    *,
    lr: float = 2 / 255,
    weight: float = 1.0,
    rho: float = 0.0,
    smooth: float = 0.0,
) -> Image.Image:
    """``min_d |f(x + d) - t|^2 + weight max(perceptual(x, x + d) - rho, 0)`` with ``|d|_inf <= eps``, by signed steps.

    The picture is changed at its own resolution, before any resize, and given back in 8 bits within the same bound.

    Args:
        clip: the model ``f``; its weights get no gradient.
        image: RGB.
        target: unit vector ``[D]``, as the mean of a far identity.
        eps: largest change of a channel, 1 = from black to white.
        steps: signed gradient steps.
        perceptual: distance of two pictures ``[1, 3, H, W]`` in [0, 1], or None.
        lr: length of a step.
        weight: of the perceptual term.
        rho: what it may cost for free.
        smooth: standard deviation in pixels of a blurred copy that must move as well (LowKey); 0 for none.

    Raises:
        InputError: a negative eps, or no steps.
    """
    import torch

    from binderclip.model.functions import preprocess_tensor

    if eps < 0 or steps < 1:
        raise InputError(f"eps {eps}, steps {steps}: use 0 or more, and at least 1 step")
    eight = np.asarray(image.convert("RGB"))
    x = torch.from_numpy(eight.copy()).permute(2, 0, 1)[None].float() / 255
    t = torch.as_tensor(np.asarray(target, np.float32))
    d = torch.zeros_like(x, requires_grad=True)
    training = clip.training
    clip.eval()
    for _ in range(steps):
        copies = [x + d] + ([_blurred(x + d, smooth)] if smooth > 0 else [])
        f = clip.encode_image(preprocess_tensor(clip, torch.cat(copies)))
        loss = ((f - t) ** 2).sum(-1).mean()
        if perceptual is not None:
            loss = loss + weight * (perceptual(x, x + d) - rho).clamp_min(0).sum()
        (g,) = torch.autograd.grad(loss, d)
        with torch.no_grad():
            d -= lr * g.sign()
            d.clamp_(-eps, eps)
            d.copy_((x + d).clamp(0, 1) - x)
    clip.train(training)
    most = int(np.floor(eps * 255 + 1e-6))
    change = np.rint(d.detach()[0].permute(1, 2, 0).numpy() * 255).clip(-most, most)
    return Image.fromarray((eight + change).clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    """The picture through a JPEG file."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")


def _blurred(x: Any, sigma: float) -> Any:
    """Gaussian blur of ``[N, 3, H, W]``, the border repeated."""
    import torch
    import torch.nn.functional as F

    R = max(1, min(int(np.ceil(3 * sigma)), min(x.shape[-2:]) - 1))
    at = torch.arange(-R, R + 1, dtype=x.dtype)
    k = torch.exp(-(at**2) / (2 * sigma**2))
    k = (k / k.sum()).expand(3, 1, -1)
    x = F.conv2d(F.pad(x, (R, R, 0, 0), mode="replicate"), k[:, :, None, :], groups=3)
    return F.conv2d(F.pad(x, (0, 0, R, R), mode="replicate"), k[:, :, :, None], groups=3)
