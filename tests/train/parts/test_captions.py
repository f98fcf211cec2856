"""Captions: the draw against the uniform law, fallbacks, rewrite files, sentences and edits of words."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from binderclip.data.hashing import Draws
from binderclip.data.pairs import Pair
from binderclip.data.wordnet import WordNet
from binderclip.errors import InputError
from binderclip.train.parts.captions import CaptionPool, bundled_synonyms, eda, read_rewrites, sentences

FIVE = ("the original text", "one rewrite of it", "two rewrites of it", "three of them", "four of them")


def p_of_chi2_with_4(x: float) -> float:
    """The upper tail with 4 degrees of freedom, in closed form."""
    return math.exp(-x / 2) * (1 + x / 2)


def test_draws_are_uniform_and_fresh_each_epoch() -> None:
    pool = CaptionPool()
    rows = [Pair(id=str(i), captions=FIVE) for i in range(10_000)]
    first = [pool.choose(pair, 0, seed=1) for pair in rows]
    second = [pool.choose(pair, 1, seed=1) for pair in rows]
    for drawn in (first, second):
        counts = Counter(drawn)
        assert set(counts) == set(FIVE)  # the original weighs as much as each rewrite
        assert p_of_chi2_with_4(sum((n - 2000) ** 2 / 2000 for n in counts.values())) > 0.001
    changed = sum(a != b for a, b in zip(first, second, strict=True)) / 10_000
    assert changed == pytest.approx(0.8, abs=0.02)
    one = [pool.choose(rows[0], epoch, seed=1) for epoch in range(10_000)]
    assert p_of_chi2_with_4(sum((n - 2000) ** 2 / 2000 for n in Counter(one).values())) > 0.001


def test_a_draw_depends_on_row_epoch_and_seed_alone() -> None:
    rows = [Pair(id=str(i), captions=FIVE) for i in range(200)]
    forth = [CaptionPool().choose(pair, 3, seed=0) for pair in rows]
    assert [CaptionPool().choose(pair, 3, seed=0) for pair in reversed(rows)] == forth[::-1]
    assert [CaptionPool().choose(pair, 3, seed=1) for pair in rows] != forth


def test_no_rewrites_is_plain_clip() -> None:
    pair = Pair(id="a", captions=("x",))
    assert {CaptionPool().choose(pair, epoch, 0) for epoch in range(20)} == {"x"}  # one word, but the original
    assert CaptionPool().choose(Pair(id="b"), 0, 0) == ""


@pytest.mark.parametrize("short", ["", "word", "  ", " word "])
@pytest.mark.parametrize("original", ["a dog", "dog"])
def test_short_rewrites_are_never_seen(short: str, original: str) -> None:
    pair = Pair(id="a", captions=(original,), metadata={"rewrite_bard": short, "rewrite_human": "fine as it is"})
    seen = {CaptionPool().choose(pair, epoch, 0) for epoch in range(60)}
    assert seen == {original, "fine as it is"}


def test_where_rewrites_live() -> None:
    pair = Pair(
        id="a",
        captions=("the original text", "second human text"),
        metadata={"rewrite_bard": "by bard", "rewrite_many": ["many one", "many two", 7], "alt": "alt text", "n": 3},
    )
    assert CaptionPool().texts(pair) == [
        "the original text",
        "second human text",
        "by bard",
        "many one",
        "many two",
    ]
    assert CaptionPool(("alt", "caption")).texts(pair) == ["alt text", "the original text"]
    assert CaptionPool(("rewrite_bard",)).choose(pair, 0, 0) == "by bard"
    assert CaptionPool(("rewrite_1", "rewrite_*")).texts(pair)[0] == "second human text"
    assert CaptionPool(("nothing",)).choose(pair, 0, 0) == "the original text"  # falls back
    assert CaptionPool(("rewrite_none",), fallback="alt").choose(pair, 0, 0) == "alt text"


def test_rules() -> None:
    pair = Pair(id="a", captions=FIVE)
    assert {CaptionPool(rule="first").choose(pair, e, 0) for e in range(9)} == {FIVE[0]}
    assert [CaptionPool(rule="alternate").choose(pair, e, 0) for e in range(7)] == [*FIVE, *FIVE[:2]]
    mixed = Counter(CaptionPool(rule="mixture", p=0.7).choose(pair, e, 0) for e in range(4000))
    assert mixed[FIVE[0]] / 4000 == pytest.approx(0.7, abs=0.03)
    assert all(mixed[text] / 4000 == pytest.approx(0.075, abs=0.02) for text in FIVE[1:])
    for p, seen in ((0.0, set(FIVE[1:])), (1.0, {FIVE[0]})):
        assert {CaptionPool(rule="mixture", p=p).choose(pair, e, 0) for e in range(60)} == seen
    for wrong in ({"rule": "best"}, {"rule": "mixture"}, {"rule": "mixture", "p": 2.0}, {"sources": ()}):
        with pytest.raises(InputError, match="rule"):
            CaptionPool(**wrong)


def test_rewrite_files(tmp_path: Path) -> None:
    path = tmp_path / "bard.txt"
    path.write_bytes("\ufeffone \r\n\ntwo\u2028halves\n".encode())
    assert read_rewrites(path, 3) == ["one", "", "two\u2028halves"]
    path.write_bytes(b"one\n\nthree")
    assert read_rewrites(path, 3) == ["one", "", "three"]
    with pytest.raises(InputError, match="3 lines for 4 rows"):
        read_rewrites(path, 4)
    path.write_bytes(b"")
    assert read_rewrites(path, 0) == []
    with pytest.raises(InputError, match="cannot be read"):
        read_rewrites(tmp_path / "none.txt", 1)


def test_sentences() -> None:
    assert sentences("One dog. Two dogs! Three?") == ["One dog.", "Two dogs!", "Three?"]
    assert sentences('He said "Go." Then left... And so on') == ['He said "Go."', "Then left...", "And so on"]
    assert sentences("At 2.5 m, e.g. here, by Dr. J. Smith in the U.S. navy.") == [
        "At 2.5 m, e.g. here, by Dr. J. Smith in the U.S. navy."
    ]
    assert sentences("no end") == ["no end"]
    assert sentences("  ") == []
    assert sentences("Erster Satz. Über allem. 3 more.") == ["Erster Satz.", "Über allem.", "3 more."]
    long = "A dog runs.  A cat sits.\nIt rains."
    assert " ".join(sentences(long)).split() == long.split()


TABLE = {"dog": ("hound",), "big": ("large", "huge_thing")}


def kind_of(before: str, after: str) -> str:
    a, b = before.split(), after.split()
    if a == b:
        return "none"
    if sorted(a) == sorted(b):
        return "swap" if sum(x != y for x, y in zip(a, b, strict=True)) == 2 else "?"
    rest = iter(a)
    return "delete" if all(word in rest for word in b) else "replace"


def test_edits_are_one_of_three_alike() -> None:
    text = "a big brown dog runs over wet grass near us"
    kinds = Counter(kind_of(text, eda(text, Draws(0, f"eda/{i}"), TABLE)) for i in range(6000))
    assert set(kinds) == {"swap", "delete", "replace", "none"}
    nothing_deleted = 0.9**10 / 3  # a deletion of no word
    for kind, share in (
        ("swap", 1 / 3),
        ("replace", 1 / 3),
        ("none", nothing_deleted),
        ("delete", 1 / 3 - nothing_deleted),
    ):
        assert kinds[kind] / 6000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 6000))


def test_deletion_takes_a_tenth() -> None:
    text = " ".join(f"w{i}" for i in range(100))
    sizes = [len(eda(text, Draws(0, str(i)), {}).split()) for i in range(600)]
    deleted = [100 - n for n in sizes if n < 100]
    assert len(deleted) == pytest.approx(300, abs=50)  # without synonyms: swap or delete
    assert sum(deleted) / len(deleted) == pytest.approx(10, abs=0.8)


def test_synonyms_keep_case_and_punctuation() -> None:
    seen = {eda("Big (dog)!", Draws(0, str(i)), TABLE) for i in range(200)}
    assert {"Large (dog)!", "Huge thing (dog)!", "Big (hound)!"} <= seen
    calls = {eda("a dog", Draws(0, str(i)), lambda w: ["wolf"] if w == "dog" else []) for i in range(60)}
    assert "a wolf" in calls


def test_edits_never_empty_a_text() -> None:
    for text in ("word", "a", "", "  ", "?!"):
        assert {eda(text, Draws(0, str(i))) for i in range(200)} == {text}
    two = {eda("dog dog", Draws(0, str(i)), {}) for i in range(400)}
    assert two == {"dog dog", "dog"}


def test_an_edit_is_a_function_of_its_draws() -> None:
    text = "a big brown dog runs over wet grass"
    assert eda(text, Draws(1, "x")) == eda(text, Draws(1, "x"))
    assert len({eda(text, Draws(1, f"x/{epoch}")) for epoch in range(50)}) > 20


def test_bundled_synonyms_go_both_ways() -> None:
    table = bundled_synonyms()
    assert len(table) > 100
    for word, others in table.items():
        assert word not in others
        assert all(word in table[other] for other in others)


@pytest.mark.data
def test_wordnet_gives_synonyms(shared_data: Path) -> None:
    wordnet = WordNet(shared_data / "wordnet.parquet")
    seen = {eda("an automobile", Draws(0, str(i)), wordnet.synonyms) for i in range(60)}
    assert "an car" in seen or "an motorcar" in seen
