"""MetaCLIP: matching against the naive scan, the law of the draws, balance."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from binderclip.curate.base import Batch, curate_rows
from binderclip.curate.matching import Automaton, Matcher, key_of, spaced
from binderclip.curate.metaclip import MetaCLIP, count_of_tail_share, tail_share_of_count
from binderclip.curate.metadata import build_metadata, count_words, read_metadata, wordnet_entries
from binderclip.curate.run import curate, read_verdicts
from binderclip.data.pairs import Pair
from binderclip.errors import InputError

from .kit import WORDS, opener, pool, write_pool, zipf_captions


def small(folder: Path) -> dict[str, Any]:
    return {"metadata": [*WORDS, "a w1"], "t": 12}


def rows_of(captions: list[str]) -> list[Pair]:
    return [Pair(f"r{i}", captions=(text,)) for i, text in enumerate(captions)]


def naive(entries: list[str], caption: str) -> list[int]:
    return [i for i, entry in enumerate(entries) if key_of(entry) in spaced(caption)]


def test_matching_equals_the_naive_scan() -> None:
    draw = random.Random(0)
    alphabet = [
        "cat",
        "dog",
        "of",
        "St.",
        "New",
        "new",
        "York",
        "C++",
        "猫",
        "犬と",
        "ไทย",
        "a",
        "b c",
        "",
        "it's",
        "ß",
    ]
    words = alphabet + [f"v{k}" for k in range(600)]
    shares = [30.0] * len(alphabet) + [1.0] * 600
    entries: set[str] = set()
    while len(entries) < 5000:
        entries.add(" ".join(draw.choices(words, shares, k=draw.randint(1, 3))).strip())
        entries.discard("")
    known = sorted(entries)
    matcher = Matcher(known)
    gaps = [" ", " ", " ", "  ", ", ", ".", "\t", "\n", "", "!?", ";"]
    texts = [
        "".join(word + draw.choice(gaps) for word in draw.choices(words, shares, k=draw.randint(0, 12)))
        for _ in range(2000)
    ]
    keys = [(i, key_of(entry)) for i, entry in enumerate(known)]
    found = 0
    for text in texts:
        there = spaced(text)
        wanted = [i for i, key in keys if key in there]
        assert matcher(text) == wanted
        found += len(wanted)
    assert found > 5_000
    automaton = Automaton([key for _, key in keys])
    for text in texts[:300]:
        assert sorted(automaton(spaced(text))) == matcher(text)


@pytest.mark.parametrize(
    ("entry", "caption", "there"),
    [
        ("cat", "a category", False),
        ("cat", "the cat, asleep", True),
        ("cat", "(a cat .", True),
        ("cat", "a Cat", False),
        ("cat", "cat", True),
        ("St. Louis", "in St. Louis", False),
        ("New York", "New  York", False),
        ("New York", "in\tNew York", True),
        ("C++", "C++11", False),
        ("猫", "黒猫です", True),
        ("猫cat", "黒猫cat", True),
        ("猫cat", "黒猫cats", False),
        ("x", "", False),
    ],
)
def test_edges_of_words(entry: str, caption: str, there: bool) -> None:
    assert bool(Matcher([entry])(caption)) is there
    assert bool(naive([entry], caption)) is there


def test_entries_are_checked() -> None:
    assert Matcher([" cat "]).entries == ["cat"]
    for wrong in ([], ["cat", " "], ["cat", "cat "]):
        with pytest.raises(InputError):
            Matcher(wrong)


def test_an_entry_counts_once_a_caption() -> None:
    rows = [Pair("x", captions=("cat cat cat", "cat")), Pair("y", captions=("dog",)), Pair("z")]
    verdict, plan = curate_rows(MetaCLIP(["cat", "dog"]), rows)
    assert plan["counts"].tolist() == [2, 1]
    assert plan["counts"].dtype == np.uint64
    assert verdict.reason == ["tail", "tail", "no-caption"]


def test_under_t_all_is_kept() -> None:
    captions = zipf_captions(300)
    entries = WORDS[3:]
    verdict, plan = curate_rows(MetaCLIP(entries, t=int(1e6)), rows_of(captions))
    there = np.array([bool(naive(entries, text)) for text in captions])
    assert 0 < there.sum() < 300
    assert verdict.keep.tolist() == there.tolist()
    assert (verdict.score == there).all()
    assert (plan["p"] == 1).all()
    assert set(verdict.reason) == {"tail", "no-match"}


def test_law() -> None:
    kept = 0
    plan = {"p": np.array([0.2, 0.5], np.float32)}
    for seed in range(2000):
        curator = MetaCLIP(["a", "b"], seed=seed) if seed == 0 else curator  # noqa: F821
        curator.seed = seed
        batch = Batch(
            ("the row",), {"flat": np.array([0, 1], np.uint32), "spans": np.array([2]), "captions": np.array([1])}
        )
        verdict = curator.judge(batch, plan)
        kept += int(verdict.keep[0])
    assert verdict.score[0] == pytest.approx(1 - 0.8 * 0.5, abs=1e-7)
    assert verdict.reason == ["head:a"]
    assert abs(kept / 2000 - 0.6) <= 0.035


def test_expected_count() -> None:
    t = 400
    verdict, _ = curate_rows(MetaCLIP(["dog"], t=t), rows_of(["a dog"] * 10_000))
    assert abs(int(verdict.keep.sum()) - t) <= 3 * t**0.5
    # what is kept stands for what was there
    assert verdict.weight.sum() == pytest.approx(10_000, rel=0.15)


def test_shards_order_and_resuming(tmp_path: Path) -> None:
    rows = pool(700)
    arguments = small(tmp_path)

    def make() -> MetaCLIP:
        return MetaCLIP(**arguments)

    verdict, _ = curate_rows(make(), rows)
    wanted = sorted(row.id for row, keep in zip(rows, verdict.keep, strict=True) if keep)
    assert 0 < len(wanted) < 600
    shuffled = random.Random(1).sample(rows, len(rows))
    for name, some, size in (("one", rows, 700), ("seven", rows, 100), ("shuffled", shuffled, 100)):
        curate(make, opener(write_pool(tmp_path / f"{name}.csv", some)), tmp_path / name, rows=size)
        assert sorted((tmp_path / name / "kept.txt").read_text().split()) == wanted

    def kill(name: str, done: int, total: int) -> None:
        if name == "scan" and done == 4:
            raise KeyboardInterrupt

    source = opener(tmp_path / "seven.csv")
    with pytest.raises(KeyboardInterrupt):
        curate(make, source, tmp_path / "killed", rows=100, listener=kill)
    curate(make, source, tmp_path / "killed", rows=100)
    assert list(read_verdicts(tmp_path / "killed")) == list(read_verdicts(tmp_path / "seven"))


def shares(captions: list[str], entries: list[str]) -> np.ndarray:
    matcher = Matcher(entries)
    counts = np.bincount([i for text in captions for i in matcher(text)], minlength=len(entries))
    return counts / counts.sum()


def test_balance() -> None:
    words = [f"w{k}" for k in range(400)]
    captions = zipf_captions(6000, seed=3, words=words)
    curator = MetaCLIP(words, tail_share=0.06)
    verdict, plan = curate_rows(curator, rows_of(captions))
    kept = [text for text, keep in zip(captions, verdict.keep, strict=True) if keep]
    before, after = shares(captions, words), shares(kept, words)
    top = np.argsort(-before)[: len(words) // 100]

    def entropy(p: np.ndarray) -> float:
        return float(-(p[p > 0] * np.log(p[p > 0])).sum())

    assert entropy(after) > entropy(before) + 0.3
    assert after[top].sum() <= 0.7 * before[top].sum()
    # every caption of an entry in the tail is kept
    tail = set(np.flatnonzero(plan["counts"] <= plan["t"][0]).tolist())
    matched = [set(curator.matcher(text)) for text in captions]
    assert tail
    assert all(keep for found, keep in zip(matched, verdict.keep, strict=True) if found & tail)


def test_one_of_several_captions_is_picked() -> None:
    rows = [Pair(f"r{i}", captions=("nothing", "a cat", "a dog", "a cat and a dog")) for i in range(3000)]
    verdict, plan = curate_rows(MetaCLIP(["cat", "dog"], t=10**6), rows)
    assert plan["counts"].tolist() == [6000, 6000]
    assert verdict.caption is not None
    picked = np.bincount(verdict.caption, minlength=4)
    assert picked[0] == 0
    assert (abs(picked[1:] - 1000) < 3 * (3000 * 2 / 9) ** 0.5).all()


def test_tail_share() -> None:
    counts = np.array([0, 1, 2, 3, 10, 84], np.uint64)
    assert tail_share_of_count(counts, 10) == pytest.approx(0.06)
    assert count_of_tail_share(counts, 0.06) == 3  # cumulative shares 0.01, 0.03, 0.06, 0.16, 1
    assert count_of_tail_share(counts, 0.2) == 10
    captions = zipf_captions(1000)
    _, plan = curate_rows(MetaCLIP(WORDS, tail_share=0.3), rows_of(captions))
    t = int(plan["t"][0])
    assert t in plan["counts"]
    assert tail_share_of_count(plan["counts"], t + 1) == pytest.approx(0.3, abs=0.04)


def test_language() -> None:
    rows = [Pair("a", captions=("cat",), metadata={"language": "en"}), Pair("b", captions=("cat",)), Pair("c")]
    verdict, plan = curate_rows(MetaCLIP(["cat"], language="en"), rows)
    assert verdict.reason == ["tail", "language", "language"]
    assert plan["counts"].tolist() == [1]


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="metadata"):
        MetaCLIP()
    with pytest.raises(InputError, match="tail_share"):
        MetaCLIP(["a"], t=None)
    with pytest.raises(InputError, match="up to 1"):
        MetaCLIP(["a"], tail_share=2)
    with pytest.raises(InputError, match="no row has a caption"):
        curate_rows(MetaCLIP(["a"]), [Pair("x")])
    source = opener(write_pool(tmp_path / "pool.csv", pool(5)))
    with pytest.raises(InputError, match="no caption holds an entry"):
        curate(lambda: MetaCLIP(["nowhere"]), source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_metadata(tmp_path: Path) -> None:
    words, pmi = count_words(["a b, a b", "a b c"])
    assert words == {"a": 3, "b": 3, ",": 1, "c": 1}
    assert pmi["a b"] == pytest.approx(np.log2(8 * 3 / 9))
    entries = build_metadata(
        words, pmi, {"Title": 80, "Talk: x": 900, "Rare": 3}, ["zoo", "b"], min_count=1, min_pmi=1.4
    )
    assert entries[:6] == ["b", "zoo", "a", "c", "a b", "b c"]
    assert "Title" in entries
    assert "Talk: x" not in entries
    assert "," not in entries
    assert entries[-1] == "99"
    assert len(build_metadata(words, size=3, min_count=1)) == 3
    (tmp_path / "list.txt").write_text("cat\n\n dog \ncat\n")
    assert read_metadata(tmp_path / "list.txt") == ["cat", "dog"]
    (tmp_path / "list.json").write_text('["cat"]')
    assert read_metadata(tmp_path / "list.json") == ["cat"]
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "none.txt").write_text("\n")
    for name in ("bad.json", "none.txt", "missing.txt"):
        with pytest.raises(InputError):
            read_metadata(tmp_path / name)


@pytest.mark.data
def test_wordnet_entries(shared_data: Path) -> None:
    entries = wordnet_entries(shared_data / "wordnet.parquet")
    assert {"dog", "ice bear", "st"} & set(entries) >= {"dog", "ice bear"}
    assert len(entries) > 80_000
    assert not any("_" in entry or "." in entry for entry in entries)
