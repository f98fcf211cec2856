"""SLIP, FLIP and CLIPAug against plain CLIP, loops and counted operations; the study's fits, tables and resuming."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from binderclip.data.pairs import Pair, Pairs
from binderclip.data.transforms import Augment
from binderclip.errors import InputError
from binderclip.losses import nt_xent
from binderclip.model.clip import CLIP
from binderclip.train.budget import block_flops
from binderclip.train.clip_aug import CLIPAug
from binderclip.train.contrastive import Contrastive
from binderclip.train.flip import FLIP
from binderclip.train.loop import Run
from binderclip.train.parts.dropping import keep_count
from binderclip.train.recipe import Recipe, shipped_recipes
from binderclip.train.scaling_down import Cell, PowerLaw, ScalingStudy, power_fit, quality_of, subset, tower_flops
from binderclip.train.scaling_report import ScalingReport
from binderclip.train.slip import SLIP

from .kit import SCENES, batch, recipe, run, tiny_clip

pytestmark = pytest.mark.system("scaling_down")


def blocks_seen(clip: CLIP) -> list[Tensor]:
    """What goes into the image tower's first block, call by call."""
    seen: list[Tensor] = []
    clip.tower("image").blocks[0].register_forward_hook(lambda _, args, out: seen.append(out.x))
    return seen


# -- strategies ----------------------------------------------------------------------------------------------------------


def test_flip(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", Contrastive()).train(until=3) or run(tmp_path / "plain", Contrastive()).clip
    kept = run(tmp_path / "kept", FLIP(keep=1.0)).train(until=3) or run(tmp_path / "kept", FLIP(keep=1.0)).clip
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), kept.state_dict().values(), strict=True))
    clip, objective = tiny_clip(), FLIP(keep=0.5).train()
    assert dict(objective.named_parameters()) == {}
    seen, rows = blocks_seen(clip), batch(Contrastive(), clip)
    positions: list[Tensor] = []
    at = {"blocks.0.in": lambda state: (positions.append(state.positions), state)[1]}
    torch.manual_seed(0)
    objective.encode(clip, replace(rows, image_at=at))
    assert seen[-1].shape[1] == 16 // 2 + 1
    assert (positions[0][:, 0] == 0).all()  # the class token
    assert len({tuple(row.tolist()) for row in positions[0]}) > 1  # other images, other masks
    assert objective.draws
    assert not FLIP(keep=1.0).draws
    objective.eval()
    objective.encode(clip, rows)
    assert seen[-1].shape[1] == 17


def test_flip_ends_unmasked() -> None:
    objective, clip = FLIP(unmasked=0.25).train(), tiny_clip()
    masked = []
    for step in range(8):
        objective.before_step(clip, step, 8)
        masked.append(objective.masked)
    assert masked == [True] * 6 + [False] * 2
    with pytest.raises(InputError, match="shares"):
        FLIP(keep=0.0)


def test_slip_of_weight_0_is_clip() -> None:
    clip = tiny_clip()
    alone, whole = SLIP(weight=0.0), SLIP(hidden=16, out=8)
    for objective in (alone, whole):
        objective.setup(clip, {})
    assert dict(alone.named_parameters()) == {}
    rows, three = batch(alone, clip), batch(whole, clip)
    assert (len(rows.views), len(three.views)) == (1, 3)
    assert torch.equal(rows.views[0], three.views[0])  # view 0 is the same crop
    plain = Contrastive()(clip, rows).total
    assert torch.equal(alone(clip, rows).total, plain)
    loss = whole(clip, three)
    assert torch.equal(loss.parts["contrastive"], plain)
    assert torch.equal(loss.total, loss.parts["contrastive"] + loss.parts["nt_xent"])


