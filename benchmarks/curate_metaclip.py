"""MetaCLIP against a random subset of one size, 50,000 pairs with Zipf classes: `python -m benchmarks.curate_metaclip`.

A pair is a generated picture of one object and "a COLOUR SHAPE"; class k of 80 has a share of about 1 / k. Pictures of the
rows that are kept alone are drawn. Then the balance of concepts in WordNet's glosses by WordNet's own words.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.common import digest, record, shared_data
from benchmarks.train_clipa import changed
from binderclip.curate.base import curate_rows
from binderclip.curate.metaclip import MetaCLIP, tail_share_of_count
from binderclip.curate.metadata import wordnet_entries
from binderclip.data.hashing import Draws, uniform
from binderclip.data.pairs import Pair, RowPairs
from binderclip.data.scenes import SceneSpec, scene
from binderclip.train.assemble import Job, build_model
from binderclip.train.contrastive import Contrastive
from binderclip.train.loop import Run
from binderclip.train.machine import Machine
from binderclip.train.recipe import read_recipe

POOL, TAIL_SHARE, SEEDS, STEPS, A_CLASS = 50_000, 0.06, (0, 1, 2), 1600, 20
SPEC = SceneSpec(held_out=0.0)
LARGE: dict[str, Any] = {"textures": ("plain",), "sizes": ("large",)}  # so that 1,600 steps learn to tell shapes
KINDS = Draws(0, "zipf").shuffled("kinds", [f"{colour} {shape}" for colour in SPEC.colours for shape in SPEC.shapes])


class Rows(RowPairs):
    def __init__(self, rows: list[Pair]) -> None:
        super().__init__("zipf")
        self.kept, self.classes = rows, tuple(KINDS)

    @property
    def rows(self) -> int:
        return len(self.kept)

    def row(self, number: int) -> Pair:
        return self.kept[number]


@cache
def family(kind: str, split: str) -> SceneSpec:
    colour, shape = kind.split()
    return SceneSpec(objects=(1, 1), colours=(colour,), shapes=(shape,), held_out=0.0, split=split, **LARGE)


def pair(key: str, number: int, kind: str, split: str = "train", *, drawn: bool = True) -> Pair:
    image = scene(number, family(kind, split)).image if drawn else None
    return Pair(key, image=image, captions=(f"a {kind}",), label=kind)


def pool() -> tuple[list[str], NDArray[np.int64]]:
    shares = 1 / np.arange(1, len(KINDS) + 1)
    ids = [f"pair/{i}" for i in range(POOL)]
    return ids, np.searchsorted(np.cumsum(shares) / shares.sum(), uniform(7, ids)).astype(np.int64)


def accuracy(clip: Any, test: list[Pair]) -> tuple[float, float]:
    """Zero-shot, mean over classes, in percent: of all, and of the rarer half."""
    with torch.no_grad():
        texts = clip.encode_text([f"a {kind}" for kind in KINDS])
        images = torch.cat(
            [clip.encode_image([row.image for row in test[i : i + 200]]) for i in range(0, len(test), 200)]
        )
    found = (images @ texts.T).argmax(dim=1).numpy()
    right = found.reshape(len(KINDS), A_CLASS) == np.arange(len(KINDS))[:, None]
    return 100 * float(right.mean()), 100 * float(right[len(KINDS) // 2 :].mean())


def train(rows: list[Pair], test: list[Pair], seed: int) -> tuple[float, float]:
    recipe = changed(read_recipe("contrastive-nano"), f"phases.0.steps={STEPS}", seed=seed)
    with tempfile.TemporaryDirectory() as place:
        clip = build_model(recipe.model, Rows(test), seed=seed)
        Run(Job(recipe, clip, Contrastive(), Rows(rows)), Path(place) / "run", machine=Machine(cpu=True)).train()
    return accuracy(clip.eval(), test)


def balance(captions: list[str], entries: list[str], share: float = TAIL_SHARE) -> dict[str, Any]:
    """Of the concepts before and after."""
    start = time.perf_counter()
    curator = MetaCLIP(entries, tail_share=share)
    verdict, plan = curate_rows(curator, [Pair(f"gloss/{i}", captions=(text,)) for i, text in enumerate(captions)])
    spent = time.perf_counter() - start
    before = plan["counts"].astype(np.float64)
    matched = [curator.matcher(text) for text in captions]
    chosen = [k for found, keep in zip(matched, verdict.keep, strict=True) if keep for k in found]
    after = np.bincount(chosen, minlength=len(entries)).astype(np.float64)
    top = np.argsort(-before, kind="stable")[: max(1, int((before > 0).sum()) // 100)]
    rare = set(np.flatnonzero(before <= plan["t"][0]).tolist())
    tail = [bool(keep) for found, keep in zip(matched, verdict.keep, strict=True) if rare & set(found)]
    p, q = before / before.sum(), after / after.sum()
    return {
        "captions": len(captions),
        "kept": int(verdict.keep.sum()),
        "t": int(plan["t"][0]),
        "entropy_nats": [round(float(-(s[s > 0] * np.log(s[s > 0])).sum()), 3) for s in (p, q)],
        "top_1_percent_share": [round(float(s[top].sum()), 4) for s in (p, q)],
        "top_1_percent_falls_by_percent": round(100 * (1 - float(q[top].sum() / p[top].sum())), 1),
        "tail_captions_kept_percent": 100 * sum(tail) / len(tail),
        "entries_a_matched_caption": round(float(before.sum()) / sum(map(bool, matched)), 2),
        "captions_a_second": round(len(captions) / spent),
    }


def main() -> None:
    torch.set_num_threads(1)
    wordnet = shared_data() / "wordnet.parquet"
    glosses = [text for text in pq.read_table(wordnet, columns=["gloss"])["gloss"].to_pylist() if text]
    words = wordnet_entries(wordnet)
    figures: dict[str, Any] = {
        f"wordnet_glosses_tail_share_{s}": balance(glosses, words, s) for s in (0.01, TAIL_SHARE)
    }
    print(figures, file=sys.stderr, flush=True)
    ids, kinds = pool()
    test = [pair(f"test/{kind}/{n}", n, kind, "test") for kind in KINDS for n in range(A_CLASS)]
    light = [pair(key, i, KINDS[k], drawn=False) for i, (key, k) in enumerate(zip(ids, kinds, strict=True))]
    arms: dict[str, list[tuple[float, float]]] = {"metaclip": [], "random": []}
    for seed in SEEDS:
        verdict, plan = curate_rows(MetaCLIP(KINDS, tail_share=TAIL_SHARE, seed=seed), light)
        budget = int(verdict.keep.sum())
        figures["pool"] = {
            "pairs": POOL,
            "classes": len(KINDS),
            "largest": int(plan["counts"].max()),
            "smallest": int(plan["counts"].min()),
            "t": int(plan["t"][0]),
            "tail_share": round(tail_share_of_count(plan["counts"], int(plan["t"][0])), 4),
        }
        drawn = np.argsort(uniform(1000 + seed, ids), kind="stable")[:budget]
        for name, numbers in (("metaclip", np.flatnonzero(verdict.keep)), ("random", drawn)):
            rows = [pair(ids[i], int(i), KINDS[kinds[i]]) for i in numbers.tolist()]
            arms[name].append(train(rows, test, seed))
            print(f"seed {seed}, {name}: {budget} rows, {arms[name][-1]}", file=sys.stderr, flush=True)
        figures.setdefault("budget", []).append(budget)
    for name, scores in arms.items():
        every, rare = zip(*scores, strict=True)
        figures[name] = {
            "class_average_accuracy_percent": [round(one, 2) for one in every],
            "mean": round(statistics.mean(every), 2),
            "rarer_half_mean": round(statistics.mean(rare), 2),
        }
    gains = [a[0] - b[0] for a, b in zip(arms["metaclip"], arms["random"], strict=True)]
    figures["gain_points"] = {"each_seed": [round(one, 2) for one in gains], "mean": round(statistics.mean(gains), 2)}
    record(
        "curate_metaclip",
        figures,
        wanted="50,000 pairs, Zipf classes, same budget: class-average zero-shot accuracy at least that of a random subset; "
        "on WordNet glosses: entropy rises, the share of the top 1 % entries falls by 30 %, the tail keeps all",
        seed=0,
        data=digest(wordnet),
        notes=f"contrastive-nano, {STEPS} steps of 64, seeds 0, 1, 2; {A_CLASS} test pictures a class; the top 1 % is of "
        "the entries that occur; a CPU shared with other work: captions_a_second is a floor",
        methods=("metaclip",),
    )


if __name__ == "__main__":
    main()
