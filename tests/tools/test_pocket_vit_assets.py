"""The shipped pocket-vit is what its record says, shares pocket's text tower, and its card prints its figures."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
from PIL import Image
from safetensors import safe_open

from binderclip.engine.encoder import Encoder
from binderclip.hub.embedded import embedded_models
from binderclip.hub.loader import load

FOLDER = embedded_models()["pocket-vit"]
RECORD = json.loads((FOLDER / "build_record.json").read_text(encoding="utf-8"))


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)) for _ in range(3)]


def test_weights_are_those_of_the_record_and_small() -> None:
    weights = (FOLDER / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest()[:12] == RECORD["weights"]
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 9e6
    assert not (FOLDER / "text.onnx").exists()
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        assert {str(name).split(".")[0] for name in file.keys()} == {"image", "logit_scale"}  # noqa: SIM118


def test_the_text_side_is_pockets_and_the_graph_is_the_module() -> None:
    one, other = Encoder("pocket-vit", threads=1), Encoder("pocket", threads=1)
    words = ["a dog", "a red bicycle in the rain"]
    assert np.array_equal(one.encode_text(words), other.encode_text(words))
    module = load("pocket-vit").eval()
    by_torch = module.encode_image(pictures()).detach().numpy()
    np.testing.assert_allclose(one.encode_image(pictures()), by_torch, atol=1e-5)


def test_the_card_prints_the_recorded_figures() -> None:
    card = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+?) \|[^|]*\| ([\d.]+) \|", card, re.M))
    said = {
        "CIFAR-10, 10 names": "cifar10",
        "CIFAR-100, 100 names (80 classes in training)": "cifar100",
        "CIFAR-100, its 20 unseen classes among themselves": "cifar100_unseen20",
        "Tiny-ImageNet, 200 names": "tiny_imagenet",
        "ImageNet photos, 1,000 names": "imagenet_photos_1000",
        "stamps, text to image, recall@5": "stamps_recall5",
        "WordNet parent names, mean AUROC over ImageNet photos": "parents_auroc",
    }
    assert {said[name]: float(value) for name, value in rows.items()} == {
        name: round(value, 3) for name, value in RECORD["figures"].items()
    }
