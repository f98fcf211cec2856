"""Shorter texts: the sentence of the specification, loops over ids, and the tagger on known words."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from binderclip.data.hashing import Draws
from binderclip.errors import InputError
from binderclip.model.tokenizer import Tokenizer
from binderclip.train.parts.tagging import NltkTagger, WordListTagger
from binderclip.train.parts.text import shorten_ids, shorten_words

FOX = "the quick brown fox jumps over a lazy dog"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (1, "fox"),
        (2, "fox dog"),
        (4, "quick brown fox dog"),
        (5, "quick brown fox lazy dog"),
        (6, "quick brown fox jumps lazy dog"),
        (7, "the quick brown fox jumps lazy dog"),
        (9, FOX),
    ],
)
def test_syntax(words: int, wanted: str) -> None:
    assert shorten_words(FOX, words) == wanted


def test_a_text_that_fits_is_left_alone() -> None:
    for how in ("syntax", "truncate", "random", "block"):
        assert shorten_words("  two   words ", 2, how, draws=Draws(0, "x")) == "  two   words "
    assert shorten_words("", 3) == ""


def test_other_ways_keep_order_and_count() -> None:
    words = FOX.split()
    assert shorten_words(FOX, 3, "truncate") == "the quick brown"
    seen = set()
    for epoch in range(40):
        draws = Draws(0, f"text/7/{epoch}")
        block = shorten_words(FOX, 3, "block", draws=draws)
        assert f" {block} " in f" {FOX} "
        assert len(block.split()) == 3
        seen.add(block)
        places = [words.index(w) for w in shorten_words(FOX, 3, "random", draws=draws).split()]
        assert len(places) == 3
        assert places == sorted(places)
    assert len(seen) == 7  # every start


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(InputError, match="at least 1"):
        shorten_words(FOX, 0)
    with pytest.raises(InputError, match="pass draws"):
        shorten_words("a b", 5, "random")
    with pytest.raises(InputError, match="unknown way"):
        shorten_words("a b", 5, "clever")


def test_tags() -> None:
    tags = WordListTagger()("A muddy terrier, 3 puppies and a careless jogger quickly wandered to the run .".split())
    assert tags == ["DT", "JJ", "NN", "CD", "NN", "CC", "DT", "JJ", "NN", "RB", "VB", "IN", "DT", "NN", "SYM"]
    assert WordListTagger().name == "word list"
    assert WordListTagger()([]) == []


def test_nltk_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(InputError, match="WordListTagger"):
        NltkTagger()
    table = {"dogs": "NNS", "big": "JJR", "ran": "VBD"}
    fake = SimpleNamespace(pos_tag=lambda words: [(w, table.get(w, "RB")) for w in words])
    monkeypatch.setitem(sys.modules, "nltk", fake)
    tagger = NltkTagger()
    assert tagger.name == "nltk perceptron"
    assert shorten_words("so big dogs ran", 2, tagger=tagger) == "big dogs"


def rows(sizes: list[int], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, width] rows of 900, 1 ... size, 999, zeros, and where 999 is."""
    ids = torch.zeros(len(sizes), width, dtype=torch.long)
    for row, size in enumerate(sizes):
        ids[row, : size + 2] = torch.tensor([900, *range(1, size + 1), 999])
    return ids, torch.tensor(sizes) + 1


@pytest.mark.parametrize("how", ["truncate", "random", "block"])
def test_ids_against_what_must_hold(how: str) -> None:
    sizes = [0, 1, 3, 4, 5, 6, 14] * 20
    ids, eos = rows(sizes, 16)
    got, end = shorten_ids(ids, eos, 6, how, torch.Generator().manual_seed(0))
    assert got.shape == (len(sizes), 6)
    starts = set()
    for size, row, at in zip(sizes, got.tolist(), end.tolist(), strict=True):
        assert row[0] == 900
        assert row[at] == 999
        words = row[1:at]
        assert row[at + 1 :] == [0] * (5 - at)
        assert len(words) == min(size, 4)
        assert words == sorted(set(words))
        assert all(1 <= w <= size for w in words)
        if size <= 4 or how == "truncate":
            assert words == list(range(1, min(size, 4) + 1))
        if how == "block":
            assert not words or words == list(range(words[0], words[0] + len(words)))
        if size == 6:
            starts.add(tuple(words))
    assert len(starts) == {"truncate": 1, "block": 3}.get(how, len(starts))
    assert how != "random" or len(starts) > 6


def test_ids_cut_by_truncation_are_the_tokenizer_s_own() -> None:
    texts = [FOX, "a dog", "", "a red bicycle leans on a wall behind the old house"]
    ids, eos = (torch.from_numpy(part) for part in Tokenizer.clip()(texts))
    got, end = shorten_ids(ids, eos, 8)
    with pytest.warns(UserWarning, match="was cut"):
        wanted, wanted_end = Tokenizer.clip(8)(texts)
    assert got.tolist() == wanted.tolist()
    assert end.tolist() == wanted_end.tolist()


def test_rows_without_special_tokens() -> None:
    ids = torch.tensor([[1, 2, 3, 4, 5, 0], [1, 2, 0, 0, 0, 0]])
    got, end = shorten_ids(ids, torch.tensor([4, 1]), 3, bos=False, end=False)
    assert got.tolist() == [[1, 2, 3], [1, 2, 0]]
    assert end.tolist() == [2, 1]
    got, end = shorten_ids(ids, torch.tensor([4, 1]), 3, "block", torch.Generator().manual_seed(1), bos=True, end=False)
    assert got[0, 0] == 1
    assert got[0, 2] - got[0, 1] == 1
    assert end.tolist() == [2, 1]


def test_ids_that_fit_come_back_and_no_room_is_said() -> None:
    ids, eos = rows([3, 2], 5)
    got = shorten_ids(ids, eos, 5, "random")
    assert got[0] is ids
    assert got[1] is eos
    with pytest.raises(InputError, match="at least 3"):
        shorten_ids(ids, eos, 2)
    with pytest.raises(InputError, match="unknown way"):
        shorten_ids(ids, eos, 4, "syntax")
