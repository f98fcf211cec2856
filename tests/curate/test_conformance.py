"""Every curator passes the room's suite; four that are broken on purpose fail it, each for its own reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from binderclip.cards import cards
from binderclip.curate.base import Arrays, Batch, Curator, Verdict
from binderclip.data.hashing import uniform

from .conformance import RULES
from .kit import small

CURATORS = sorted(slug for slug, card in cards().items() if card.kind == "Curator" and card.source == "binderclip")


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("slug", [pytest.param(slug, marks=pytest.mark.system(slug)) for slug in CURATORS])
def test_conforms(slug: str, rule: str, tmp_path: Path) -> None:
    RULES[rule](small(slug, tmp_path), tmp_path)


class Half(Curator):
    """Keeps a drawn share of the rows; the share is a mean over them."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def read(self, rows: object) -> Arrays:
        return {"length": np.array([len(row.caption) for row in rows], np.int64)}  # type: ignore[attr-defined]

    def scan(self, batch: Batch) -> Arrays:
        return {"sum": np.array([batch.columns["length"].sum(), len(batch)], np.float64)}

    def close(self, partial: Arrays) -> Arrays:
        return {"mean": partial["sum"][:1] / partial["sum"][1:]}

    def chance(self, batch: Batch) -> np.ndarray:
        return uniform(self.seed, batch.ids)

    def judge(self, batch: Batch, plan: Arrays) -> Verdict:
        keep = self.chance(batch) < np.minimum(1, plan["mean"] / (batch.columns["length"] + 5))
        return Verdict(keep, keep.astype(float), keep.astype(float), ["drawn"] * len(batch))


class MeansOfMeans(Half):
    def merge(self, a: Arrays, b: Arrays) -> Arrays:
        return {"sum": (a["sum"] + b["sum"]) / 2}


class DrawsByPosition(Half):
    def chance(self, batch: Batch) -> np.ndarray:
        return np.random.default_rng(self.seed).random(len(batch))


class IgnoresTheSeed(Half):
    def chance(self, batch: Batch) -> np.ndarray:
        return uniform(int.from_bytes(os.urandom(4), "big"), batch.ids)


class WeighsWhatIsGone(Half):
    def judge(self, batch: Batch, plan: Arrays) -> Verdict:
        found = super().judge(batch, plan)
        return Verdict(found.keep, np.ones(len(batch)), found.score, found.reason)


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"works_in_processes"}))
def test_a_plain_curator_conforms(rule: str, tmp_path: Path) -> None:
    RULES[rule](Half, tmp_path)


@pytest.mark.parametrize(
    ("broken", "rule", "reason"),
    [
        (MeansOfMeans, "merges_in_any_order", "merge"),
        (DrawsByPosition, "judges_each_row_alone", "alone"),
        (DrawsByPosition, "shards_change_nothing", "shards"),
        (IgnoresTheSeed, "obeys_the_seed", "seed"),
        (WeighsWhatIsGone, "says_what_it_did", "says"),
    ],
)
def test_broken_curators_fail(broken: type[Curator], rule: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=f"^{reason}"):
        RULES[rule](broken, tmp_path)
