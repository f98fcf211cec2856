"""A vocabulary learnt from the captions at hand, for text towers that start from nothing."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from binderclip.data.files import write_whole
from binderclip.errors import InputError
from binderclip.model.tokenizer import Tokenizer

__all__ = ["SPECIAL", "learn_vocabulary"]

#: Ids 0 to 3. ``[MASK]`` is there for masked-word objectives, whether they are used or not.
SPECIAL = ("[PAD]", "[START]", "[END]", "[MASK]")


def learn_vocabulary(
    texts: Iterable[str], size: int, folder: Path | None = None, *, context_length: int = 16, clean: str = "lower"
) -> Tokenizer:
    """Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) over bytes, so that no text is unknown.

    Args:
        texts: captions; the same ones in any order give the same vocabulary.
        size: entries, the 4 special ones and 256 bytes among them; fewer when the captions hold fewer pieces.
        folder: keeps ``tokenizer.json``; None keeps it nowhere.
        context_length: most tokens of a text, both special ones included.
        clean: of ``Tokenizer``.

    Raises:
        InputError: a size that does not hold the bytes.
    """
    if size < len(SPECIAL) + 256:
        raise InputError(
            f"a vocabulary of {size} does not hold {len(SPECIAL)} special tokens and 256 bytes: ask for more"
        )
    rust = RustTokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    rust.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rust.train_from_iterator(sorted(set(texts)), trainer)
    config: dict[str, Any] = {
        "kind": "hf",
        "file": "tokenizer.json",
        "context_length": context_length,
        "start": 1,
        "end": 2,
        "pad": 0,
        "clean": clean,
    }
    text = rust.to_str().encode()
    json.loads(text)  # what is written can be read
    if folder is not None:
        write_whole(folder / "tokenizer.json", text)
        return Tokenizer.from_config(config, folder)
    with tempfile.TemporaryDirectory() as aside:
        write_whole(Path(aside) / "tokenizer.json", text)
        return Tokenizer.from_config(config, Path(aside))
