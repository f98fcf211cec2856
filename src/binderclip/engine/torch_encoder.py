"""A torch ``CLIP`` where an ``Encoder`` is asked for, as one that has just been trained is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from binderclip.model.clip import CLIP

__all__ = ["TorchEncoder"]

Floats = NDArray[np.float32]


class TorchEncoder:
    """A `CLIP` behind an `Encoder`'s methods: no gradient, evaluation mode, numpy rows.

    Args:
        clip: is not copied; its mode is as it was after each call.
    """

    def __init__(self, clip: CLIP) -> None:
        self.clip, self.name, self.preprocess = clip, clip.name, clip.preprocess
        self.logit_scale, self.fingerprint = float(clip.scale.detach()), ""

    def encode_image(self, images: Sequence[Any]) -> Floats:
        """Unit rows ``[N, D]``."""
        return self._rows(self.clip.encode_image, images)

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """Unit rows ``[N, D]``."""
        return self._rows(self.clip.encode_text, texts)

    def raw(self, side: str, one: Any) -> Floats:
        """``[D]`` of one picture ("image") or text ("text") as its tower gives it, not of length 1."""
        encode = self.clip.encode_image if side == "image" else self.clip.encode_text
        return np.asarray(self._rows(lambda part: encode(part, normalize=False), [one])[0], np.float32)

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """8-bit model input ``[H, W, 3]``."""
        assert self.preprocess is not None
        return self.preprocess(image)

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> Floats:
        """Unit rows ``[N, D]`` of 8-bit model inputs ``[N, H, W, 3]``."""
        import torch

        assert self.preprocess is not None
        return self._rows(self.clip.encode_image, torch.from_numpy(self.preprocess.normalize(pixels)))

    def _rows(self, encode: Any, inputs: Any) -> Floats:
        import torch

        training = self.clip.training
        self.clip.eval()
        try:
            with torch.no_grad():
                parts = [encode(inputs[i : i + 64]).float().cpu().numpy() for i in range(0, len(inputs), 64)]
        finally:
            self.clip.train(training)
        return np.concatenate(parts)