def test_slip_views_have_their_own_statistics() -> None:
    """The two views go through the head one after the other; together they would give another loss."""
    clip, objective = tiny_clip(), SLIP(hidden=16, out=8).train()
    objective.setup(clip, {})
    rows = batch(objective, clip)
    raw = [clip.encode("image", view).raw for view in rows.views[1:]]
    assert raw[0] is not None
    assert raw[1] is not None
    assert raw[0].shape[1] == clip.tower("image").width  # before the projection
    heads = [torch.nn.functional.normalize(objective.head(part), dim=-1) for part in raw]
    both = torch.nn.functional.normalize(objective.head(torch.cat([raw[0], raw[1]])), dim=-1)
    own = objective(clip, rows).parts["nt_xent"]
    assert torch.allclose(own, nt_xent(heads[0], heads[1]), atol=1e-6)
    assert not torch.allclose(own, nt_xent(both[:8], both[8:]), atol=1e-4)


def test_nt_xent_is_a_loop() -> None:
    torch.manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(5, 4, dtype=torch.float64), dim=-1) for _ in range(2))
    total = 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(5):
            others = [math.exp(float(x[i] @ y[j]) / 0.1) for j in range(5)]
            own = [math.exp(float(x[i] @ x[j]) / 0.1) for j in range(5) if j != i]  # the diagonal has no share
            total -= math.log(others[i] / (sum(others) + sum(own))) / 5 / 2
    assert nt_xent(a, b).item() == pytest.approx(total, abs=1e-6)
    logits = (a @ a.T / 0.1).masked_fill(torch.eye(5, dtype=torch.bool), -1e9)
    assert (torch.cat([a @ b.T / 0.1, logits], dim=1).softmax(-1)[:, 5:].diagonal() == 0).all()


def test_clip_aug_changes_the_view_alone() -> None:
    clip = tiny_clip()
    plain, strong = batch(Contrastive(), clip), batch(CLIPAug(), clip)
    assert len(strong.views) == 1
    assert plain.crops is not None
    assert strong.crops is not None
    assert torch.equal(plain.crops, strong.crops)
    assert plain.texts == strong.texts
    assert not torch.equal(plain.views[0], strong.views[0])
    made = CLIPAug(magnitude=5, n=3, flip=0.0).views(Augment())["view"]
    assert made.randaugment is not None
    assert (made.randaugment.N, made.randaugment.M, made.flip, made.scale) == (3, 5, 0.0, (0.5, 1.0))
    assert torch.equal(batch(CLIPAug(n=0, flip=0.0), clip).views[0], plain.views[0])
    with pytest.raises(InputError, match="unknown policy"):
        CLIPAug(policy="other")


def test_flops() -> None:
    """Counted: SLIP is three times CLIP. FLIP by the closed form of the blocks, and counted the same."""
    clip = tiny_clip()
    plain, text = tower_flops(clip, Contrastive())
    slip = SLIP(hidden=16, out=8)
    slip.setup(clip, {})
    assert tower_flops(clip, slip) == (3 * plain, text)
    masked, _ = tower_flops(clip, FLIP(0.5))
    assert plain - masked == block_flops(17, 16, 2) - block_flops(9, 16, 2)
    half = keep_count(64, 0.5) + 1
    for width, wanted in ((32, 0.44), (64, 0.47), (96, 0.48)):
        assert block_flops(half, width, 3) / block_flops(65, width, 3) == pytest.approx(wanted, abs=0.005)
    assert (keep_count(196, 0.5) + 1, half) == (99, 33)
    assert block_flops(99, 768, 12) / block_flops(197, 768, 12) == pytest.approx(0.49, abs=0.005)


# -- the study -----------------------------------------------------------------------------------------------------------


def test_power_fit() -> None:
    n = np.array([1000, 2000, 4000, 8000], float)
    fit = power_fit(n, 2 * n**-0.3)
    assert fit.b == pytest.approx(0.3, abs=1e-6)
    assert fit.a == pytest.approx(math.log(2), abs=1e-6)
    assert fit(500) == pytest.approx(2 * 500**-0.3)
    n = np.linspace(1000, 8000, 8)
    for seed in range(20):
        noise = np.exp(0.02 * np.random.default_rng(seed).standard_normal(8))
        assert abs(power_fit(n, 2 * n**-0.3 * noise).b - 0.3) < 0.04
    with pytest.raises(InputError, match="two sizes"):
        power_fit([1000, 1000], [0.1, 0.2])


