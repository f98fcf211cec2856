"""A model whose text tower is another's: stored once, loaded whole, and on its own feet as soon as it is changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from binderclip.engine.encoder import Encoder
from binderclip.engine.torch_export import export_onnx
from binderclip.errors import CheckpointError
from binderclip.hub import load, native
from binderclip.model.build import build
from binderclip.model.clip import CLIP


@pytest.fixture
def sharing() -> CLIP:
    """A tiny image tower beside pocket's text tower."""
    pocket = load("pocket")
    image = {"kind": "vit", "image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "heads": 2}
    config = {k: v for k, v in pocket.config.items() if k != "probe"} | {
        "name": "sharing",
        "towers": {"image": image, "text": pocket.config["towers"]["text"]},
        "preprocess": {"size": 16},
        "shares": {"text": "pocket"},
    }
    torch.manual_seed(0)
    clip = build(config)
    clip.tower("text").load_state_dict(pocket.tower("text").state_dict())
    return clip


def stored(folder: Path) -> list[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return sorted({str(name).split(".")[0] for name in file.keys()})  # noqa: SIM118


def test_the_tower_is_stored_once_and_loaded_whole(sharing: CLIP, tmp_path: Path) -> None:
    native.save(sharing, tmp_path)
    assert stored(tmp_path) == ["image", "logit_scale"]
    again = native.load(tmp_path)
    for name, value in sharing.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_changed_tower_is_its_own(sharing: CLIP, tmp_path: Path) -> None:
    with torch.no_grad():
        next(sharing.tower("text").parameters()).mul_(1.01)
    native.save(sharing, tmp_path)
    assert "text" in stored(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["shares"] == {}
    assert torch.equal(next(native.load(tmp_path).tower("text").parameters()), next(sharing.tower("text").parameters()))


def test_without_torch_the_owner_encodes_texts(sharing: CLIP, tmp_path: Path) -> None:
    native.save(sharing, tmp_path)
    export_onnx(sharing, tmp_path)
    assert not (tmp_path / "text.onnx").exists()  # its owner's graph serves
    encoder = Encoder(str(tmp_path))
    assert type(encoder.towers).__name__ == "OnnxTowers"
    texts = ["a red bicycle", "soup"]
    assert np.array_equal(encoder.encode_text(texts), Encoder("pocket").encode_text(texts))
    pixels = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), np.uint8)
    assert sharing.preprocess is not None
    with torch.no_grad():
        want = sharing.encode_image(torch.from_numpy(sharing.preprocess.normalize(pixels))).numpy()
    assert np.abs(encoder.encode_pixels(pixels) - want).max() < 1e-5
    assert encoder.fingerprint != Encoder("pocket").fingerprint


def test_an_owner_that_is_not_there_is_one_line(sharing: CLIP, tmp_path: Path) -> None:
    native.save(sharing, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"shares": {"text": "purse"}}))
    with pytest.raises(CheckpointError, match="shares its text tower with 'purse', which is not here"):
        native.load(tmp_path)
