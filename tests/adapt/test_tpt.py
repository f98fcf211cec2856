"""TPT: its objective against plain sums, its reset, what has a gradient; and the command that needs no fit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from binderclip.adapt.augmix import augmix
from binderclip.adapt.confidence import entropy, marginal_entropy, restored, select_confident
from binderclip.adapt.coop import CoOp
from binderclip.adapt.heads import load_head, save_head
from binderclip.adapt.tpt import TPT
from binderclip.cli.adapt import adapt_app
from binderclip.data.hashing import Draws
from binderclip.engine.torch_encoder import TorchEncoder
from binderclip.errors import BinderclipError, InputError
from binderclip.model.clip import CLIP
from tests.adapt.kit import colour_clip
from tests.evaluate.helpers import COLOURS, picture

pytestmark = pytest.mark.system("tpt")
NAMES = tuple(COLOURS)
RNG = np.random.default_rng(0)


def mixed(side: int = 24) -> Any:
    """A picture whose views differ."""
    from PIL import Image

    return Image.fromarray(RNG.integers(0, 256, (side, side, 3), dtype=np.uint8))


PICTURES = [picture("red", 1), picture("blue", 2), *(mixed() for _ in range(3))]


@pytest.fixture(scope="module")
def clip() -> CLIP:
    return colour_clip()


def test_no_step_is_zero_shot(clip: CLIP) -> None:
    made = TPT(clip, NAMES, steps=0).fit()
    with torch.no_grad():
        W = clip.encode_text([f"a photo of a {name}." for name in NAMES])
        wanted = (clip.encode_image(PICTURES) @ W.T).numpy()
    assert np.abs(made.decision_function(PICTURES) / made.scale_ - wanted).max() < 1e-5


def test_identical_views(clip: CLIP) -> None:
    made = TPT(clip, NAMES, selection=1.0, steps=2, n_views=5).fit()
    with torch.no_grad():
        f = clip.encode_image(PICTURES)
    for row in f:
        with restored([made._learner.ctx]):
            before, after = made._tune(row.expand(5, -1))
        z = torch.from_numpy(made.W_).float() @ row * made.scale_
        assert before == pytest.approx(float(-(z.softmax(0) * z.log_softmax(0)).sum()), abs=1e-5)
        assert after < before


def test_marginal_entropy() -> None:
    z = torch.randn(7, 5, dtype=torch.float64) * 4
    p = z.softmax(1).mean(0)
    assert float(marginal_entropy(z)) == pytest.approx(float(-(p * p.log()).sum()), abs=1e-6)
    one = torch.full((4, 3), -200.0)
    one[[0, 1, 2, 3], [0, 0, 1, 2]] = 200.0  # histogram 2, 1, 1
    assert float(marginal_entropy(one)) == pytest.approx(0.5 * math.log(2) + 2 * 0.25 * math.log(4), abs=1e-6)
    assert float(entropy(one).mean()) == pytest.approx(0, abs=1e-6)  # the mean of entropies says nothing here
    hard = torch.tensor([[1e4, 0.0], [1e4, 0.0]], requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(marginal_entropy(hard), hard)[0]).all()


def test_confident_views() -> None:
    z = torch.randn(64, 10)
    z[40] = z[3]
    kept, H = select_confident(z, 0.1), entropy(z)
    assert len(kept) == 6
    assert set(kept.tolist()) == set(sorted(range(64), key=lambda i: (float(H[i]), i))[:6])
    assert select_confident(torch.zeros(10, 3), 0.3).tolist() == [0, 1, 2]  # of equals the first
    assert len(select_confident(z[:3], 0.1)) == 1
    assert len(select_confident(z[:60], 0.1)) == 6
    with pytest.raises(InputError, match="above 0"):
        select_confident(z, 0.0)


def test_reset(clip: CLIP) -> None:
    made = TPT(clip, NAMES, n_views=8, selection=0.5, lr=0.05).fit()
    z = made.decision_function(PICTURES)
    order = [4, 2, 0, 3, 1]
    assert np.array_equal(made.decision_function([PICTURES[i] for i in order]), z[order])
    assert np.array_equal(made.decision_function(PICTURES[3:4]), z[3:4])
    assert np.array_equal(made._learner.ctx.detach().numpy(), made.ctx_)
    again = TPT(clip, NAMES, n_views=8, selection=0.5, lr=0.05).fit()
    assert np.array_equal(again.decision_function(PICTURES), z)
    other = TPT(clip, NAMES, n_views=8, selection=0.5, lr=0.05, seed=1).fit()
    assert not np.array_equal(other.decision_function(PICTURES), z)
    first = made.adapt(PICTURES[3])
    assert first.shape == made.ctx_.shape
    assert not np.array_equal(first, made.ctx_)
    assert np.array_equal(made.adapt(PICTURES[3]), first)


def test_one_step_by_hand(clip: CLIP) -> None:
    """AdamW's first step is lr in the sign of the gradient, after the decay."""
    made = TPT(clip, NAMES, n_views=12, selection=0.25, lr=0.01, weight_decay=0.1).fit()
    ctx = torch.from_numpy(made.ctx_).clone().requires_grad_()
    with torch.no_grad():
        f = clip.encode_image(made.views_of(PICTURES[2]))
    z = made.scale_ * f @ made._learner.features(rows=ctx[None])[0].T
    p = z.softmax(1)
    kept = (-(p * p.log()).sum(1)).argsort()[:3]
    mean = p[kept].mean(0)
    g = torch.autograd.grad(-(mean * mean.log()).sum(), ctx)[0]
    wanted = ctx * (1 - 0.01 * 0.1) - 0.01 * g / (g.abs() + 1e-8)
    assert np.abs(made.adapt(PICTURES[2]) - wanted.detach().numpy()).max() < 1e-4
    with torch.no_grad():
        W = made._learner.features(rows=torch.from_numpy(made.adapt(PICTURES[2]))[None])[0]
    assert np.allclose(made.decision_function(PICTURES[2:3])[0], (made.scale_ * f[0] @ W.T).numpy(), atol=1e-4)


