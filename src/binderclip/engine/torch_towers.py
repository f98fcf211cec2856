"""The towers of any checkpoint in torch, behind the same two calls as the exported ones."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from binderclip.engine.calibration import Calibration
from binderclip.errors import NeedsExtraError, NeedsPartError
from binderclip.hub.embedded import checkpoint_folder
from binderclip.model.preprocess import Preprocess
from binderclip.model.tokenizer import Tokenizer

__all__ = ["TorchTowers"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class TorchTowers:
    """A loaded CLIP as arrays in, arrays out, without gradients.

    Args:
        name: whatever ``binderclip.load`` takes.
        threads: for torch; ``None`` leaves its own choice.

    Raises:
        NeedsExtraError: torch is not installed.
        NeedsPartError: the checkpoint carries no tokenizer or no preprocess.
    """

    def __init__(self, name: str, threads: int | None = None) -> None:
        try:
            import torch
        except ImportError:
            raise NeedsExtraError(f"the model {name!r}", "torch") from None
        from binderclip.hub import load

        if threads is not None:
            torch.set_num_threads(threads)
        self.torch = torch
        self.clip = load(name).eval()
        tokenizer, preprocess = self.clip.tokenizer, self.clip.preprocess
        if tokenizer is None or preprocess is None:
            raise NeedsPartError(
                f"{name} has no {'tokenizer' if tokenizer is None else 'preprocess'}: it cannot be searched with"
            )
        self.tokenizer: Tokenizer = tokenizer
        self.preprocess: Preprocess = preprocess
        self.config: dict[str, Any] = dict(self.clip.config) | {"embed_dim": self.clip.embed_dim}
        self.config["logit_scale"] = float(self.clip.logit_scale.detach())
        folder = checkpoint_folder(name)
        self.calibration = Calibration.load(folder, self.config) if folder else None
        self.fingerprint = self._fingerprint()

    def image(self, pixels: Floats) -> Floats:
        """``[N, 3, H, W]`` normalised pixels -> ``[N, D]``."""
        with self.torch.inference_mode():
            tensor = self.torch.from_numpy(np.ascontiguousarray(pixels)).to(self.clip.device)
            out: Floats = self.clip.encode_image(tensor).float().cpu().numpy()
        return out

    def text(self, ids: Ints, eos: Ints) -> Floats:
        """``[N, L]`` ids and ``[N]`` end positions -> ``[N, D]``."""
        with self.torch.inference_mode():
            pair = (self.torch.from_numpy(ids).to(self.clip.device), self.torch.from_numpy(eos).to(self.clip.device))
            out: Floats = self.clip.encode_text(pair).float().cpu().numpy()
        return out

    def _fingerprint(self) -> str:
        """16 hexadecimal digits of every weight in the order of names, the preprocess and the tokenizer."""
        digest = hashlib.sha256()
        for key, tensor in sorted(self.clip.state_dict().items()):
            digest.update(f"{key} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        digest.update(json.dumps([self.preprocess.to_dict(), self.tokenizer.config], sort_keys=True).encode())
        return digest.hexdigest()[:16]
