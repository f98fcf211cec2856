"""CLIPA: how many tokens each way leaves, what they cost, fixed positions at any size, and the study of the reductions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from binderclip.errors import InputError
from binderclip.model.base import State
from binderclip.model.block import Block
from binderclip.model.positions import resize_grid_positions
from binderclip.model.sites import recorder
from binderclip.model.tokenizer import Tokenizer
from binderclip.model.vit import VisionTransformer, sincos_positions
from binderclip.train.budget import block_flops, cost
from binderclip.train.clipa import CLIPA, Cell, Report, TokenReductionStudy, run_to_the_end
from binderclip.train.contrastive import Contrastive
from binderclip.train.parts.dropping import drop_tokens
from binderclip.train.parts.text import shorten_ids, shorten_words
from binderclip.train.phases import plan
from binderclip.train.reading import batch_of
from binderclip.train.recipe import Recipe, read_recipe

from .kit import batch, recipe, run, tiny_clip

pytestmark = pytest.mark.system("clipa")


def tower(size: int = 32, **options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(size, 4, 24, 2, 2, 12, positions="sincos", pre_norm=False, **options)


def patches_seen(how: str, keep: float, size: int = 32) -> torch.Tensor:
    """Which patches [N, K] the first block of the tower sees, class token left out."""
    kept: dict[str, State] = {}
    at = {"embed.out": drop_tokens(keep, how), "blocks.0.in": recorder(kept, "s")}
    tower()(torch.randn(5, 3, size, size), at)
    state = kept["s"]
    assert state.positions is not None
    assert (state.positions.expand(5, -1)[:, 0] == 0).all()  # the class token stays
    return state.positions.expand(5, -1)[:, 1:] - 1


def test_each_way_leaves_the_tokens_asked_for() -> None:
    study = TokenReductionStudy(("resize", "random", "grid", "block"), (64, 16), (24,))
    for how in study.hows:
        phase = study.phase(how, 16)
        seen = patches_seen(phase.get("image_how", "random"), phase.get("image_keep", 1.0), phase.get("image_size", 32))
        assert seen.shape == (5, 16), how
        rows, columns = seen // 8, seen % 8
        if how == "grid":
            windows = (rows // 2 * 4 + columns // 2).tolist()
            assert all(sorted(line) == list(range(16)) for line in windows)
        if how == "block":
            for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
                assert (max(y) - min(y) + 1, max(x) - min(x) + 1) == (4, 4)
    assert torch.equal(patches_seen("random", 0.25).diff(dim=1) > 0, torch.ones(5, 15, dtype=torch.bool))
    net, x = tower(), torch.randn(2, 3, 32, 32)
    assert torch.equal(net(x).pooled, net(x, {"embed.out": drop_tokens(1.0, "random")}).pooled)


def test_syntax_keeps_the_nouns_in_their_order() -> None:
    assert shorten_words("the quick brown fox jumps over a lazy dog", 4, "syntax") == "quick brown fox dog"
    assert shorten_words("a dog", 4, "syntax") == "a dog"


def test_texts_of_a_tower_that_pools_the_last_slot_are_filled_to_the_phase() -> None:
    made = Tokenizer.from_config({"kind": "clip_bpe", "context_length": 16, "end": None, "pad_to": "max"})
    for length in (6, None):
        got = batch_of((), [("a dog",), ("a red cross above a small blue ring on the left",)], made, length=length)
        assert got.ids[0].shape == (2, length or 16)
        assert (got.ids[0][0, 3:] == 0).all()  # start, two words, padding up to the phase's own length
    ids, last = shorten_ids(torch.tensor([[1, 5, 0, 0]]), torch.tensor([1]), 3, end=False)
    assert (ids.tolist(), last.tolist()) == ([[1, 5, 0]], [1])


def test_sincos_positions_by_the_formula() -> None:
    width, grid = 16, (3, 5)
    table = sincos_positions(grid, width, prefix=1)
    assert torch.equal(table[0], torch.zeros(width))
    for y in range(3):
        for x in range(5):
            row = [f(p * 10_000 ** (-i / 3)) for p in (x, y) for f in (math.sin, math.cos) for i in range(4)]
            assert torch.allclose(table[1 + y * 5 + x], torch.tensor(row), atol=1e-6)
    with pytest.raises(InputError, match="width"):
        sincos_positions(grid, 6)
    with pytest.raises(InputError, match="learned"):
        VisionTransformer(8, 4, 8, 1, 1, 4, positions="fixed")


def test_another_size_needs_no_new_parameter() -> None:
    small, large = tower(16), tower(32)
    assert not [key for key in small.state_dict() if "position" in key]
    assert small.state_dict().keys() == large.state_dict().keys()
    large.load_state_dict(small.state_dict())
    x = torch.randn(2, 3, 32, 32)
    wanted = large(x).pooled
    assert torch.equal(small(x).pooled, wanted)
    small.resize_positions(32)
    assert torch.equal(small(x).pooled, wanted)
    assert torch.equal(small.positions_for((8, 8))[1:5], small.positions_for((4, 4))[1:5])  # absolute, not stretched


def test_a_learned_class_row_is_not_resized_with_the_grid() -> None:
    table = torch.randn(1 + 16, 8)
    larger = resize_grid_positions(table, (8, 8), 1)
    assert torch.equal(larger[0], table[0])
    assert torch.allclose(larger[1:], resize_grid_positions(table[1:], (8, 8), 0))


@pytest.mark.parametrize(("width", "share", "with_class"), [(32, 0.203, 0.213), (64, 0.223, 0.234), (96, 0.231, 0.242)])
def test_block_arithmetic(width: int, share: float, with_class: float) -> None:
    block = Block(width, 4)
    counted = {}
    for tokens in (16, 64):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            block(State(x=torch.zeros(1, tokens, width)))
        counted[tokens] = counter.get_total_flops()
        assert counted[tokens] == 2 * (12 * tokens * width**2 + 2 * tokens**2 * width)
    assert round(counted[16] / counted[64], 3) == share
    assert round(block_flops(17, width, 3) / block_flops(65, width, 3), 3) == with_class
    linear = [24 * tokens * width**2 for tokens in (16, 64)]
    assert linear[0] / linear[1] == 0.25


def test_the_scale_is_not_clamped() -> None:
    clip = tiny_clip()
    with torch.no_grad():
        clip.logit_scale.fill_(math.log(200))
    CLIPA().after_step(clip, 0, 1)
    assert float(clip.scale.detach()) == pytest.approx(200, rel=1e-5)
    rows = batch(CLIPA(), clip)
    assert torch.equal(CLIPA()(clip, rows).total, Contrastive()(clip, rows).total)


def test_two_phases_run_and_are_measured_at_full_size(tmp_path: Path) -> None:
    sizes: list[tuple[int, int]] = []

    class Watch(CLIPA):
        def encode(self, clip: Any, batch: Any) -> Any:
            sizes.append((batch.views[0].shape[-1], batch.ids[0].shape[1]))
            return super().encode(clip, batch)

    phases = [
        {"steps": 2, "image_size": 8, "text_length": 6, "text_how": "syntax", "lr": 1e-2},
        {"steps": 2, "lr": 1e-3, "warmup": 1, "reset_optimizer": True},
    ]
    rates: list[float] = []
    clip = tiny_clip(positions="sincos")
    made = run(tmp_path, Watch(), recipe(phases=phases), clip=clip, listener=lambda r: rates.append(r.get("lr", 0)))
    result = made.train()
    assert [(size, length <= 6) for size, length in sizes] == [(8, True), (8, True), (16, False), (16, False)]
    assert [rate for rate in rates if rate][2] == pytest.approx(1e-3)
    assert result is not None
    assert result.preprocess is not None
    assert result.preprocess.size == 16


def toy(made: Recipe, folder: Path) -> Mapping[str, Any]:
    """Log2 of the tokens, more of it lost by narrow towers."""
    folder.mkdir()  # every cell has a folder of its own
    phase, width = made.phases[0], made.to_dict()["model"]["towers"]["image"]["width"]
    tokens = ((phase.image_size or 32) // 4) ** 2 * phase.image_keep
    return {"text_to_image": 0.1 * math.log2(tokens) * 32 / width}


def test_the_study_lays_out_its_runs_and_reports_slopes(tmp_path: Path) -> None:
    base = read_recipe("clipa-nano")
    study = TokenReductionStudy(("resize", "grid"), (64, 16), (32, 64))
    made = study.recipe(base, Cell("grid", 16, 64))
    assert (made.phases[0].image_keep, made.phases[0].image_how, made.phases[0].text_length) == (0.25, "grid", 6)
    assert made.phases[1] == base.phases[1]
    assert {side: tower["width"] for side, tower in made.to_dict()["model"]["towers"].items()} == {
        "image": 64,
        "text": 64,
    }
    report = study(base.with_(["phases.0.image_size=32"]), tmp_path, train=toy)
    assert len(report.scores) == 8
    assert report.slopes() == pytest.approx({(h, w): 3.2 / w for h in ("resize", "grid") for w in (32, 64)})
    assert report.drops() == pytest.approx({(h, w): 6.4 / w for h in ("resize", "grid") for w in (32, 64)})
    assert report.table().splitlines()[1].split() == ["resize", "32", "0.600", "0.400", "+0.100"]
    text = TokenReductionStudy(("syntax",), (8, 16), (32,), side="text")
    assert text.phase("syntax", 8) == {"text_length": 8, "text_how": "syntax"}
    for bad in (
        {"hows": ("zoom",)},
        {"lengths": (64,)},
        {"lengths": (64, 15)},
        {"hows": ("random",), "lengths": (128, 16)},
    ):
        with pytest.raises(InputError):
            TokenReductionStudy(**bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="width"):
        study.recipe(recipe("clipa"), Cell("grid", 16, 64))


def test_a_cell_is_trained_for_real(tmp_path: Path) -> None:
    base = read_recipe("clipa-nano").with_(
        [
            "data.pairs=scenes:128?size=32",
            "data.batch_size=8",
            "phases.0.steps=2",
            "phases.1.steps=2",
            "validate.rows=32",
            "validate.pairs=scenes:64?size=32&split=test",
        ]
    )
    study = TokenReductionStudy(("resize",), (64, 16), (32,))
    found = run_to_the_end(study.recipe(base, Cell("resize", 16, 32)), tmp_path / "one")
    assert found["step"] == 4
    assert 0 <= found["text_to_image"] <= 1
    assert Report({Cell("resize", 16, 32): 0.5, Cell("resize", 64, 32): 0.5}).drops() == {("resize", 32): 0.0}


def test_the_recipe_at_paper_scale() -> None:
    made = read_recipe("clipa")
    laid = plan(made.phases, batch_size=made.data["batch_size"], lr=made.optimizer.get("lr"))
    assert [round(span.lr, 7) for span in laid.spans] == [8e-6 * 128, 8e-7 * 64]
    rows = cost(
        laid,
        image_size=224,
        patch_size=16,
        image_width=768,
        image_layers=12,
        text_length=32,
        text_width=512,
        text_layers=12,
        prefix=1,
    )
    assert [(row.image_tokens, row.text_tokens) for row in rows] == [(49, 16), (196, 32)]
