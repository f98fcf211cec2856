"""CLIPA-v2: masks while tuning, three phases, and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip.model.base import State
from binderclip.model.build import build
from binderclip.model.sites import recorder
from binderclip.model.vit import VisionTransformer
from binderclip.train.budget import block_flops, cost
from binderclip.train.clipa import CLIPA, Cell, TokenReductionStudy
from binderclip.train.clipa_v2 import CLIPAv2
from binderclip.train.parts.dropping import drop_tokens, keep_count
from binderclip.train.phases import plan
from binderclip.train.recipe import Recipe, read_recipe

from .kit import recipe, run, tiny_clip

pytestmark = pytest.mark.system("clipa_v2")

FIRST = {"steps": 2, "image_size": 8, "text_length": 6, "text_how": "syntax", "lr": 1e-2, "warmup": 1}
TUNING = {"steps": 3, "lr": 1e-3, "warmup": 1, "reset_optimizer": True}
MASKED = [FIRST, {**TUNING, "image_keep": 0.7}, {**TUNING, "image_size": 24, "image_keep": 0.6, "lr": 2.5e-4}]


def small(**options: Any) -> Any:
    return tiny_clip(positions="sincos", pool="avg", pre_norm=False, **options)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize(("size", "patch", "keep", "count"), [(32, 4, 0.7, 44), (48, 4, 0.6, 86), (16, 4, 1.0, 16)])
def test_tokens_that_the_blocks_see(size: int, patch: int, keep: float, count: int) -> None:
    tower, seen = VisionTransformer(size, patch, 8, 1, 1, 4, positions="sincos"), {}
    tower(torch.randn(3, 3, size, size), {"embed.out": drop_tokens(keep), "blocks.0.in": recorder(seen, "s")})
    state: State = seen["s"]
    assert state.x.shape[1] == 1 + count
    assert state.positions is not None
    assert (state.positions.expand(3, -1)[:, 0] == 0).all()
    rows = {tuple(row.tolist()) for row in state.positions.expand(3, -1)}
    assert len(rows) == (1 if keep == 1 else 3)  # every picture has its own draw


def test_token_counts() -> None:
    assert keep_count((84 // 14) ** 2, 1.0) == 36
    assert keep_count((70 // 14) ** 2, 1.0) == 25
    assert keep_count((224 // 14) ** 2, 1 - 0.3) == 179
    assert keep_count((336 // 14) ** 2, 1 - 0.4) == 345
    assert [keep_count((side // 4) ** 2, keep) for side, keep in ((32, 0.7), (48, 0.6))] == [44, 86]
    assert round(block_flops(44, 64, 3) / block_flops(64, 64, 3), 2) == 0.66


def test_without_masks_it_is_clipa(tmp_path: Path) -> None:
    losses: dict[str, list[float]] = {"clipa": [], "clipa_v2": []}
    made = {}
    for name, objective in (("clipa", CLIPA()), ("clipa_v2", CLIPAv2())):
        told = losses[name]
        phases = [FIRST, {**TUNING, "image_keep": 1.0} if name == "clipa_v2" else TUNING]
        made[name] = run(
            tmp_path / name,
            objective,
            recipe(name, phases=phases),
            clip=small(),
            listener=lambda r, told=told: told.append(r["loss"]) if r["event"] == "step" else None,
        )
        made[name].train()
    assert losses["clipa"] == losses["clipa_v2"]
    assert len(losses["clipa"]) == 5
    assert same(made["clipa"].clip, made["clipa_v2"].clip)


def test_only_training_drops_tokens(tmp_path: Path) -> None:
    counts: list[list[int]] = []
    kept: list[tuple[int, ...]] = []

    class Watch(CLIPAv2):
        def encode(self, clip: Any, batch: Any) -> Any:
            seen: dict[str, State] = {}
            clip.image(batch.views[0], {**(batch.image_at or {}), "blocks.0.in": recorder(seen, "s")})
            positions = seen["s"].positions
            counts.append(list(seen["s"].x.shape))
            assert positions is not None
            kept.append(tuple(positions.flatten().tolist()))
            return super().encode(clip, batch)

    made = run(tmp_path, Watch(), recipe("clipa_v2", phases=MASKED), clip=small())
    clip = made.train()
    assert clip is not None
    assert [shape[1] - 1 for shape in counts] == [4, 4, 11, 11, 11, 21, 21, 21]
    assert len(set(kept[2:5])) == 3
    clip.eval()
    pixels = torch.randn(2, 3, 16, 16)
    first = clip.encode("image", pixels)
    assert first.sequence.shape[1] == 17
    assert torch.equal(first.pooled, clip.encode("image", pixels).pooled)


def test_resumes_inside_the_second_phase(tmp_path: Path) -> None:
    made = recipe("clipa_v2", phases=MASKED)
    whole = run(tmp_path / "whole", CLIPAv2(), made, clip=small())
    whole.train()
    run(tmp_path / "parts", CLIPAv2(), made, clip=small()).train(until=4)
    again = run(tmp_path / "parts", CLIPAv2(), made, clip=small(seed=1))
    assert (again.step, again.plan.at(again.step)) == (4, (1, 2))
    again.train()
    assert same(whole.clip, again.clip)


def sizes(made: Recipe) -> dict[str, int]:
    assert not isinstance(made.model, str)
    image, text = (made.model["towers"][side] for side in ("image", "text"))
    return {
        "image_size": made.model["preprocess"]["size"],
        "patch_size": image["patch_size"],
        "image_width": image["width"],
        "image_layers": image["layers"],
        "text_length": text["context_length"],
        "text_width": text["width"],
        "text_layers": text["layers"],
        "prefix": 1,
    }


def test_the_budget_of_the_shipped_recipe() -> None:
    made = read_recipe("clipa-v2")
    laid = plan(made.phases, batch_size=made.data["batch_size"])
    rows = cost(laid, **sizes(made))
    assert [row.image_tokens for row in rows] == [36, 179, 345]
    assert [row.text_tokens for row in rows] == [8, 32, 32]
    assert [round(100 * row.share) for row in rows] == [77, 15, 7]
    # Rates are per 256 samples, so they follow the batch.
    assert [span.lr for span in laid.spans] == pytest.approx([2.048e-3, 5.12e-5, 6.4e-6])
    assert [span.warmup for span in laid.spans] == [3200, 794, 1587]


def test_the_shipped_model_can_be_built_and_is_tested_by_squashing() -> None:
    made = read_recipe("clipa-v2")
    with torch.device("meta"):
        clip = build(dict(made.model))  # type: ignore[arg-type]
    assert clip.preprocess is not None
    assert (clip.preprocess.resize_mode, clip.preprocess.interpolation) == ("squash", "bilinear")
    image = clip.tower("image")
    assert sum(p.numel() for p in image.parameters()) == pytest.approx(632e6, rel=0.01)  # a ViT-H/14


def test_syntax_reduction_is_in_the_first_phase_only() -> None:
    for name in ("clipa-v2", "clipa-v2-nano"):
        made = read_recipe(name)
        assert [phase.text_how for phase in made.phases] == ["syntax", "truncate", "truncate"]
        assert [phase.reset_optimizer for phase in made.phases] == [False, True, True]


def test_the_ablation_of_masks_changes_the_second_phase() -> None:
    base = read_recipe("clipa-v2-nano")
    made = TokenReductionStudy(("random",), (64, 44, 16), (64,), number=1).recipe(base, Cell("random", 16, 64))
    assert made.phases[0] == base.phases[0]
    assert made.phases[1].image_keep == 0.25
    assert made.phases[2] == base.phases[2]
