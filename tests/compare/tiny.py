"""A CLIP of pocket's shape with few parameters, for tests."""

from __future__ import annotations

import math
from typing import Any


def tiny_config() -> dict[str, Any]:
    return {
        "format": 1,
        "name": "tiny",
        "embed_dim": 8,
        "towers": {
            "image": {"kind": "efficientnet_lite", "variant": "lite0", "head": {"classes": 5}},
            "text": {
                "kind": "text_transformer",
                "vocab_size": 49408,
                "context_length": 16,
                "width": 16,
                "layers": 1,
                "heads": 2,
                "factor": 4,
            },
        },
        "preprocess": {"size": 64},
        "tokenizer": {"kind": "clip_bpe", "context_length": 16},
        "logit_scale": math.log(20),
    }