def base(**sections: Any) -> Recipe:
    """Two steps on 64 scenes, nano towers of 16 pixels."""
    image = {"kind": "vit", "image_size": 16, "patch_size": 4, "layers": 1, "heads": 2}
    text = {"kind": "text_transformer", "vocab_size": 400, "context_length": 40, "layers": 1, "heads": 2}
    model = {
        "embed_dim": 8, "towers": {"image": image, "text": text}, "preprocess": {"size": 16},
        "tokenizer": {"learn": 400, "context_length": 40},
    }  # fmt: skip
    held = {"pairs": "scenes:32?size=16&split=test&label=shape"}
    return recipe(**{"model": model, "phases": [{"steps": 2}], "validate": held, **sections})


def test_a_study_runs(tmp_path: Path) -> None:
    study = ScalingStudy(
        {"rows": [16, 32], "objective": ["contrastive", "slip"], "family": ["vit", "conv"], "width": [8]},
        arguments={"slip": {"hidden": 8, "out": 8}},
    )
    shifted = {"pairs": "scenes:16?size=16&split=held-out"}
    report = study(base(retained=shifted), tmp_path)
    assert len(report.rows) == 8
    assert {"accuracy", "image_to_text", "loss", "gflops", "samples", "value", "shifted_loss"} <= set(report.rows[0])
    assert {row["samples"] for row in report.rows} == {16}
    assert report.axes == ("rows", "family", "objective")
    assert "best" in report.tables()["objective"]
    page = report.write(tmp_path).read_text()
    assert "<svg" in page
    assert "<script" not in page
    assert len(json.loads((tmp_path / "study.json").read_text())["rows"]) == 8
    assert not list((tmp_path / "runs").glob("*/model"))
    again = study(base(retained=shifted), tmp_path, train=lambda *_: pytest.fail("a finished cell was run again"))
    assert again == report


class KilledError(Exception):
    pass


def test_a_killed_study_goes_on(tmp_path: Path) -> None:
    study = ScalingStudy({"rows": [8, 16, 24], "width": [8, 16]}, metric="retrieval", seeds=2)
    assert len(study.cells) == 12
    done: list[str] = []

    def train(made: Recipe, rows: Pairs, folder: Path) -> Mapping[str, float]:
        if len(done) == 5:
            raise KilledError
        done.append(made.name)
        return {"image_to_text": 0.1 * made.seed, "text_to_image": 0.2}

    with pytest.raises(KilledError):
        study(base(), tmp_path, train=train)
    assert len(list((tmp_path / "cells").iterdir())) == 5
    first, done[:] = set(done), []
    with pytest.raises(KilledError):
        study(base(), tmp_path, train=train)
    second, done[:] = set(done), []
    report = study(base(), tmp_path, train=train)
    assert not first & second
    assert first | second | set(done) == {cell.name for cell in study.cells}
    assert len(report.rows) == 12
    assert {round(v, 6) for line in report.lines("rows").values() for v in line.values()} == {0.125}
    with pytest.raises(InputError, match="of another study"):
        study(base(optimizer={"lr": 1e-4}), tmp_path, train=train)


def test_a_killed_cell_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = ScalingStudy({"rows": [16], "width": [8]}, metric="retrieval")
    settings = base(phases=[{"steps": 4}], checkpoint={"every": 1})
    whole = study(settings, tmp_path / "whole")
    steps: list[int] = []
    train = Run.train

    def killed(self: Run, *, until: int | None = None) -> CLIP | None:
        steps.append(self.step)
        if len(steps) == 1:
            train(self, until=2)
            raise KilledError
        return train(self, until=until)

    monkeypatch.setattr(Run, "train", killed)
    with pytest.raises(KilledError):
        study(settings, tmp_path / "killed")
    assert study(settings, tmp_path / "killed") == whole
    assert steps == [0, 2]


