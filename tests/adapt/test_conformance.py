"""Every adapter of vectors passes the room's suite; four that are broken on purpose fail it, each for its own reason."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from binderclip.adapt.base import Few
from binderclip.adapt.parts import zero_shot_logits
from binderclip.adapt.tip_adapter import TipAdapter
from binderclip.adapt.zero_shot import ZeroShot
from binderclip.cards import cards, load_method

from .conformance import NAMES, RULES, Kit

ADAPTERS = sorted(
    slug
    for slug, card in cards().items()
    if card.kind == "Adapter" and card.source == "binderclip" and "embeddings" in card.needs
)


def test_there_are_adapters() -> None:
    assert {"coop", "gda", "linear_probe", "tip_adapter", "zero_shot"} <= set(ADAPTERS)


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("slug", [pytest.param(slug, marks=pytest.mark.system(slug)) for slug in ADAPTERS])
def test_conforms(slug: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = load_method(slug)
    if "text.prompts" in cards()[slug].needs:  # learns through a text tower: few steps through a tiny one
        from tests.adapt.kit import PromptEncoder

        monkeypatch.setattr(Kit, "model", PromptEncoder)
        make = partial(make, n_ctx=2, epochs=3, lr=0.05)
    RULES[rule](make)


class IgnoresTheSeed(ZeroShot):
    def _fit(self, few: Few) -> None:
        super()._fit(few)
        self.W_ = self.W_ + 1e-3 * np.random.default_rng().normal(size=self.W_.shape)


class ChangesTheEncoder(ZeroShot):
    def _fit(self, few: Few) -> None:
        super()._fit(few)
        self.encoder.logit_scale = 100.0


class WrongClassOrder(ZeroShot):
    """Its columns are in the order of the alphabet."""

    def _logits(self, f: Any) -> Any:
        z = zero_shot_logits(f, self.W_, self.scale_)
        return z[:, np.argsort(self.classes)]


class LastRowsWin(TipAdapter):
    """The later half of the rows counts more."""

    def _fit(self, few: Few) -> None:
        super()._fit(few)
        half = len(self.keys_) // 2
        self.keys_, self.values_ = self.keys_[half:], self.values_[half:]


@pytest.mark.parametrize(
    ("broken", "rule", "reason"),
    [
        (IgnoresTheSeed, "obeys_the_seed", "seed"),
        (ChangesTheEncoder, "leaves_what_it_was_given", "leaves"),
        (WrongClassOrder, "keeps_the_order_of_classes", "classes"),
        (LastRowsWin, "ignores_the_order_of_rows", "order"),
    ],
)
def test_broken_adapters_fail(broken: type, rule: str, reason: str) -> None:
    with pytest.raises(AssertionError, match=f"^{reason}"):
        RULES[rule](broken)


def test_scikit_learn_can_use_them() -> None:
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV, cross_val_score

    kit = Kit(shots=6)
    gda = load_method("gda")(kit.encoder, NAMES)
    assert clone(gda).encoder is kit.encoder
    assert cross_val_score(gda, kit.X, kit.y, cv=3).mean() > 0.5
    kit.encoder.sentences = 0
    found = GridSearchCV(gda, {"alpha": [0.0, 1.0]}, cv=3).fit(kit.X, kit.y)
    assert found.best_params_["alpha"] in (0.0, 1.0)
    assert kit.encoder.pictures == 0
    assert kit.encoder.sentences == 0, "clones share the class vectors"


def test_a_torch_clip_serves_too() -> None:
    torch = pytest.importorskip("torch")
    from tests.train.kit import tiny_clip

    clip = tiny_clip()
    made = ZeroShot(clip, ["red square", "blue circle"]).fit()
    with torch.no_grad():
        wanted = clip.eval().encode_text(["a photo of a red square.", "a photo of a blue circle."]).numpy()
    assert np.allclose(made.W_, wanted, atol=1e-5)
    assert made.scale_ == pytest.approx(float(clip.scale.detach()))
