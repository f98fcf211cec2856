"""CoOp against a slow loop, and the parts that it shares: sentences, contexts, schedule."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from binderclip.adapt.base import NotOpenVocabularyError
from binderclip.adapt.coop import CoOp
from binderclip.adapt.heads import load_head, save_head
from binderclip.adapt.prompt_trainer import Schedule, content_keys, train_prompts
from binderclip.adapt.prompts import PromptLearner, clip_of
from binderclip.adapt.zero_shot import ZeroShot
from binderclip.errors import InputError, NeedsPartError
from binderclip.model.clip import CLIP
from tests.adapt.conformance import NAMES, Kit
from tests.adapt.kit import PromptEncoder, colour_clip
from tests.evaluate.helpers import ColourEncoder

pytestmark = pytest.mark.system("coop")
WORDS = "a photo of a"
Q = F.normalize(torch.randn(9, 8, generator=torch.Generator().manual_seed(1)), dim=1).numpy()


@pytest.fixture(scope="module")
def clip() -> CLIP:
    return colour_clip()


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> Kit:
    monkeypatch.setattr(Kit, "model", PromptEncoder)
    return Kit()


def slow_feature(clip: CLIP, ctx: torch.Tensor, name: str) -> torch.Tensor:
    """One sentence, token by token, every slot by hand."""
    tower, tokenizer = clip.tower("text"), clip.tokenizer
    table = tower.token_embedding.weight
    words = [table[1], *ctx, *(table[i] for i in tokenizer.encode(f"{name}.")), table[2]]
    out = tower.encode_prompts(torch.stack(words)[None], torch.tensor([len(words) - 1]))[0]
    return out / out.norm()


def test_untrained_is_zero_shot(clip: CLIP) -> None:
    names = ["red square", "blue_circle", "green"]
    coop = CoOp(clip, names, ctx_init=WORDS)
    coop._begin()
    coop._settle(coop._learner())
    coop.hyper_ = {}
    plain = ZeroShot(clip, names).fit()
    assert np.abs(coop.decision_function(Q) - plain.decision_function(Q)).max() < 1e-5 * plain.scale_
    learner = PromptLearner(
        clip, names, n_ctx=2, init=WORDS
    )  # two learnt, the rest of the words frozen in the sentence
    with torch.no_grad():
        assert torch.allclose(learner.features(), torch.from_numpy(plain.W_).float(), atol=1e-5)


def test_a_random_context_by_hand(clip: CLIP) -> None:
    for n_ctx, wanted in ((3, 3), (40, None)):
        if wanted is None:
            with pytest.raises(InputError, match=r"leave no room for 'red' in 30: give a smaller n_ctx"):
                PromptLearner(clip, ["red"], n_ctx=n_ctx)
            continue
        learner = PromptLearner(clip, ["red", "green thing"], n_ctx=n_ctx, seed=4)
        assert 0.01 < float(learner.ctx.detach().std()) < 0.03
        with torch.no_grad():
            found = learner.features()
            for row, name in zip(found, ("red", "green thing"), strict=True):
                assert torch.allclose(row, slow_feature(clip, learner.ctx, name), atol=1e-5)
            assert torch.allclose(learner.features(chunk=1), found, atol=1e-6)


def test_class_specific_and_per_row_contexts(clip: CLIP) -> None:
    own = PromptLearner(clip, ["red", "blue"], n_ctx=2, class_specific=True, seed=1)
    assert own.ctx.shape == (2, 2, 16)
    turned = PromptLearner(clip, ["blue", "red"], n_ctx=2, class_specific=True, seed=1)
    assert torch.equal(own.ctx.flip(0), turned.ctx)  # a class's start is a function of its name
    with torch.no_grad():
        assert torch.allclose(own.features()[1], slow_feature(clip, own.ctx[1], "blue"), atol=1e-5)
        one = PromptLearner(clip, ["red", "blue"], n_ctx=2)
        rows = torch.randn(3, 2, 16)
        found = one.features(rows=rows)
        assert found.shape == (3, 2, 8)
        assert torch.allclose(found[2, 1], slow_feature(clip, rows[2], "blue"), atol=1e-5)
    with pytest.raises(InputError, match="context of its own"):
        own.for_classes(["grey"])


def test_positions_and_reparameterisation(clip: CLIP) -> None:
    encode = clip.tokenizer.encode
    for position, order in (("middle", "xnx"), ("front", "nxx")):
        learner = PromptLearner(clip, ["red"], n_ctx=2, position=position)
        name, ctx, table = encode("red"), list(learner.ctx.detach()), clip.tower("text").token_embedding.weight.detach()
        parts = {"x": None, "n": [table[i] for i in name]}
        row, m = [table[1]], 0
        for key in order:
            row += [ctx[m]] if key == "x" else parts["n"]
            m += key == "x"
        row += [*(table[i] for i in encode(".")), table[2]]
        assert torch.equal(learner()[0].detach(), torch.stack(row))
        assert int(learner.eos) == len(row) - 1
    twice = PromptLearner(clip, ["red"], n_ctx=2, reparam=nn.Linear(16, 16))
    assert torch.equal(twice()[0, 1:3], twice.reparam(twice.ctx))
    assert len(list(twice.parameters())) == 3
    with pytest.raises(InputError, match="position is 'left'"):
        PromptLearner(clip, ["red"], n_ctx=2, position="left")


def test_a_long_name_keeps_its_end(clip: CLIP) -> None:
    learner = PromptLearner(clip, ["red " * 60, "blue"], n_ctx=2)
    assert learner.words.shape[1] == 32
    assert learner.eos.tolist()[0] == 31
    assert torch.equal(learner.words[0, 31], clip.tower("text").token_embedding.weight[2])


def test_schedule() -> None:
    plan = Schedule(3.5e-3, 5, batch_size=4)
    wanted = [1e-5, *(3.5e-3 * k for k in (1.0, 0.905, 0.655, 0.345))]
    assert np.allclose([plan.rate(e) for e in range(5)], wanted, atol=2e-6)
    keys = [f"k{i}" for i in range(10)]
    parts = plan.batches(keys, 1, 0)
    assert [len(part) for part in parts] == [4, 4]  # the rest is left out
    turned = plan.batches(keys[::-1], 1, 0)
    assert [[keys[i] for i in a] for a in parts] == [[keys[::-1][i] for i in b] for b in turned]
    assert not torch.equal(parts[0], plan.batches(keys, 2, 0)[0])
    assert [len(part) for part in plan.batches(keys[:3], 0, 0)] == [3]
    with pytest.raises(InputError, match="positive numbers"):
        Schedule(0.0, 5)


def test_one_step_by_hand(kit: Kit) -> None:
    """Two epochs of one batch: SGD with momentum and decay on the context, the gradient by central differences."""
    made = CoOp(kit.encoder, NAMES, n_ctx=1, epochs=2, lr=0.1, seed=3).fit(kit.X, kit.y)
    assert len(made.history_) == 2
    learner = CoOp(kit.encoder, NAMES, n_ctx=1, seed=3)._learner()
    f, y = torch.from_numpy(kit.X).double(), torch.from_numpy(kit.y)
    tower, scale = kit.encoder.clip.double(), made.scale_
    try:

        def loss(ctx: torch.Tensor) -> float:
            with torch.no_grad():
                W = torch.stack([slow_feature(tower, ctx, name) for name in NAMES])
                z = scale * f @ W.T
                return float((z.logsumexp(1) - z[torch.arange(len(y)), y]).mean())

        ctx, speed = learner.ctx.detach().double(), torch.zeros(1, 16).double()
        for rate, seen in zip((1e-5, 0.1), made.history_, strict=True):
            assert loss(ctx) == pytest.approx(seen, abs=1e-4)
            g = torch.zeros_like(ctx)
            for i in range(16):
                step = torch.zeros_like(ctx)
                step[0, i] = 1e-5
                g[0, i] = (loss(ctx + step) - loss(ctx - step)) / 2e-5
            speed = 0.9 * speed + g + 5e-4 * ctx
            ctx = ctx - rate * speed
    finally:
        tower.float()
    assert np.abs(made.ctx_ - ctx.numpy()).max() < 1e-4


def test_the_model_stays(kit: Kit) -> None:
    clip = kit.encoder.clip
    before = {key: value.clone() for key, value in clip.state_dict().items()}
    clip.train()
    try:
        CoOp(kit.encoder, NAMES, n_ctx=2, epochs=3, lr=0.1).fit(kit.X, kit.y)
        assert clip.training
    finally:
        clip.eval()
    assert all(torch.equal(value, before[key]) for key, value in clip.state_dict().items())
    assert all(parameter.grad is None for parameter in clip.parameters())
    assert all(parameter.requires_grad for parameter in clip.parameters())


def test_pictures_are_encoded_once(kit: Kit) -> None:
    made = CoOp(kit.encoder, NAMES, n_ctx=2, epochs=7, n_views=3).fit(kit.pictures, kit.y)
    assert kit.encoder.pictures == 3 * len(kit.pictures)
    made.decision_function(kit.Q)
    assert kit.encoder.pictures == 3 * len(kit.pictures)


def test_it_learns_and_a_head_keeps_it(kit: Kit, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    made = CoOp(kit.encoder, NAMES, n_ctx=2, epochs=30, lr=0.05)
    made.on_progress = lambda done, total: steps.append((done, total))
    made.fit(kit.X, kit.y)
    assert made.history_[-1] < made.history_[0] - 0.1
    assert steps[-1] == (30, 30)
    save_head(tmp_path / "h.safetensors", made, "coop")
    again = load_head(tmp_path / "h.safetensors").adapter(kit.encoder)
    assert np.array_equal(again.decision_function(kit.Q), made.decision_function(kit.Q))
    other = made.for_classes(["red", "pale blue"])
    assert other.decision_function(kit.Q).shape == (len(kit.Q), 2)
    own = CoOp(kit.encoder, NAMES, n_ctx=2, epochs=2, class_specific=True).fit(kit.X, kit.y)
    with pytest.raises(NotOpenVocabularyError):
        own.for_classes(["red", "blue"])
    with pytest.raises(InputError, match="context is"):
        CoOp(kit.encoder, NAMES, n_ctx=3).load_state_dict(made.state_dict())


def test_hooks_on_loss_and_gradient() -> None:
    a = nn.Parameter(torch.tensor([1.0, 2.0]))
    seen: list[int] = []

    def flip(parameters: object, gradients: list[torch.Tensor], rows: torch.Tensor, epoch: int) -> list[torch.Tensor]:
        seen.append(epoch)
        return [-g for g in gradients]

    plan = Schedule(0.1, 1, warmup_epochs=0, momentum=0.0, weight_decay=0.0)
    history = train_prompts([a], ["k"], lambda r, e: a.sum(), plan, terms=[lambda r, e: (a**2).sum()], on_gradient=flip)
    assert history == [8.0]
    assert seen == [0]
    assert torch.allclose(a, torch.tensor([1 + 0.1 * 3, 2 + 0.1 * 5]))
    with pytest.raises(InputError, match="smaller lr"):
        train_prompts([a], ["k"], lambda r, e: a.sum() * math.nan, plan)
    assert content_keys(np.eye(3)) == content_keys(np.eye(3)[::-1])[::-1]


def test_what_it_cannot_run_on(kit: Kit) -> None:
    with pytest.raises(NeedsPartError, match="gives vectors only"):
        clip_of(ColourEncoder())
    with pytest.raises(InputError, match="labelled"):
        CoOp(kit.encoder, NAMES).fit(X_unlabelled=kit.X)