def test_budgets(tmp_path: Path) -> None:
    steps: dict[str, int] = {}

    def train(made: Recipe, rows: Pairs, folder: Path) -> Mapping[str, float]:
        steps[made.name] = made.phases[0].steps or 0
        return {"accuracy": 0.5}

    long = base(phases=[{"steps": 90}])
    study = ScalingStudy({"rows": [16], "objective": ["contrastive", "slip"], "width": [8]}, budget="flops")
    report = study(long, tmp_path / "flops", train=train)
    plain, slip = (steps[cell.name] for cell in study.cells)
    assert plain == 90
    assert 30 <= slip < 45  # three image forwards, one text forward
    a, b = (row["gflops"] for row in report.rows)
    assert b == pytest.approx(a, rel=0.02)
    study = ScalingStudy({"rows": [16, 32], "epochs": [1, 4], "width": [8]})
    study(long, tmp_path / "epochs", train=train)
    assert [steps[cell.name] for cell in study.cells] == [2, 8, 4, 16]


def test_report_tables() -> None:
    rows = tuple(
        {"rows": n, "quality": 1.0, "width": 64, "family": "vit", "objective": o, "epochs": e, "value": value}
        for n, o, e, value in (
            (1000, "contrastive", 1, 0.2), (1000, "contrastive", 2, 0.3), (1000, "contrastive", 4, 0.302),
            (2000, "contrastive", 1, 0.3), (2000, "contrastive", 2, 0.4), (2000, "contrastive", 4, 0.5),
        )
    )  # fmt: skip
    report = ScalingReport(rows)
    assert report.axes == ("rows", "epochs")
    assert list(report.enough_epochs().values()) == [2, 4]
    assert report.best("epochs") == {(("rows", 1000),): 4, (("rows", 2000),): 4}
    fit = report.fits()[("epochs", 1),]
    assert isinstance(fit, PowerLaw)
    assert fit.b == pytest.approx(math.log(0.8 / 0.7) / math.log(2))


def test_subsets_are_nested_and_cut_by_quality() -> None:
    pairs = Pairs.open(SCENES)
    small, large = ({row.id for row in subset(pairs, n)} for n in (16, 32))
    assert (len(small), len(large)) == (16, 32)
    assert small < large
    scores = {pair.id: float(i) for i, pair in enumerate(pairs)}
    best = [scores[row.id] for row in subset(pairs, 32, 0.6, scores)]
    left = [scores[key] for key in large if scores[key] not in best]
    assert len(best) == 20
    assert min(best) > max(left)
    with pytest.raises(InputError, match="ask for fewer"):
        subset(pairs, 65)
    with pytest.raises(InputError, match="no score"):
        subset(pairs, 8, 0.5)


def test_quality_is_the_teachers_cosine() -> None:
    teacher = tiny_clip().eval()
    pairs = subset(Pairs.open(SCENES), 6)
    scores = quality_of(pairs, teacher, batch_size=4)
    for pair in pairs:
        assert isinstance(pair.image, Image.Image)
        want = (teacher.encode_image([pair.image]) @ teacher.encode_text([pair.caption]).T).item()
        assert scores[pair.id] == pytest.approx(want, abs=1e-5)


def test_what_a_study_refuses() -> None:
    for bad in ({"rows": []}, {"rows": [8], "colour": [1]}, {"rows": [8], "family": ["mixer"]}):
        with pytest.raises(InputError, match="a grid has"):
            ScalingStudy(bad)
    with pytest.raises(InputError, match="metric"):
        ScalingStudy(metric="other")
    with pytest.raises(InputError, match="has its width"):
        ScalingStudy().recipe(base(model="pocket"), Cell(8))
    assert len(ScalingStudy().cells) == 12
    assert isinstance(ScalingStudy().recipe(base(model={"preset": "nano"}), Cell(8, width=96)), Recipe)


def test_recipes_are_shipped() -> None:
    names = {f"{slug}{size}" for slug in ("slip", "flip", "clip-aug") for size in ("", "-nano")}
    assert names <= set(shipped_recipes())


def test_pairs_without_pictures_have_no_quality() -> None:
    class One(Pairs):
        rows = 1

        def scan(self) -> Any:
            yield Pair("a", captions=("a",))

    assert quality_of(One("none"), tiny_clip()) == {}
