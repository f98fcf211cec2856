"""CLIP4Clip: identities of the four poolers, the patch that sees three frames, metrics by hand, order learned."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.errors import InputError, NeedsPartError
from binderclip.video.base import Pooler, masked_mean, pad_clips, pick_frames
from binderclip.video.clip4clip import (
    MeanP,
    PatchEmbedding3d,
    SeqLSTM,
    SeqTransformer,
    TightTransformer,
    learning_rate,
    retrieval_metrics,
    video_text_loss,
)

from ..train.kit import tiny_clip

pytestmark = pytest.mark.system("clip4clip")

B, T, D = 3, 6, 32


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def poolers() -> list[Pooler]:
    return [MeanP(), SeqLSTM(D), SeqTransformer(D, layers=2)]


def made() -> tuple[Tensor, Tensor]:
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]).bool()
    return 3 * torch.randn(B, T, D), mask


def test_mean_of_one_picture() -> None:
    image = torch.randn(B, D) * 5
    same = image[:, None].expand(B, T, D)
    assert (MeanP()(same) * F.normalize(image, dim=-1)).sum(-1).min() >= 1 - 1e-6
    frames, mask = made()
    expected = torch.stack([F.normalize(F.normalize(frames[b, m], dim=-1).mean(0), dim=0) for b, m in enumerate(mask)])
    torch.testing.assert_close(MeanP()(frames, mask), expected)  # a loop, without padding
    for pooler in (*poolers(), TightTransformer(D, layers=2).eval()):
        results = []
        for padding in (0.0, 9.0, math.nan, math.inf):
            padded = torch.where(mask[..., None], frames, torch.tensor(padding))
            with torch.no_grad():
                if isinstance(pooler, Pooler):
                    results.append(pooler(padded, mask))
                else:
                    results.append(pooler.similarity(torch.ones(2, D), padded, mask))
        for other in results[1:]:
            assert (other - results[0]).abs().max() < 1e-6
        longer = torch.cat([frames, torch.zeros(B, 4, D)], dim=1), torch.cat([mask, torch.zeros(B, 4).bool()], dim=1)
        with torch.no_grad():
            again = pooler(*longer) if isinstance(pooler, Pooler) else pooler.similarity(torch.ones(2, D), *longer)
        assert (again - results[0]).abs().max() < 1e-6


def test_poolers_give_unit_vectors_and_gradients() -> None:
    frames, mask = made()
    for pooler in poolers():
        frames.grad = None
        out = pooler(frames.requires_grad_(), mask)
        assert out.shape == (B, D)
        torch.testing.assert_close(out.norm(dim=-1), torch.ones(B))
        out.sum().backward()
        assert frames.grad is not None
        assert torch.isfinite(frames.grad).all()
        assert frames.grad[~mask].abs().max() == 0
        scores = pooler.similarity(7 * torch.randn(4, D), frames, mask)
        assert scores.shape == (4, B)
        assert scores.abs().max() <= 1 + 1e-6


def test_who_sees_the_order() -> None:
    frames = torch.randn(B, T, D)
    turned = frames.flip(1)
    assert (MeanP()(frames) - MeanP()(turned)).abs().max() < 1e-6
    pooler = SeqTransformer(D, layers=2)
    nn.init.normal_(pooler.temporal.positions, std=1.0)
    assert (pooler(frames) - pooler(turned)).abs().max() > 1e-3
    assert (SeqLSTM(D)(frames) - SeqLSTM(D)(turned)).abs().max() > 1e-3


def test_an_empty_transformer_is_the_mean() -> None:
    frames, mask = made()
    pooler = SeqTransformer(D)
    nn.init.zeros_(pooler.temporal.positions)
    for block in pooler.temporal.blocks:
        for linear in (block.attn.out, block.mlp.down):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
    assert (pooler(frames, mask) - MeanP()(frames, mask)).abs().max() < 1e-6
    kept = frames.masked_fill(~mask[..., None], 0)
    torch.testing.assert_close(pooler.temporal.run(kept, mask) + kept, 2 * kept)


def test_lstm_by_hand() -> None:
    frames, mask = made()
    pooler = SeqLSTM(D)
    for b in range(B):
        alone = frames[b, : int(mask[b].sum())][None]
        expected = masked_mean(pooler.lstm(alone)[0] + alone, torch.ones(alone.shape[:2]).bool())
        torch.testing.assert_close(pooler(frames, mask)[b], expected[0])
    with pytest.raises(InputError, match="padding at the end"):
        pooler(frames, mask.flip(1))


def test_only_the_key_mask_hides() -> None:
    pooler = SeqTransformer(D, layers=1)
    frames, mask = torch.randn(1, T, D), torch.ones(1, T).bool()
    changed = frames.clone()
    changed[0, -1] = torch.randn(D)
    before, after = pooler.temporal.run(frames, mask), pooler.temporal.run(changed, mask)
    assert (before[0, 0] - after[0, 0]).abs().max() > 1e-5  # the first frame sees the last: nothing is causal


def test_patches_in_three_dimensions() -> None:
    clip = tiny_clip().eval()
    tower = clip.tower("image")
    pixels = torch.randn(2, 5, 3, 16, 16)
    patch = next(part for part in tower.modules() if isinstance(part, nn.Conv2d))
    flat = patch(pixels.flatten(0, 1)).unflatten(0, (2, 5))
    assert (PatchEmbedding3d(patch)(pixels) - flat).abs().max() < 1e-5
    features = tower(pixels.flatten(0, 1)).pooled
    three = PatchEmbedding3d(patch)
    patch.forward = lambda x: three(x.unflatten(0, (2, 5))).flatten(0, 1)  # type: ignore[method-assign]
    assert (tower(pixels.flatten(0, 1)).pooled - features).abs().max() < 1e-5
    nn.init.normal_(three.conv.weight.data[:, :, 0], std=0.1)  # once trained it sees the frame before
    assert (tower(pixels.flatten(0, 1)).pooled - features).abs().max() > 1e-3


def test_start_from_the_text_tower() -> None:
    clip = tiny_clip()
    text = clip.tower("text")
    pooler = SeqTransformer(text.width, layers=2, heads=2, positions=40).init_from_text(clip)
    assert torch.equal(pooler.temporal.positions[:32], text.positions)
    for mine, theirs in zip(pooler.temporal.blocks, text.blocks, strict=True):
        assert torch.equal(mine.attn.qkv.weight, theirs.attn.qkv.weight)
        assert mine.attn.qkv.weight is not theirs.attn.qkv.weight
    for wrong in (SeqTransformer(text.width * 2), SeqTransformer(text.width, layers=3, heads=2)):
        with pytest.raises(NeedsPartError, match="start at random"):
            wrong.init_from_text(clip)


def test_tight_scores_one_by_one() -> None:
    frames, mask = made()
    text, tight = torch.randn(4, D), TightTransformer(D, layers=2).eval()
    scores = tight.similarity(text, frames, mask)
    assert scores.shape == (4, B)
    for b, real in enumerate(mask):
        alone = tight.similarity(text[1:2], frames[b : b + 1, real])
        assert (alone[0, 0] - scores[1, b]).abs() < 1e-6


def test_loss_by_hand() -> None:
    frames, mask = made()
    text = torch.randn(B, D)
    S = 100 * F.normalize(text, dim=-1) @ MeanP()(frames, mask).T
    expected = -(S.log_softmax(1).diag().mean() + S.log_softmax(0).diag().mean()) / 2
    torch.testing.assert_close(video_text_loss(MeanP(), text, frames, mask), expected, rtol=1e-3, atol=1e-3)
    tight = TightTransformer(D, layers=1).eval()
    S = tight.similarity(text, frames, mask)
    expected = -(S.log_softmax(1).diag().mean() + S.log_softmax(0).diag().mean()) / 2
    torch.testing.assert_close(video_text_loss(tight, text, frames, mask), expected)


def test_learning_rate_drops_when_warm_up_ends() -> None:
    assert [learning_rate(step, 100) for step in (0, 5)] == [0.0, 0.5]
    assert learning_rate(9, 100) == pytest.approx(0.9)
    assert learning_rate(10, 100) == pytest.approx((1 + math.cos(0.1 * math.pi)) / 2) == pytest.approx(0.976, abs=1e-3)
    assert learning_rate(100, 100) == pytest.approx(0.0)


def test_metrics_by_hand() -> None:
    S = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.6], [0.1, 0.2, 0.3]])
    got = retrieval_metrics(S)  # texts rank 1, 3, 1; videos rank 1, 1, 2
    assert got["t2v_r1"] == pytest.approx(2 / 3)
    assert (got["t2v_r5"], got["t2v_median"], got["t2v_mean"]) == (1.0, 1.0, pytest.approx(5 / 3))
    assert (got["v2t_r1"], got["v2t_median"]) == (pytest.approx(2 / 3), 1.0)
    assert got["v2t_mean"] == pytest.approx(4 / 3)
    flat = retrieval_metrics(torch.zeros(4, 4))
    assert (flat["t2v_r1"], flat["v2t_r1"], flat["t2v_mean"]) == (0.0, 0.0, 4.0)
    # Video 0 has two captions; its better one counts.
    got = retrieval_metrics(torch.tensor([[0.1, 0.7], [0.9, 0.2], [0.3, 0.8]]), groups=[0, 0, 1])
    assert got["t2v_r1"] == pytest.approx(2 / 3)
    assert got["v2t_r1"] == 1.0
    with pytest.raises(InputError, match="name one of the videos"):
        retrieval_metrics(torch.zeros(2, 2), groups=[0, 5])


def test_frames_that_are_picked() -> None:
    assert pick_frames(5) == [0, 1, 2, 3, 4]
    assert pick_frames(100, 12) == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99]
    assert pick_frames(30, 4) == [0, 9, 19, 29]
    assert pick_frames(30, 1) == [0]
    frames, mask = pad_clips([torch.ones(2, D), torch.ones(4, D)])
    assert frames.shape == (2, 4, D)
    assert mask.tolist() == [[True, True, False, False], [True] * 4]


@pytest.mark.parametrize(
    ("frames", "mask", "says"),
    [
        (torch.zeros(2, 3), None, "clips, frames"), (torch.zeros(2, 3, 4), torch.ones(3, 2), "mask"),
        (torch.ones(2, 3, 4), torch.tensor([[1, 1, 1], [0, 0, 0]]), "no frame"),
    ],
)  # fmt: skip
def test_what_cannot_be_pooled_is_one_line(frames: Tensor, mask: Tensor | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        MeanP()(frames, mask)
    with pytest.raises(InputError, match="take fewer"):
        SeqTransformer(8, positions=4)(torch.ones(1, 5, 8))


def test_order_is_learned() -> None:
    """Clips of A then B and of B then A; the text says more of what comes first. Pairs of the test are not trained on."""
    things = F.normalize(torch.randn(12, D), dim=-1)
    pairs = [(a, b) for a in range(12) for b in range(12) if a != b]
    held = {(a, b) for a, b in pairs if (a + b) % 5 == 0}

    def clips(some: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        a, b = (things[torch.tensor([pair[i] for pair in some])] for i in (0, 1))
        frames = torch.cat([a[:, None].expand(-1, 3, -1), b[:, None].expand(-1, 3, -1)], dim=1)
        return frames + 0.05 * torch.randn(len(some), 6, D), F.normalize(a + 0.5 * b, dim=-1)

    def accuracy(pooler: Pooler) -> float:
        some = sorted(held)
        frames, text = clips(some)
        S = pooler.similarity(text, frames)
        back = [some.index((b, a)) for a, b in some]
        right, wrong = S.diag(), S[torch.arange(len(some)), torch.tensor(back)]
        return float(((right > wrong + 1e-6).double() + 0.5 * ((right - wrong).abs() <= 1e-6)).mean())

    frames, text = clips([pair for pair in pairs if pair not in held])
    pooler = SeqTransformer(D, layers=2, heads=2)
    optimizer = torch.optim.AdamW(pooler.parameters(), lr=3e-3)
    for step in range(100):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * learning_rate(step, 100)
        loss = video_text_loss(pooler, text, frames, logit_scale=3.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert accuracy(pooler) > 0.9
        noise_free = torch.cat([things[:2], things[:2].flip(0)])[None]
        assert torch.allclose(MeanP()(noise_free), MeanP()(noise_free.flip(1)), atol=1e-6)
