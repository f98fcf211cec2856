"""Every objective passes the room's suite; three that are broken on purpose fail it, each for its own reason."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from binderclip.cards import cards, load_method
from binderclip.model.clip import CLIP
from binderclip.train.base import Features, Objective, TrainBatch
from binderclip.train.contrastive import Contrastive
from binderclip.train.recipe import read_recipe, shipped_recipes

from .conformance import RULES
from .kit import vectors_folder

OBJECTIVES = sorted(slug for slug, card in cards().items() if card.kind == "Objective" and card.source == "binderclip")


def small(slug: str) -> Callable[[], Objective]:
    """The objective with the arguments of its small recipe, SLUG-nano, or its defaults where there is none."""
    path = shipped_recipes().get(f"{slug.replace('_', '-')}-nano")
    arguments = dict(read_recipe(path).objective) if path else {}
    arguments.pop("name", None)
    made = load_method(slug)
    if "vectors" in inspect.signature(made).parameters:  # of a teacher
        arguments["vectors"] = str(vectors_folder())
    return functools.partial(made, **arguments)


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("slug", [pytest.param(slug, marks=pytest.mark.system(slug)) for slug in OBJECTIVES])
def test_conforms(slug: str, rule: str, tmp_path: Path) -> None:
    RULES[rule](small(slug), tmp_path)


class IgnoresTheSeed(Contrastive):
    def encode(self, clip: CLIP, batch: TrainBatch) -> Features:
        features = dict(super().encode(clip, batch))
        noise = torch.randn(features["image"].shape, generator=torch.Generator().manual_seed(torch.seed() % 2**31))
        return features | {"image": features["image"] + 1e-3 * noise}


class ChangesWhatIsFrozen(Contrastive):
    def after_step(self, clip: CLIP, step: int, total: int) -> None:
        super().after_step(clip, step, total)
        with torch.no_grad():
            next(clip.tower("text").parameters()).mul_(1 + 1e-3)


class WrongOrder(Contrastive):
    """Rows of one half of the batch are compared with those of the other: not the same in pieces."""

    def encode(self, clip: CLIP, batch: TrainBatch) -> Features:
        features = dict(super().encode(clip, batch))
        return features | {"image": features["image"].flip(0)}


@pytest.mark.parametrize(
    ("broken", "rule", "reason"),
    [
        (IgnoresTheSeed, "obeys_the_seed", "seed"),
        (ChangesWhatIsFrozen, "leaves_what_is_frozen", "frozen"),
        (WrongOrder, "is_the_same_in_pieces", "pieces"),
    ],
)
def test_broken_objectives_fail(broken: type, rule: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=f"^{reason}"):
        RULES[rule](broken, tmp_path)
