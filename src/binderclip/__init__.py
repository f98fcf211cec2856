"""binderclip: the whole life of a CLIP model, from searching a folder of pictures to training the next one.

Names are imported at first use, so that ``import binderclip`` costs next to nothing and never needs torch::

    from binderclip import Encoder, Index      # numpy, Pillow, ONNX Runtime
    clip = binderclip.load("ViT-B-32/openai")  # the extra `torch`
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from binderclip.cards import Card
    from binderclip.data.embeddings import Embeddings
    from binderclip.engine.encoder import Encoder
    from binderclip.hub import load
    from binderclip.model.clip import CLIP
    from binderclip.search.index import Index

__version__ = "0.1.0"

__all__ = ["CLIP", "Card", "Embeddings", "Encoder", "Index", "__version__", "load"]

_HOMES = {
    "CLIP": "binderclip.model.clip",
    "Card": "binderclip.cards",
    "Embeddings": "binderclip.data.embeddings",
    "Encoder": "binderclip.engine.encoder",
    "Index": "binderclip.search.index",
    "load": "binderclip.hub",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'binderclip' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
