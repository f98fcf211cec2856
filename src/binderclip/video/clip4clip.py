"""CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval (Luo et al. 2021, arXiv 2104.08860).

Four ways from the embeddings of frames to one of the clip, and the loss that fine-tunes them: the mean, which has no
parameters and is safest with little data; an LSTM; a transformer over time; and a transformer over text and frames together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.cards import Card
from binderclip.errors import InputError, NeedsPartError
from binderclip.losses import info_nce
from binderclip.model.base import State
from binderclip.model.block import Block, quick_gelu
from binderclip.model.clip import CLIP
from binderclip.video.base import Pooler, check_frames, masked_mean

__all__ = [
    "MeanP",
    "PatchEmbedding3d",
    "SeqLSTM",
    "SeqTransformer",
    "TightTransformer",
    "learning_rate",
    "retrieval_metrics",
    "video_text_loss",
]

CARD = Card(
    slug="clip4clip",
    name="CLIP4Clip",
    title="CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval",
    arxiv="2104.08860",
    year=2021,
    room="video",
    provides="MeanP",
    kind="Pooler",
    needs=("embeddings",),
    must_show={
        "meanP of T identical frames is the image embedding (cosine 1 - 1e-6); masked padding changes nothing (1e-6)": (
            "tests/video/test_clip4clip.py::test_mean_of_one_picture"
        ),
        "meanP does not see the order, seqTransf with non-zero P does (1e-3)": (
            "tests/video/test_clip4clip.py::test_who_sees_the_order"
        ),
        "output projections zeroed and P = 0: 2F, which is meanP (1e-6)": (
            "tests/video/test_clip4clip.py::test_an_empty_transformer_is_the_mean"
        ),
        "the 3-D patch embedding gives the 2-D frame features at the start (1e-5)": (
            "tests/video/test_clip4clip.py::test_patches_in_three_dimensions"
        ),
        "metrics of a 3x3 matrix by hand; ties do not inflate R@1": (
            "tests/video/test_clip4clip.py::test_metrics_by_hand"
        ),
        "zero-shot, 50 photo-clips: R@1 at least 5x chance": "bench:video_clip4clip",
        "montages: 12-frame meanP beats the middle frame": "bench:video_clip4clip",
        "seqTransf, 100 steps on ordered pairs: accuracy above 0.9 where meanP stays at 0.5": (
            "missed:video_clip4clip: 0.655 (meanP 0.500) on pairs not trained on: pocket's captions 'X, then Y' and"
            " 'Y, then X', which stay frozen, have a cosine of 0.995 and more to each other;"
            " above 0.9 where the text tells the order plainly (tests/video/test_clip4clip.py::test_order_is_learned)"
        ),
    },
)


class MeanP(Pooler):
    """``v = norm(sum_t m_t f_t / sum m)``, ``f_t = F_t / |F_t|``: parameter-free, and blind to the order of frames."""

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Pooler`."""
        return masked_mean(frames, check_frames(frames, mask))


class SeqLSTM(Pooler):
    """``F' = LSTM(F) + F`` over the frames that are there, then `MeanP`: one layer, one direction.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, batch_first=True)

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Pooler`. The frames that are there come first, the padding at the end."""
        real = check_frames(frames, mask)
        lengths = real.sum(dim=1)
        if not torch.equal(real, torch.arange(real.shape[1], device=real.device)[None] < lengths[:, None]):
            raise InputError("SeqLSTM reads frames in order: put the padding at the end")
        kept = frames.masked_fill(~real[..., None], 0.0)
        packed = nn.utils.rnn.pack_padded_sequence(kept, lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, _ = nn.utils.rnn.pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=frames.shape[1]
        )  # [B, T, D], zeros behind the end
        return masked_mean(out + kept, real)


