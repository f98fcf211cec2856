"""Text to token ids, without torch: OpenAI's byte-pair vocabulary, or any ``tokenizer.json``.

The CLIP vocabulary (Radford et al. 2021, arXiv 2103.00020) has 49,408 entries: 256 bytes, the same 256 ending a word,
48,894 merges and the two special tokens. It is rebuilt from its merges in about 50 ms. Texts are mended (``ftfy``),
HTML entities resolved, white space folded and letters lowered before splitting, as the published models saw them.
"""

from __future__ import annotations

import gzip
import html
import string
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from binderclip.errors import CheckpointError, InputError

__all__ = ["CLEANERS", "Tokenizer", "clip_bpe"]

IntArray = npt.NDArray[np.int64]

START, END = "<start_of_text>", "<end_of_text>"
_SPLIT = rf"{START}|{END}|(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+"
_MOST_WORDS = 200_000
_CHUNK = 512  # texts split at a time: tens of thousands of small lists would keep the garbage collector busy
_PRINTABLE = frozenset(map(chr, [*range(0x20, 0x7F), 0x09, 0x0A, 0x0D]))


def _mend(text: str) -> str:
    """Undo mojibake and entities. Printable ASCII without ``&`` cannot change, and is most of what people type."""
    if "&" not in text and _PRINTABLE.issuperset(text):
        return text
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def clean_whitespace(text: str) -> str:
    """Mend and fold white space."""
    return " ".join(_mend(text).split())


def clean_lower(text: str) -> str:
    """Mend, fold white space, lower: what OpenAI's models and most others saw."""
    return clean_whitespace(text).lower()


def clean_canonical(text: str) -> str:
    """Mend, drop ASCII punctuation, lower: what the SigLIP family saw."""
    text = _mend(text).strip().replace("_", " ")
    return " ".join(text.translate(str.maketrans("", "", string.punctuation)).lower().split())


CLEANERS: dict[str, Callable[[str], str]] = {
    "lower": clean_lower,
    "whitespace": clean_whitespace,
    "canonical": clean_canonical,
    "none": str,
}


def _byte_alphabet() -> list[str]:
    """The 256 bytes as printable characters: themselves where printable, else the code points from 256 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [b for b in range(256) if b not in set(plain)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(moved))]


@lru_cache(maxsize=1)
def clip_bpe() -> RustTokenizer:
    """OpenAI's byte-pair encoding on the Rust ``tokenizers``, from the shipped list of merges."""
    packed = resources.files("binderclip").joinpath("assets/clip_bpe/merges.txt.gz").read_bytes()
    merges = [(a, b) for a, b in (line.split() for line in gzip.decompress(packed).decode().splitlines())]
    alphabet = _byte_alphabet()
    words = [*alphabet, *(c + "</w>" for c in alphabet), *(a + b for a, b in merges), START, END]
    bpe = models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=merges, end_of_word_suffix="</w>")
    rust = RustTokenizer(bpe)
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return rust


