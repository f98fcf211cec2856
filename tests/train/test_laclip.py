"""LaCLIP: the law of the draw, what reaches the text tower, rewrite files, and plain CLIP where there are no rewrites."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from binderclip.data.hashing import Draws
from binderclip.data.pairs import Pair, Pairs
from binderclip.errors import InputError
from binderclip.model.clip import CLIP
from binderclip.train.assemble import Job
from binderclip.train.base import Objective
from binderclip.train.contrastive import Contrastive
from binderclip.train.laclip import LaCLIP
from binderclip.train.loop import Run
from binderclip.train.machine import Machine

from .kit import SCENES, TOKENIZER, batch, recipe, tiny_clip

pytestmark = pytest.mark.system("laclip")

REWRITES = {"rewrite_chatgpt": "one more way to say it", "rewrite_bard": "a second way to say it"}


def losses(objective: Objective, folder: Path, steps: int = 20, pairs: Pairs | None = None, clip: CLIP | None = None):
    made = recipe(phases=[{"steps": steps, "warmup": 2}])
    seen: list[dict] = []
    job = Job(made, clip or tiny_clip(), objective, pairs or Pairs.open(SCENES))
    Run(job, folder, machine=Machine(cpu=True), listener=seen.append).train()
    return [record["loss"] for record in seen if record["event"] == "step"]


def test_without_rewrites_the_losses_are_those_of_plain_clip_to_the_bit(tmp_path: Path) -> None:
    plain = losses(Contrastive(), tmp_path / "clip")
    assert len(plain) == 20
    assert losses(LaCLIP(), tmp_path / "laclip") == plain
    told = Pairs.open(SCENES).map(lambda pair: replace(pair, metadata=REWRITES))
    assert losses(LaCLIP(), tmp_path / "rewritten", pairs=told) != plain  # the draw is there once there is a choice


def test_draws_are_uniform_and_fresh_each_epoch() -> None:
    texts = ["the original text", *(f"rewrite number {i}" for i in range(4))]
    objective = LaCLIP()
    rows = [Pair(str(i), captions=(texts[0],), metadata={"rewrite_llm": texts[1:]}) for i in range(10_000)]
    first, second = (
        [objective.texts(pair, Draws(0, f"row/{pair.id}/{epoch}"), pair.caption)[0] for pair in rows]
        for epoch in range(2)
    )
    for drawn in (first, second):
        counts = Counter(drawn)
        assert set(counts) == set(texts)
        x = sum((n - 2000) ** 2 / 2000 for n in counts.values())
        assert math.exp(-x / 2) * (1 + x / 2) > 0.001  # the upper tail of chi-square with 4 degrees of freedom
    assert sum(a != b for a, b in zip(first, second, strict=True)) / 10_000 == pytest.approx(0.8, abs=0.02)


def test_short_rewrites_never_reach_the_text_tower(tmp_path: Path) -> None:
    def change(pair: Pair) -> Pair:
        return replace(pair, captions=("apple",), metadata={"rewrite_a": "zebra", "rewrite_b": " ", "rewrite_c": "a b"})

    seen: Counter[tuple[int, ...]] = Counter()
    clip = tiny_clip()
    clip.tower("text").register_forward_pre_hook(
        lambda module, given: seen.update(tuple(row) for row in given[0].tolist())
    )
    losses(LaCLIP(), tmp_path / "run", pairs=Pairs.open(SCENES).map(change), clip=clip)
    bodies = {tuple(i for i in row if i > 2) for row in seen}
    assert bodies == {tuple(TOKENIZER.encode("apple")), tuple(TOKENIZER.encode("a b"))}


def test_no_more_text_forwards_than_clip(tmp_path: Path) -> None:
    def count(objective: Objective, name: str) -> int:
        clip, calls = tiny_clip(), [0]
        told = Pairs.open(SCENES).map(lambda pair: replace(pair, metadata=REWRITES))

        def tell(*_: object) -> None:
            calls[0] += 1

        clip.tower("text").register_forward_hook(tell)
        losses(objective, tmp_path / name, 4, told, clip)
        return calls[0]

    assert count(LaCLIP(), "laclip") == count(Contrastive(), "clip") == 4
    assert count(LaCLIP(n_texts=3), "several") == 12


def files(folder: Path, rows: int, count: int = 2) -> list[str]:
    names = [folder / f"strategy{i}.txt" for i in range(count)]
    for i, path in enumerate(names):
        path.write_text("".join(f"line {row} of file {i}\n" for row in range(rows)))
    return [str(path) for path in names]


def test_a_file_one_line_short_is_refused_with_both_counts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 63 lines for 64 rows"):
        LaCLIP(rewrites=files(tmp_path, 63)).setup(tiny_clip(), recipe().to_dict())
    with pytest.raises(InputError, match=r"matched with the rows of data\.pairs"):
        LaCLIP(rewrites=files(tmp_path, 64)).setup(tiny_clip(), {})
    with pytest.raises(InputError, match="at least 1 text"):
        LaCLIP(n_texts=0)


def test_line_i_is_a_rewrite_of_row_i(tmp_path: Path) -> None:
    objective = LaCLIP(rewrites=files(tmp_path, 64))
    objective.setup(tiny_clip(), recipe().to_dict())
    for i, pair in enumerate(Pairs.open(SCENES)):
        wanted = [pair.captions[1], f"line {i} of file 0", f"line {i} of file 1"]
        assert objective.candidates(pair, pair.captions[1]) == wanted
    with_captions = LaCLIP(captions=True)
    pair = Pair("x", captions=("one text", "two texts", "three texts"))
    assert with_captions.candidates(pair, "two texts") == ["two texts", "one text", "three texts"]
    assert LaCLIP().candidates(pair, "") == [""]


def test_several_texts_are_different_and_the_loss_is_their_mean() -> None:
    objective, clip = LaCLIP(n_texts=3, captions=True), tiny_clip().double()
    for pair in Pairs.open(SCENES):
        texts = objective.texts(pair, Draws(0, pair.id), pair.caption)
        assert len(set(texts)) == min(3, len(pair.captions))
        assert set(texts) <= set(pair.captions)
    assert objective.texts(Pair("x", captions=("a b",)), Draws(0, "x"), "a b") == ("a b",) * 3
    rows = batch(objective, clip)
    found = objective(clip, rows)
    image = clip.encode_image(rows.views[0])
    wanted = []
    for ids, eos in zip(rows.ids, rows.eos, strict=True):  # each with a matrix of its own
        logits = clip.scale * image @ clip.encode_text((ids, eos)).T
        target = torch.arange(len(rows))
        wanted.append((F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2)
    assert found.total.item() == pytest.approx(sum(wanted).item() / 3, abs=1e-12)