def test_only_the_context(clip: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {key: value.clone() for key, value in clip.state_dict().items()}
    made, seen = TPT(clip, NAMES, n_views=4, selection=0.5).fit(), []
    tune = made._tune
    monkeypatch.setattr(made, "_tune", lambda f: (seen.append(f), tune(f))[1])
    made.decision_function(PICTURES[:2])
    assert [f.requires_grad for f in seen] == [False, False]
    assert [tuple(f.shape) for f in seen] == [(4, 8)] * 2
    assert all(torch.equal(value, before[key]) for key, value in clip.state_dict().items())
    assert all(parameter.grad is None for parameter in clip.parameters())


def test_views(clip: CLIP) -> None:
    made = TPT(clip, NAMES, n_views=5, augmix=True).fit()
    views, plain = made.views_of(PICTURES[2]), TPT(clip, NAMES, n_views=5).fit().views_of(PICTURES[2])
    assert views.shape == (5, 3, 16, 16)
    assert torch.equal(views[0], plain[0])
    assert torch.equal(plain[0], clip._pixels([PICTURES[2]])[0])
    assert all(not torch.equal(a, b) for a, b in zip(views[1:], plain[1:], strict=True))
    prepare, pixels = clip.preprocess, np.asarray(mixed(16))
    assert prepare is not None
    low, high = (prepare.normalize(np.full((1, 1, 1, 3), v, np.uint8)).min() for v in (0, 255))
    made_of = [augmix(pixels, Draws(0, str(i)), prepare) for i in range(20)]
    assert all(low - 1e-5 <= x.min() and x.max() <= 3 for x in made_of)
    assert high > low
    assert np.array_equal(made_of[0], augmix(pixels, Draws(0, "0"), prepare))


def test_start_from_a_coop_and_heads(clip: CLIP, tmp_path: Path) -> None:
    X = F.normalize(torch.randn(12, 8), dim=1).numpy()
    coop = CoOp(clip, NAMES, n_ctx=2, epochs=2, lr=0.5).fit(X, np.repeat(np.arange(6), 2))
    made = TPT(clip, NAMES, ctx_init="", steps=0).fit(coop)
    with torch.no_grad():
        f = clip.encode_image(PICTURES).numpy()
    assert np.abs(made.decision_function(PICTURES) - coop.decision_function(f)).max() < 1e-3
    save_head(tmp_path / "t.safetensors", made, "tpt")
    again = load_head(tmp_path / "t.safetensors").adapter(TorchEncoder(clip))
    assert np.array_equal(again.decision_function(PICTURES), made.decision_function(PICTURES))
    assert made.for_classes(["red", "blue"]).decision_function(PICTURES).shape == (5, 2)
    for X_, words in ((coop, "starts from a fitted CoOp"), (PICTURES, "as it comes")):
        with pytest.raises(InputError, match=words):
            TPT(clip, NAMES).fit(X_)
    with pytest.raises(InputError, match="learnt nothing"):
        TPT(clip, NAMES).decision_function(PICTURES)


def test_command(clip: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("binderclip.engine.Encoder", lambda name: TorchEncoder(clip))
    picture("red", 3).save(tmp_path / "red.png")
    (tmp_path / "words.png").write_text("these are words")
    common = ["predict", "--method", "tpt", "--set", "n_views=4", "--set", "selection=0.5"]
    assert adapt_app(args=[*common, "--labels", "red, blue", "--json", str(tmp_path)], standalone_mode=False) in (
        0,
        None,
    )
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert len(rows) == 1
    assert rows[0]["classes"][0]["label"] in ("red", "blue")
    assert "4 views of it, and for 1 step one text forward and backward each of 2 prompts" in err
    assert "1 could not be read, 1 classified" in err
    for arguments, words in (
        ([*common, str(tmp_path)], "asks for names of classes"),
        (["predict", "--method", "gda", "--labels", "a,b", str(tmp_path)], "learns before it answers"),
        (["predict", "--labels", "a,b", str(tmp_path)], "go with --method"),
        ([*common, "--labels", "a,a", str(tmp_path)], "given twice"),
        (["predict", "--method", "tpt", "--set", "lr=fast", "--labels", "a,b", str(tmp_path)], "check --set"),
        (["predict", "--method", "tpt", "--set", "selection=2", "--labels", "a,b", str(tmp_path)], "at most 1"),
        ([*common, "--labels", "a,b", str(tmp_path / "words.png")], "no picture could be read"),
    ):
        with pytest.raises(BinderclipError, match=words):
            adapt_app(args=arguments, standalone_mode=False)
