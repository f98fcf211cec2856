"""WinCLIP (Jeong et al. 2023, arXiv 2303.14814): is this object damaged, and where, by words and by windows of patches.

A window is a subset of the ViT's tokens with their own positions (never a crop), run through the tower with the class token.
``p_a(f) = softmax(tau [<f, t_n>, <f, t_a>])[1]`` with the mean of phrases of a sound (t_n) and of a damaged object (t_a).
Patches get the harmonic mean of ``p_a`` over the windows that cover them; the map is the harmonic mean over scales and the
whole picture's score. With k normal pictures, ``a(f) = (1 - max_r <f, r>) / 2`` over remembered windows is added (WinCLIP+).

Ours where the paper is silent: patch features of WinCLIP+ are the last block's output before the final norm; the classifier
that `score` gives with normal pictures is ``(p_a + max a) / 2`` as in the paper's equation, not the map's maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.cards import Card
from binderclip.data.media import open_image
from binderclip.dense.features import is_vit
from binderclip.errors import InputError, NeedsPartError
from binderclip.model.base import State
from binderclip.model.clip import CLIP
from binderclip.model.functions import preprocess_tensor

__all__ = ["ABNORMAL", "NORMAL", "WinCLIP", "coverage", "harmonic_to_patches", "phrases", "windows"]

CARD = Card(
    slug="winclip",
    name="WinCLIP",
    title="WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation",
    arxiv="2303.14814",
    year=2023,
    room="dense",
    provides="WinCLIP",
    kind="AnomalySegmenter",
    verb="anomaly",
    needs=("image.tokens",),
    claim="MVTec-AD without training: 91.8 image AUROC, 85.1 pixel AUROC; with one normal picture 93.1 / 95.2",
    must_show={
        "a window over the whole grid is encode_image": "tests/dense/test_winclip.py::test_one_window_is_the_picture",
        "196 and 169 windows at 15 x 15; coverage 1, s, s s; 154 and 88 phrases": "tests/dense/test_winclip.py::test_counts",
        "harmonic <= arithmetic; equal windows give p back; one window of 1e-6": (
            "tests/dense/test_winclip.py::test_harmonic_mean"
        ),
        "a memory of the picture itself gives 0 everywhere": "tests/dense/test_winclip.py::test_memory_of_itself",
        "texts exchanged: p becomes 1 - p": "tests/dense/test_winclip.py::test_texts_exchanged",
        "synthetic defects: pixel AUROC >= 0.80, rising from 1 to 4 references; windows beat patches alone": (
            "missed:dense_winclip: pocket-vit has 6 x 6 patches: 0.56, 0.54, 0.53 with 1, 2, 4 references; patches alone "
            "0.66; words alone 0.33, and they pull the sum down"
        ),
        "damaged states on corrupted against clean photos: image AUROC over 0.6": (
            "missed:dense_winclip: 0.42 over four corruptions: pocket-vit's texts were never taught states of things"
        ),
    },
)

NORMAL = tuple(
    "{} | flawless {} | perfect {} | unblemished {} | {} without flaw | {} without defect | {} without damage".split(
        " | "
    )
)
ABNORMAL = tuple("damaged {} | {} with flaw | {} with defect | {} with damage".split(" | "))
_LOOKS = ("cropped", "close-up", "bright", "dark", "jpeg corrupted", "blurry")
_PLAIN = (
    "a photo of {} {}",
    "a photo of {} small {}",
    "a photo of {} large {}",
    "a photo of {} {} for visual inspection",
    "a photo of {} {} for anomaly detection",
)
_LEAST = 1e-8


def phrases(name: str) -> tuple[list[str], list[str]]:
    """154 phrases of a sound and 88 of a damaged object: 22 sentences around 7 and 4 states, without a full stop."""
    sentences = [f"a {look} photo of {{}} {{}}" for look in _LOOKS] + list(_PLAIN)

    def filled(states: Sequence[str]) -> list[str]:
        return [
            s.format(article, state.format(name)) for state in states for s in sentences for article in ("a", "the")
        ]

    return filled(NORMAL), filled(ABNORMAL)


def windows(h: int, w: int, scale: int) -> Tensor:
    """Numbers of the patches of every window of ``scale x scale``, ``[(h-s+1)(w-s+1), s s]``, row by row."""
    grid = torch.arange(h * w).reshape(h, w)
    return grid.unfold(0, scale, 1).unfold(1, scale, 1).reshape(-1, scale * scale)


def coverage(h: int, w: int, scale: int) -> Tensor:
    """How many windows cover each patch, ``[h, w]``."""
    return torch.bincount(windows(h, w, scale).flatten(), minlength=h * w).reshape(h, w)


def harmonic_to_patches(p: Tensor, h: int, w: int, scale: int) -> Tensor:
    """``K / sum_w 1 / p(w)`` over the K windows that cover a patch, ``[h, w]`` from ``[windows]``."""
    return 1 / mean_to_patches(1 / p.clamp(min=_LEAST), h, w, scale)


def mean_to_patches(p: Tensor, h: int, w: int, scale: int) -> Tensor:
    """Plain mean over the windows that cover a patch."""
    at = windows(h, w, scale).to(p.device)
    total = p.new_zeros(h * w).index_add_(0, at.flatten(), p[:, None].expand(at.shape).flatten())
    return total.reshape(h, w) / coverage(h, w, scale).to(p)


class WinCLIP:
    """WinCLIP, and with normal pictures WinCLIP+.

    Args:
        clip: a ViT with a class token, in eval mode; never changed.
        scales: sides of the windows in patches.
        full: whether the picture as a whole counts as a scale.
        size: pixels of the square that pictures are brought to; by default the tower's own (the paper: 240).
        tau: factor on cosines; 100 in the reference, and kept: maps depend on it.
        harmonic: of "anomaly" (the paper) or of "normality" (the reference) probabilities.
        fuse: maps of words and memory by "mean" (the paper) or "harmonic" (the reference).
        normalize_phrases: make each phrase's vector unit before the mean.
        batch: windows at a time.
    """

    def __init__(
        self,
        clip: CLIP,
        *,
        scales: Sequence[int] = (2, 3),
        full: bool = True,
        size: int | None = None,
        tau: float = 100.0,
        harmonic: Literal["anomaly", "normality"] = "anomaly",
        fuse: Literal["mean", "harmonic"] = "mean",
        normalize_phrases: bool = False,
        batch: int = 512,
    ) -> None:
        tower: Any = clip.tower("image")
        if not is_vit(clip) or not tower.prefix:
            raise NeedsPartError("WinCLIP needs patch tokens and a class token; `pocket` is convolutional: use a ViT")
        if harmonic not in ("anomaly", "normality") or fuse not in ("mean", "harmonic"):
            raise InputError(f"harmonic={harmonic!r}, fuse={fuse!r}: use anomaly or normality, and mean or harmonic")
        assert clip.preprocess is not None
        self.clip, self.full, self.tau, self.harmonic, self.fuse = clip, full, tau, harmonic, fuse
        self.size = size or clip.preprocess.size
        side = self.size // tower.patch_size
        self.scales = tuple(scales)
        if any(not 1 <= scale <= side for scale in self.scales) or not (self.scales or full):
            raise InputError(f"windows of {self.scales} patches do not fit a grid of {side} x {side}")
        self.normalize_phrases, self.batch = normalize_phrases, batch
        self._texts: dict[str, Tensor] = {}
        self._memory: dict[int, Tensor] = {}  # scale -> unit rows [R, D]; 0 is the patches'

    @torch.no_grad()
    def fit(self, normal_images: Sequence[Any] | None = None) -> WinCLIP:
        """Remember the windows of sound pictures; none forgets them."""
        seen = [self._look(image) for image in normal_images or ()]
        keys = (*self.scales, 0) if seen else ()
        self._memory = {key: torch.cat([one[key].flatten(0, 1) for one in seen]) for key in keys}
        return self

    @torch.no_grad()
    def segment(self, image: Any, texts: Sequence[str]) -> Tensor:
        """How damaged each place is, ``[1, H, W]`` from 0 to 1.

        Args:
            image: a path, bytes, a Pillow image, or RGB ``[3, H, W]`` in [0, 1].
            texts: one name, of the object.

        Raises:
            InputError: not one name.
            MediaError: the picture cannot be read.
        """
        if len(texts) != 1 or not texts[0].strip():
            raise InputError("WinCLIP looks for damage of one thing: give its name, as in ['bottle']")
        x, (height, width) = self._square(image)
        found, whole = self._embed(x), self._whole(x)
        own = self.text_map(found, whole, texts[0])
        if self._memory:
            seen = self.memory_map(found)
            if self.fuse == "mean":
                own = (own + seen) / 2
            else:
                own = 1 / (1 / own.clamp(min=_LEAST) + 1 / seen.clamp(min=_LEAST))
        return F.interpolate(own[None, None], size=(height, width), mode="bilinear", align_corners=False)[0]

    @torch.no_grad()
    def score(self, image: Any, name: str) -> float:
        """How damaged the picture's object is, 0 to 1."""
        x, _ = self._square(image)
        words = float(self.probability(self._whole(x), name))
        return (words + float(self.memory_map(self._embed(x)).max())) / 2 if self._memory else words

    @torch.no_grad()
    def window_embeddings(self, image: Any) -> dict[int, Tensor]:
        """Scale -> unit vectors ``[n, m, D]`` of its windows."""
        return {scale: rows for scale, rows in self._look(image).items() if scale}

    def probability(self, f: Tensor, name: str) -> Tensor:
        """``p_a`` of unit vectors ``[..., D]``."""
        if name not in self._texts:
            self._texts[name] = torch.stack([self._text(side) for side in phrases(name)])
        return (self.tau * f @ self._texts[name].T).softmax(-1)[..., 1]

    def text_map(self, found: dict[int, Tensor], whole: Tensor, name: str) -> Tensor:
        """``M_0 [h, w]``: harmonic mean over scales and the whole picture."""
        flip: Callable[[Tensor], Tensor] = (lambda p: 1 - p) if self.harmonic == "normality" else (lambda p: p)
        h, w = found[0].shape[:2]
        maps = []
        for scale in self.scales:
            p = flip(self.probability(found[scale], name).flatten())
            maps.append(harmonic_to_patches(p, h, w, scale))
        if self.full:
            maps.append(flip(self.probability(whole, name)).expand(h, w))
        return flip(1 / torch.stack([1 / one.clamp(min=_LEAST) for one in maps]).mean(0))

    def memory_map(self, found: dict[int, Tensor]) -> Tensor:
        """``M_W [h, w]``: mean over scales and patches of ``(1 - max_r <f, r>) / 2``."""
        h, w = found[0].shape[:2]
        maps = []
        for scale in (*self.scales, 0):
            far = (1 - (found[scale].flatten(0, 1) @ self._memory[scale].T).max(1).values).clamp(min=0) / 2
            maps.append(mean_to_patches(far, h, w, scale) if scale else far.reshape(h, w))
        return torch.stack(maps).mean(0)

    # -- the tower ------------------------------------------------------------------------------------------------

    def _look(self, image: Any) -> dict[int, Tensor]:
        return self._embed(self._square(image)[0])

    def _whole(self, x: Tensor) -> Tensor:
        return self.clip.encode_image(x)[0]

    def _embed(self, x: Tensor) -> dict[int, Tensor]:
        """Scale -> unit window vectors ``[n, m, D]``, and 0 -> unit patch features ``[h, w, C]``."""
        tokens = self.clip.encode("image", x)
        assert tokens.grid is not None
        assert tokens.hidden is not None
        h, w = tokens.grid
        out = {0: F.normalize(tokens.hidden[0, tokens.prefix :], dim=-1).reshape(h, w, -1)}
        for scale in self.scales:
            keep = windows(h, w, scale).to(x.device)
            rows = [self._of_patches(x, part) for part in torch.split(keep, self.batch)]
            out[scale] = F.normalize(torch.cat(rows), dim=-1).reshape(h - scale + 1, w - scale + 1, -1)
        return out

    def _of_patches(self, x: Tensor, keep: Tensor) -> Tensor:
        """Pooled vectors ``[K, D]`` of one picture seen through K subsets of its patches ``[K, s s]``."""

        def take(state: State) -> State:
            head = torch.arange(state.prefix, device=keep.device).expand(len(keep), -1)
            many = state.with_(x=state.x.expand(len(keep), -1, -1))
            return many.take(torch.cat([head, keep + state.prefix], dim=1))

        return self.clip.encode("image", x, {"embed.out": take}).pooled

    def _text(self, sentences: Sequence[str]) -> Tensor:
        rows = self.clip.encode_text(list(sentences), normalize=self.normalize_phrases)
        return F.normalize(rows.mean(0), dim=-1)

    def _square(self, image: Any) -> tuple[Tensor, tuple[int, int]]:
        """Normalised ``[1, 3, size, size]``, squashed, and the picture's own height and width."""
        if not isinstance(image, Tensor):
            image = torch.from_numpy(np.array(open_image(image).image)).permute(2, 0, 1).float() / 255
        assert self.clip.preprocess is not None
        squash = replace(self.clip.preprocess, size=self.size, resize_mode="squash")
        return preprocess_tensor(squash, image[None]).to(self.clip.device), (image.shape[1], image.shape[2])