class _Temporal(nn.Module):
    """Learned positions and pre-norm blocks with QuickGELU: what both transformers share.

    Args:
        dim: D, the width.
        layers: blocks.
        heads: of attention; D / 64 by default, at least 1.
        positions: rows of the position table.
    """

    def __init__(self, dim: int, layers: int, heads: int | None, positions: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(positions, dim))
        nn.init.normal_(self.positions, std=0.02)
        heads = heads or max(dim // 64, 1)
        self.blocks = nn.ModuleList(Block(dim, heads, activation="quick_gelu") for _ in range(layers))
        for part in self.blocks.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def run(self, x: Tensor, mask: Tensor) -> Tensor:
        """Blocks over ``x + P`` [B, S, D]; only the mask [B, S] hides, nothing is causal."""
        if x.shape[1] > len(self.positions):
            raise InputError(f"{x.shape[1]} frames and {len(self.positions)} positions: take fewer (`pick_frames`)")
        bias = (1.0 - mask[:, None, None, :].to(x.dtype)) * -1e6  # the reference's key mask, [B, 1, 1, S]
        state = State(x + self.positions[: x.shape[1]], bias=bias)
        for block in self.blocks:
            state = block(state)
        return state.x

    @torch.no_grad()
    def copy_text(self, clip: CLIP) -> None:
        """Positions and the first blocks of the CLIP's text transformer.

        Raises:
            NeedsPartError: the text tower has no such blocks, too few, or another width.
        """
        text: Any = clip.tower("text")
        blocks, table = getattr(text, "blocks", None), getattr(text, "positions", None)
        table = getattr(table, "weight", table)
        width = self.positions.shape[1]
        fits = blocks is not None and isinstance(table, Tensor) and table.shape[1] == width
        if not fits or blocks is None or table is None or len(blocks) < len(self.blocks):
            raise NeedsPartError(
                f"the text tower has no {len(self.blocks)} transformer blocks of width {width} with positions:"
                " start at random (leave out init_from_text)"
            )
        try:
            for mine, theirs in zip(self.blocks, blocks, strict=False):
                mine.load_state_dict(theirs.state_dict())
        except RuntimeError:
            raise NeedsPartError(
                "the text tower's blocks are of another form: start at random (leave out init_from_text)"
            ) from None
        rows = min(len(self.positions), len(table))
        self.positions[:rows] = table[:rows]


class SeqTransformer(Pooler):
    """``F' = Transformer(F + P) + F``, then `MeanP`. The residual around the whole adds F, not F + P.

    Args:
        dim: D.
        layers: blocks; the paper's 4.
        heads: of attention; D / 64 by default.
        positions: most frames; the paper's 77, so that CLIP's text positions fit.
    """

    def __init__(self, dim: int, layers: int = 4, heads: int | None = None, positions: int = 77) -> None:
        super().__init__()
        self.temporal = _Temporal(dim, layers, heads, positions)

    def init_from_text(self, clip: CLIP) -> Self:
        """Starts from the CLIP's text transformer; see `binderclip.errors.NeedsPartError` where it cannot."""
        self.temporal.copy_text(clip)
        return self

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Pooler`."""
        real = check_frames(frames, mask)
        kept = frames.masked_fill(~real[..., None], 0.0)
        return masked_mean(self.temporal.run(kept, real) + kept, real)


class TightTransformer(nn.Module):
    """``s = Linear(QuickGELU(Linear(LN(Transformer([w; F] + P)_0))))``: every text with every clip, O(N M).

    Args:
        dim: D.
        layers: blocks; the paper's 4.
        heads: of attention; D / 64 by default.
        positions: most frames and one.
        dropout: on the input; the reference's 0.1.
    """

    def __init__(
        self, dim: int, layers: int = 4, heads: int | None = None, positions: int = 78, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.temporal = _Temporal(dim, layers, heads, positions)
        self.dropout = nn.Dropout(dropout)
        self.norm, self.hidden, self.score = nn.LayerNorm(dim), nn.Linear(dim, dim), nn.Linear(dim, 1)
        for linear in (self.hidden, self.score):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def init_from_text(self, clip: CLIP) -> Self:
        """See `SeqTransformer.init_from_text`."""
        self.temporal.copy_text(clip)
        return self

    def similarity(self, text: Tensor, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores [N, M] of un-normalised texts [N, D] and clips [M, T, D]; no scale belongs to them."""
        real = check_frames(frames, mask)
        kept = frames.masked_fill(~real[..., None], 0.0)
        mine = torch.cat([real.new_ones(len(kept), 1), real], dim=1)  # [M, 1 + T]
        rows = []
        for one in text:  # a row at a time: memory of M pairs, not N M
            x = torch.cat([one.expand(len(kept), 1, -1), kept], dim=1)  # [M, 1 + T, D]
            first = self.temporal.run(self.dropout(x), mine)[:, 0]
            rows.append(self.score(quick_gelu(self.hidden(self.norm(first))))[:, 0])
        return torch.stack(rows)


class PatchEmbedding3d(nn.Module):
    """A patch convolution that sees three frames; at its start it is the 2-D one: only its middle slice is not zero.

    Args:
        patch: the 2-D patch convolution, kernel and stride p.
    """

    def __init__(self, patch: nn.Conv2d) -> None:
        super().__init__()
        (p, q), (down, right) = patch.kernel_size, patch.stride
        self.conv = nn.Conv3d(
            patch.in_channels, patch.out_channels, (3, p, q), (1, down, right), (1, 0, 0), bias=patch.bias is not None
        )
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[:, :, 1] = patch.weight
            if patch.bias is not None and self.conv.bias is not None:
                self.conv.bias.copy_(patch.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Frames [B, T, 3, H, W] to patch features [B, T, width, H / p, W / p]."""
        out: Tensor = self.conv(pixels.transpose(1, 2))  # [B, width, T, h, w]
        return out.transpose(1, 2)


def video_text_loss(
    pooler: Pooler | TightTransformer,
    text: Tensor,
    frames: Tensor,
    mask: Tensor | None = None,
    logit_scale: Tensor | float = 4.6052,
) -> Tensor:
    """``L = (CE_rows(S) + CE_cols(S)) / 2`` of the scores ``S = exp(logit_scale) w . v`` [B, B] of one batch.

    Args:
        pooler: makes the clips' embeddings, or (tight) the scores, which have no scale.
        text: embeddings of the captions, one a clip [B, D].
        frames: un-normalised embeddings [B, T, D].
        mask: true where there is a frame [B, T].
        logit_scale: logarithm of the scale; at most, and by default, ln 100.
    """
    if isinstance(pooler, TightTransformer):
        scores = pooler.similarity(text, frames, mask)
        diagonal = torch.arange(len(scores), device=scores.device)
        return (F.cross_entropy(scores, diagonal) + F.cross_entropy(scores.T, diagonal)) / 2
    scale = torch.as_tensor(logit_scale, device=frames.device).exp()
    return info_nce(F.normalize(text, dim=-1), pooler(frames, mask), scale)


def learning_rate(step: int, total: int, warmup: float = 0.1) -> float:
    """Factor of the learning rate at ``x = step / total``: ``x / warmup``, then ``(1 + cos(pi x)) / 2`` (it jumps)."""
    x = step / max(total, 1)
    return x / warmup if x < warmup else 0.5 * (1.0 + math.cos(math.pi * min(x, 1.0)))


def retrieval_metrics(scores: Tensor, groups: Sequence[int] | Iterable[int] | None = None) -> dict[str, float]:
    """Recall at 1, 5, 10, median and mean rank, of text to video (`t2v_`) and back (`v2t_`).

    A tie is never in the query's favour: ``rank = 1 + #{higher} + #{equal, not the right one}``. With several captions a
    video, the video's score for another video is its best caption's.

    Args:
        scores: of texts and videos [N, M].
        groups: number of each text's video [N]; by default text i belongs to video i.
    """
    N, M = scores.shape
    owner = torch.arange(N) if groups is None else torch.as_tensor(list(groups))
    if len(owner) != N or int(owner.max()) >= M or int(owner.min()) < 0:
        raise InputError(f"{len(owner)} groups for scores of {N} texts and {M} videos: name one of the videos for each")
    S = scores.detach().cpu()
    right = S[torch.arange(N), owner]  # [N]
    t2v = (right[:, None] <= S).sum(dim=1)  # the right one counts itself: the 1 of the rank
    best = torch.full((M, M), -torch.inf, dtype=S.dtype)  # [video asked with, video of the captions]
    best = best.scatter_reduce(1, owner[None].expand(M, N), S.T, "amax", include_self=True)
    present = torch.unique(owner)
    v2t = (best[present] >= best[present, present][:, None]).sum(dim=1)
    out: dict[str, float] = {}
    for name, ranks in (("t2v", t2v), ("v2t", v2t)):
        values = ranks.double()
        out |= {f"{name}_r{k}": float((values <= k).double().mean()) for k in (1, 5, 10)}
        out |= {f"{name}_median": float(values.quantile(0.5)), f"{name}_mean": float(values.mean())}
    return out
