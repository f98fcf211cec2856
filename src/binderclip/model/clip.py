"""``CLIP``: named towers with one joint space, and what travels with them (Radford et al. 2021, arXiv 2103.00020)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn

from binderclip.errors import InputError, MediaError, NeedsPartError
from binderclip.model.base import At, Tokens
from binderclip.model.preprocess import Preprocess
from binderclip.model.tokenizer import Tokenizer

__all__ = ["CLIP", "Features"]

Picture = str | os.PathLike[str] | Image.Image
Images = Tensor | Sequence[Picture]
Texts = Tensor | tuple[Tensor, Tensor] | Sequence[str]

_RESERVED = ("embed_dim", "tokenizer", "preprocess", "config", "logit_scale", "logit_bias")


class Features(NamedTuple):
    """What ``CLIP`` returns from ``clip(images, texts)``."""

    image: Tensor  # [N, D] unit
    text: Tensor  # [M, D] unit
    scale: Tensor  # factor on the cosines
    bias: Tensor | None  # added to them, in sigmoid models


class CLIP(nn.Module):
    """Towers into one space; it holds, it does not do: what acts on a CLIP is a function (``model.functions``).

    The towers are submodules under their names: ``clip.image``, ``clip.text``, and ``audio``, ``signal``, ... where there
    are. Logits are ``scale * cos + bias`` with ``scale = exp(logit_scale)``.

    Args:
        towers: name to tower.
        embed_dim: ``D``, the joint space.
        tokenizer: texts to ids.
        preprocess: pictures to pixels.
        logit_scale: start value, a logarithm unless ``exponential`` is false; default ``log(1 / 0.07)``.
        logit_bias: start value of the bias of sigmoid models; ``None`` for none.
        exponential: whether the scale is ``exp(logit_scale)`` or the parameter itself.
        config: what ``binderclip.model.build.build`` makes this model from again.
    """

    def __init__(
        self,
        towers: Mapping[str, nn.Module],
        embed_dim: int,
        *,
        tokenizer: Tokenizer | None = None,
        preprocess: Preprocess | None = None,
        logit_scale: float = math.log(1 / 0.07),
        logit_bias: float | None = None,
        exponential: bool = True,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._names = tuple(towers)
        for name, tower in towers.items():
            if hasattr(type(self), name) or name in _RESERVED:
                raise InputError(f"a tower cannot be named {name!r}: CLIP has an attribute of that name")
            self.add_module(name, tower)
        self.embed_dim = embed_dim
        self.tokenizer, self.preprocess = tokenizer, preprocess
        self.config: dict[str, Any] = dict(config or {})
        self.logit_scale = nn.Parameter(torch.tensor(float(logit_scale)))
        self.logit_bias = None if logit_bias is None else nn.Parameter(torch.tensor(float(logit_bias)))
        self._exponential = exponential
        #: Source to upright RGB picture. ``binderclip.load`` puts the guarded decoder of ``data.media`` here.
        self.decode: Callable[[Any], Image.Image] = open_plain

    @property
    def towers(self) -> dict[str, nn.Module]:
        """Name to tower."""
        return {name: self.get_submodule(name) for name in self._names}

    @property
    def name(self) -> str:
        """The name it was loaded by, or ``clip``."""
        return str(self.config.get("name", "clip"))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.logit_scale.device

    @property
    def scale(self) -> Tensor:
        """Factor on the cosines, a scalar tensor with gradient."""
        return self.logit_scale.exp() if self._exponential else self.logit_scale

    def tower(self, name: str) -> nn.Module:
        """One tower.

        Raises:
            NeedsPartError: there is none of that name.
        """
        if name not in self._names:
            raise NeedsPartError(f"{self.name} has no tower {name!r}; it has {', '.join(self._names)}")
        return self.get_submodule(name)

    def encode(self, name: str, x: Any, at: At | None = None, **options: Any) -> Tokens:
        """Run one tower on a tensor: ``clip.encode("image", pixels, at={...})``."""
        tokens: Tokens = self.tower(name)(x, at, **options)
        return tokens

    def encode_image(self, images: Images, at: At | None = None, *, normalize: bool = True) -> Tensor:
        """Image features ``[N, D]`` with gradient.

        Args:
            images: paths or PIL images, or normalised pixels ``[N, 3, H, W]``.
            at: site name to function.
            normalize: make them unit vectors.

        Raises:
            MediaError: a picture cannot be decoded.
        """
        pixels = images if isinstance(images, Tensor) else self._pixels(images)
        pooled = self.encode("image", pixels, at).pooled
        return F.normalize(pooled, dim=-1) if normalize else pooled

    def encode_text(self, texts: Texts, at: At | None = None, *, normalize: bool = True) -> Tensor:
        """Text features ``[N, D]`` with gradient.

        Args:
            texts: strings, ids ``[N, L]``, or ids with the index of each row's end token ``[N]``.
            at: site name to function.
            normalize: make them unit vectors.
        """
        if isinstance(texts, Tensor):
            pooled = self.encode("text", texts, at).pooled
        else:
            ids, eos = texts if _is_ids(texts) else self._ids(texts)  # type: ignore[arg-type]
            pooled = self.encode("text", ids, at, eos=eos).pooled
        return F.normalize(pooled, dim=-1) if normalize else pooled

    def forward(self, images: Images, texts: Texts) -> Features:
        """Unit features of both sides, with scale and bias."""
        return Features(self.encode_image(images), self.encode_text(texts), self.scale, self.logit_bias)

    def _pixels(self, images: Sequence[Picture]) -> Tensor:
        if isinstance(images, (str, os.PathLike, Image.Image)):
            raise InputError("give a list of images, not one image")
        if self.preprocess is None:
            raise NeedsPartError(f"{self.name} has no preprocess: give it normalised pixels [N, 3, H, W]")
        size = self.preprocess.size
        if not len(images):
            return torch.empty(0, 3, size, size, device=self.device)
        stacked = np.stack([self.preprocess(self.decode(image)) for image in images])  # [N, H, W, 3]
        return torch.from_numpy(self.preprocess.normalize(stacked)).to(self.device, self.logit_scale.dtype)

    def _ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        if self.tokenizer is None:
            raise NeedsPartError(f"{self.name} has no tokenizer: give it token ids [N, L]")
        ids, eos = self.tokenizer(texts)
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(eos).to(self.device)


def _is_ids(texts: Any) -> bool:
    return isinstance(texts, tuple) and len(texts) == 2 and all(isinstance(part, Tensor) for part in texts)


def open_plain(image: Picture) -> Image.Image:
    """An upright RGB picture of a path or a PIL image, with Pillow's own guards only."""
    if isinstance(image, Image.Image):
        return image if image.mode == "RGB" else image.convert("RGB")
    try:
        with Image.open(Path(image)) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"{os.fspath(image)!r} cannot be read as an image: {error}") from None
