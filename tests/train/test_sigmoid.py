"""The sigmoid objective: its value by loops, the bias it gives a CLIP, and that the bias travels."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from binderclip.hub import native
from binderclip.train.recipe import shipped_recipes
from binderclip.train.sigmoid import Sigmoid

from .kit import batch, run, tiny_clip

pytestmark = pytest.mark.system("sigmoid")


@pytest.mark.parametrize("chunk", [None, 3])
def test_loss_equals_loops(chunk: int | None) -> None:
    objective, clip = Sigmoid(chunk=chunk), tiny_clip()
    objective.setup(clip, {})
    rows = batch(objective, clip, 5)
    features = objective.encode(clip, rows)
    x, y = features["image"].tolist(), features["text"].tolist()
    total = 0.0
    for i in range(5):
        for j in range(5):
            z = 1 if i == j else -1
            logit = 10.0 * sum(a * b for a, b in zip(x[i], y[j], strict=True)) - 10.0
            total += math.log(1 + math.exp(-z * logit))
    assert objective(clip, rows).total.item() == pytest.approx(total / 5, abs=1e-5)


def test_setup_gives_a_bias_and_leaves_one_that_is_there() -> None:
    clip = tiny_clip()
    config = clip.config
    Sigmoid().setup(clip, {})
    assert clip.logit_bias is not None
    assert (clip.logit_bias.item(), clip.logit_scale.item()) == (-10.0, pytest.approx(math.log(10)))
    assert "logit_bias" in dict(clip.named_parameters())
    assert "logit_bias" not in config
    with torch.no_grad():
        clip.logit_bias.fill_(-12.9)
        clip.logit_scale.fill_(4.7)
    Sigmoid().setup(clip, {})
    assert (clip.logit_bias.item(), clip.logit_scale.item()) == (pytest.approx(-12.9), pytest.approx(4.7))


def test_the_bias_travels(tmp_path: Path) -> None:
    made = run(tmp_path / "run", Sigmoid())
    clip = made.train()
    assert clip is not None
    assert clip.logit_bias is not None
    assert clip.logit_bias.item() != -10.0
    again = native.load(tmp_path / "run" / "model")
    assert again.logit_bias is not None
    assert torch.equal(again.logit_bias, clip.logit_bias)
    assert again.config["logit_bias"] == -10.0
    # a run that is taken up again begins with the folder `start`, which has the bias too
    assert native.load(tmp_path / "run" / "start").logit_bias is not None


def test_the_scale_is_not_clamped() -> None:
    clip = tiny_clip()
    objective = Sigmoid()
    objective.setup(clip, {})
    with torch.no_grad():
        clip.logit_scale.fill_(math.log(150))
    objective.after_step(clip, 0, 1)
    assert clip.scale.item() == pytest.approx(150)


def test_recipes_are_shipped() -> None:
    assert {"sigmoid-nano", "sigmoid"} <= set(shipped_recipes())
