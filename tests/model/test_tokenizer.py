"""The tokenizer against open_clip's ids, and against a slow byte-pair encoder written here."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from binderclip.errors import CheckpointError, InputError
from binderclip.model.tokenizer import CLEANERS, Tokenizer, clip_bpe

TESTS = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.clip()


def our_strings() -> list[str]:
    spec = importlib.util.spec_from_file_location("strings", TESTS / "compare" / "strings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    texts: list[str] = module.strings()
    return texts


def test_5000_strings_have_the_reference_ids(tokenizer: Tokenizer) -> None:
    golden = np.load(TESTS / "goldens" / "tokenizer.npz")
    texts = our_strings()
    assert len(texts) == 5000
    assert hashlib.sha256("\x1e".join(texts).encode("utf-8", "surrogatepass")).hexdigest() == str(golden["digest"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ids, eos = tokenizer(texts)
    lengths = golden["lengths"].astype(int)
    np.testing.assert_array_equal(eos + 1, lengths)
    mine = np.concatenate([row[:n] for row, n in zip(ids, lengths, strict=True)])
    np.testing.assert_array_equal(mine, golden["ids"])


def slow_bpe(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Merge the best-ranked neighbouring pair until none is left: Sennrich et al. 2016, one pair at a time."""
    parts = [*word[:-1], word[-1] + "</w>"]
    while len(parts) > 1:
        pairs = [(ranks.get((a, b), 10**9), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
        rank, _ = min(pairs)
        if rank == 10**9:
            return parts
        best = next((parts[i], parts[i + 1]) for r, i in pairs if r == rank)
        merged: list[str] = []
        i = 0
        while i < len(parts):
            if tuple(parts[i : i + 2]) == best:
                merged.append(parts[i] + parts[i + 1])
                i += 2
            else:
                merged.append(parts[i])
                i += 1
        parts = merged
    return parts


def test_words_against_a_slow_encoder(tokenizer: Tokenizer) -> None:
    state = json.loads(clip_bpe().to_str())["model"]
    ranks = {tuple(pair): i for i, pair in enumerate(state["merges"])}
    for word in "bicycle unmerged zzyzx antidisestablishmentarianism photographing a ab".split():
        assert tokenizer.encode(word) == [state["vocab"][part] for part in slow_bpe(word, ranks)]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_a_text_does_not_depend_on_its_neighbours(texts: list[str]) -> None:
    tokenizer = Tokenizer.clip()
    ids, eos = tokenizer(texts)
    for i, text in enumerate(texts):
        alone, end = tokenizer([text])
        np.testing.assert_array_equal(ids[i, : end[0] + 1], alone[0])
        assert (ids[i, end[0] + 1 :] == 0).all()
        assert eos[i] == end[0]


def test_long_text_keeps_its_end_and_warns_once() -> None:
    tokenizer = Tokenizer.clip(context_length=8)
    with pytest.warns(UserWarning, match="a text of 22 tokens was cut to the 8"):
        ids, eos = tokenizer(["dog " * 20])
    assert ids.shape == (1, 8)
    assert (ids[0, -1], eos[0]) == (49407, 7)
    tokenizer(["cat " * 20])  # warnings are errors here: a second one would fail
    assert tokenizer.truncated == 2


def test_word_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("binderclip.model.tokenizer._MOST_WORDS", 3)
    tokenizer = Tokenizer.clip()
    first = tokenizer.encode("one two three four five")
    assert len(tokenizer.encode("six seven")) == 2
    assert tokenizer.encode("one two three four five") == first


def test_padding_to_the_context(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(clip_bpe().to_str())
    config = {
        "kind": "hf",
        "file": "tokenizer.json",
        "context_length": 6,
        "start": None,
        "end": 5,
        "pad": 1,
        "pad_to": "max",
    }
    tokenizer = Tokenizer.from_config(config | {"clean": "canonical"}, tmp_path)
    ids, eos = tokenizer(["A dog!"])
    assert ids.tolist() == [[320, 1929, 5, 1, 1, 1]]
    assert eos.tolist() == [2]
    assert tokenizer.config["pad"] == 1


def test_cleaning() -> None:
    assert CLEANERS["lower"]("  A\tCAF\u00c9 &amp; co ") == "a caf\u00e9 & co"
    assert CLEANERS["canonical"]("Off-White_T-shirt, 2!") == "offwhite tshirt 2"
    assert CLEANERS["whitespace"]("A  B") == "A B"


def test_empty_and_wrong_input(tokenizer: Tokenizer, tmp_path: Path) -> None:
    ids, eos = tokenizer([])
    assert (len(ids), eos.shape) == (0, (0,))
    assert tokenizer([""])[0].tolist() == [[49406, 49407]]
    with pytest.raises(InputError, match="a list of texts"):
        tokenizer("a dog")
    with pytest.raises(InputError, match="unknown text cleaning"):
        Tokenizer.from_config({"kind": "clip_bpe", "clean": "scrub"})
    with pytest.raises(InputError, match="pad_to"):
        Tokenizer.from_config({"kind": "clip_bpe", "pad_to": "left"})
    with pytest.raises(CheckpointError, match="unknown tokenizer kind"):
        Tokenizer.from_config({"kind": "spm"})
    with pytest.raises(CheckpointError, match="is missing beside the weights"):
        Tokenizer.from_config({"kind": "hf"}, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not a tokenizer file"):
        Tokenizer.from_config({"kind": "hf"}, tmp_path)


@pytest.mark.data
def test_all_captions_at_hand_have_the_reference_ids(shared_data: Path, tokenizer: Tokenizer) -> None:
    """Against the plain algorithm: OpenAI's split, then the slow encoder for each new word."""
    import pyarrow.parquet as pq
    import regex

    captions = [
        c for row in pq.read_table(shared_data / "flickr8k_captions.parquet")["captions"].to_pylist() for c in row
    ]
    stamps = pq.read_table(shared_data / "stamps.parquet", columns=["captions"])["captions"].to_pylist()
    captions += [entry["text"] for row in stamps for entry in row]
    assert len(captions) > 70_000
    state = json.loads(clip_bpe().to_str())["model"]
    vocabulary, ranks = state["vocab"], {tuple(pair): i for i, pair in enumerate(state["merges"])}
    pattern = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
    letters = dict(zip(range(256), byte_letters(), strict=True))
    known: dict[str, list[int]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ids, eos = tokenizer(captions)
    for text, row, end in zip(captions, ids, eos, strict=True):
        wanted: list[int] = []
        for word in pattern.findall(CLEANERS["lower"](text)):
            if word not in known:
                spelt = "".join(letters[b] for b in word.encode())
                known[word] = [vocabulary[part] for part in slow_bpe(spelt, ranks)]
            wanted += known[word]
        assert row[1:end].tolist() == wanted[:75]


def byte_letters() -> list[str]:
    """The byte alphabet of GPT-2: printable bytes are themselves, the others follow from 256 on."""
    letters, extra = [], 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255:
            letters.append(chr(byte))
        else:
            letters.append(chr(extra))
            extra += 1
    return letters