class Tokenizer:
    """Texts to ids of one CLIP text tower.

    Args:
        rust: the vocabulary, from the ``tokenizers`` library.
        context_length: most tokens of a text, both special tokens included (77 for OpenAI's models).
        start: id put before each text, or ``None``.
        end: id put after each text; it is kept when a text is cut. ``None`` for towers without one.
        pad: id that fills shorter rows (OpenAI's models: 0).
        pad_to: ``"longest"`` trims rows to the longest text, exact for causal and for masked towers; ``"max"`` fills
            up to ``context_length``, for towers that were trained to look at padding (SigLIP).
        clean: one of ``lower``, ``whitespace``, ``canonical``, ``none``.
        config: what ``from_config`` was given, so that it travels with the checkpoint.

    Example:
        >>> ids, eos = Tokenizer.clip()(["a red bicycle", "a dog"])
        >>> ids.tolist(), eos.tolist()
        ([[49406, 320, 736, 11652, 49407], [49406, 320, 1929, 49407, 0]], [4, 3])
    """

    def __init__(
        self,
        rust: RustTokenizer,
        *,
        context_length: int = 77,
        start: int | None = 49406,
        end: int | None = 49407,
        pad: int = 0,
        pad_to: str = "longest",
        clean: str = "lower",
        config: dict[str, Any] | None = None,
    ) -> None:
        if clean not in CLEANERS:
            raise InputError(f"unknown text cleaning {clean!r}: use one of {', '.join(CLEANERS)}")
        if pad_to not in ("longest", "max"):
            raise InputError(f"pad_to is {pad_to!r}: use 'longest' or 'max'")
        self.rust, self.context_length = rust, context_length
        self.start, self.end, self.pad, self.pad_to = start, end, pad, pad_to
        self.clean = CLEANERS[clean]
        self.config = config or {}
        self.truncated = 0  # texts cut so far
        self._by_word = config is not None and config.get("kind") == "clip_bpe"
        self._words: dict[str, list[int]] = {}

    @classmethod
    def clip(cls, context_length: int = 77) -> Tokenizer:
        """The tokenizer of OpenAI's models and of all that took theirs."""
        return cls.from_config({"kind": "clip_bpe", "context_length": context_length})

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path | None = None) -> Tokenizer:
        """Make the tokenizer a checkpoint's config names.

        Args:
            config: ``{"kind": "clip_bpe", ...}`` or ``{"kind": "hf", "file": "tokenizer.json", ...}``; the other keys
                are arguments of ``Tokenizer``.
            folder: where ``file`` is looked up.

        Raises:
            CheckpointError: unknown kind, or the file is missing or broken.
        """
        options = {k: v for k, v in config.items() if k not in ("kind", "file")}
        kind = config.get("kind")
        if kind == "clip_bpe":
            return cls(clip_bpe(), config=dict(config), **options)
        if kind == "hf":
            path = (folder or Path()) / Path(str(config.get("file", "tokenizer.json"))).name
            return cls(_read_json(path), config=dict(config), **options)
        raise CheckpointError(f"unknown tokenizer kind {kind!r}: this version knows 'clip_bpe' and 'hf'")

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return int(self.rust.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Ids of one text, without the special tokens, not cut."""
        return self._bodies([text])[0]

    def __call__(self, texts: Sequence[str]) -> tuple[IntArray, IntArray]:
        """Ids ``[N, L]`` and the index of each row's end token ``[N]``, both int64.

        Texts over ``context_length`` are cut in front of their end token, counted in ``truncated`` and warned of once.
        """
        if isinstance(texts, str):
            raise InputError("give a list of texts, not one string")
        flat: list[int] = []
        sizes: list[int] = []
        for i in range(0, len(texts), _CHUNK):
            flat_part, part = self._bodies(texts[i : i + _CHUNK])
            flat += flat_part
            sizes += part
        return self._frame(np.array(flat, dtype=np.int64), np.array(sizes, dtype=np.int64))

    def _bodies(self, texts: Sequence[str]) -> tuple[list[int], list[int]]:
        """Ids of all texts one after the other, and how many each has."""
        cleaned = [self.clean(text) for text in texts]
        if not self._by_word:
            rows = [row.ids for row in self.rust.encode_batch_fast(cleaned, add_special_tokens=False)]
            return list(chain.from_iterable(rows)), [len(row) for row in rows]
        # No token of the CLIP vocabulary crosses white space, so a text is its words' ids one after the other, and
        # each word is encoded once. The table is replaced, never emptied: another thread may be reading it.
        if len(self._words) > _MOST_WORDS:
            self._words = {}
        words = self._words
        split = [text.split() for text in cleaned]
        new = sorted({word for row in split for word in row if word not in words})
        for word, coded in zip(new, self.rust.encode_batch_fast(new, add_special_tokens=False), strict=True):
            words[word] = self._encode_spelt(word) if START in word or END in word else coded.ids
        flat: list[int] = []
        sizes = []
        for row in split:
            before = len(flat)
            for word in row:
                flat += words[word]
            sizes.append(len(flat) - before)
        return flat, sizes

    def _encode_spelt(self, word: str) -> list[int]:
        """A word that spells out a special token: published tokenizers give it the token's id, so this one does too."""
        special = {START: 49406, END: 49407}
        ids: list[int] = []
        for piece, (begin, stop) in self.rust.pre_tokenizer.pre_tokenize_str(word):
            ids += [special[piece]] if piece in special else self.rust.encode(word[begin:stop]).ids
        return ids

    def _frame(self, flat: IntArray, sizes: IntArray) -> tuple[IntArray, IntArray]:
        """Rows with their special tokens, cut and padded, from all ids in a row and the size of each text ``[N]``."""
        first, last = int(self.start is not None), int(self.end is not None)
        most = self.context_length - first - last
        kept = np.minimum(sizes, most)  # [N]
        if (sizes > most).any():
            self._count_cut(sizes, most)
            place = np.arange(len(flat)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # index within its own text
            flat = flat[place < most]
        widest = int(kept.max(initial=0)) + first + last
        length = self.context_length if self.pad_to == "max" else max(widest, 1)
        ids = np.full((len(sizes), length), self.pad, dtype=np.int64)  # [N, L]
        column = np.arange(length) - first
        ids[(column >= 0) & (column < kept[:, None])] = flat
        if self.start is not None:
            ids[:, 0] = self.start
        if self.end is not None:
            ids[np.arange(len(sizes)), kept + first] = self.end
        return ids, np.maximum(kept + first + last - 1, 0)

    def _count_cut(self, sizes: IntArray, most: int) -> None:
        if not self.truncated:
            longest = int(sizes.max()) + self.context_length - most
            warnings.warn(
                f"a text of {longest} tokens was cut to the {self.context_length} that this model reads; "
                "later ones are cut without a word and counted in Tokenizer.truncated",
                UserWarning,
                stacklevel=4,
            )
        self.truncated += int((sizes > most).sum())


def _read_json(path: Path) -> RustTokenizer:
    try:
        rust = RustTokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.name} is missing beside the weights: copy it from where the model came") from None
    except Exception as error:
        raise CheckpointError(f"{path.name} is not a tokenizer file ({error}): fetch it again") from None
    rust.no_truncation()
    rust.no_padding()
    return rust
