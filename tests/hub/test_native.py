"""Saving and loading binderclip's own checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from binderclip.errors import CheckpointError
from binderclip.hub.native import CONFIG, WEIGHTS, load, probe, save
from binderclip.model.build import build
from binderclip.model.clip import CLIP
from tests.compare.tiny import tiny_config


@pytest.fixture(scope="module")
def clip() -> CLIP:
    torch.manual_seed(0)
    return build(tiny_config())


@pytest.fixture
def folder(clip: CLIP, tmp_path: Path) -> Path:
    return save(clip, tmp_path / "model")


def test_round_trip_is_bit_exact(clip: CLIP, folder: Path) -> None:
    again = load(folder)
    for (name, a), (other, b) in zip(clip.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b)
    assert torch.equal(clip.encode_text(["a dog"]), again.encode_text(["a dog"]))
    assert all(p.requires_grad for p in again.parameters())
    assert not again.training
    assert again.preprocess == clip.preprocess
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, WEIGHTS]


def test_half_precision_on_disk(clip: CLIP, tmp_path: Path) -> None:
    folder = save(clip, tmp_path, dtype=torch.float16)
    again = load(folder)
    assert again.logit_scale.dtype == torch.float32
    for a, b in zip(clip.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a.half().float() if a.is_floating_point() else a, b)


def test_probe_is_stored_and_compared(clip: CLIP, folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    assert config["probe"] == probe(load(folder))
    assert len(config["probe"]["image"]) == 8
    config["towers"]["text"]["activation"] = "quick_gelu"  # same names and shapes, other function
    config["towers"]["text"]["pool"] = "first"
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="text tower does not give what it gave"):
        load(folder)
    assert load(folder, verify=False).text.pooling == "first"
    config["towers"]["text"].update(activation="quick_gelu", pool="eos")  # the activation alone is enough
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="text tower"):
        load(folder)


def test_saving_again_replaces(clip: CLIP, folder: Path) -> None:
    (folder / "MODEL_CARD.md").write_text("kept")
    save(clip, folder)
    assert (folder / "MODEL_CARD.md").read_text() == "kept"
    assert len(list(folder.iterdir())) == 3


def test_broken_files_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load(tmp_path / "nowhere")
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        load(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load(folder)
    (folder / CONFIG).write_text("{")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        load(folder)
    (folder / CONFIG).write_text("[]")
    with pytest.raises(CheckpointError, match="no JSON object"):
        load(folder)


def test_weights_that_do_not_fit(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config["towers"]["text"]["layers"] = 2
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"missing text\.blocks\.1\.attn\.out\.bias and 11 more"):
        load(folder)
    config["towers"]["text"].update(layers=1, context_length=20)
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"text\.positions is \[16, 16\], wanted \[20, 16\]"):
        load(folder)


def test_a_config_that_lies_is_found_when_saving(clip: CLIP, tmp_path: Path) -> None:
    clip.config["embed_dim"] = 9
    try:
        with pytest.raises(CheckpointError, match="do not fit"):
            save(clip, tmp_path)
    finally:
        clip.config["embed_dim"] = 8
