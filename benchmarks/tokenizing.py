"""Tokenizing 20,000 Flickr8k captions against open_clip, both warm, and 128 of them cold."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.common import digest, flickr_captions, open_clip, record, shared_data, versus
from binderclip.model.tokenizer import Tokenizer


def main() -> None:
    """Measure and record."""
    peer = open_clip().get_tokenizer("ViT-B-32")
    captions = flickr_captions(20_000)
    ours = Tokenizer.clip()
    cold = []
    for tokenizer in (ours, peer):
        start = time.perf_counter()
        tokenizer(captions[:128])
        cold.append(time.perf_counter() - start)
    ids, _ = ours(captions)
    equal = bool(np.array_equal(peer(captions).numpy()[:, : ids.shape[1]], ids))
    big = versus(lambda: ours(captions), lambda: peer(captions))
    small = versus(lambda: ours(captions[:128]), lambda: peer(captions[:128]), repeat=15)
    one = versus(lambda: [ours([c]) for c in captions[:500]], lambda: [peer([c]) for c in captions[:500]])
    figures = {
        "equal_ids": equal,
        "captions_20000": big,
        "captions_128": small,
        "one_at_a_time_500": one,
        "first_128_cold": {"ours": cold[0], "peer": cold[1], "ratio": cold[1] / cold[0]},
    }
    record("tokenizing", figures, wanted="10x open_clip", data=digest(shared_data() / "flickr8k_captions.parquet"))


if __name__ == "__main__":
    main()
