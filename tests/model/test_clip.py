"""CLIP, its functions, and building it from a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import CheckpointError, InputError, MediaError, NeedsPartError
from binderclip.model.build import build
from binderclip.model.clip import CLIP
from binderclip.model.functions import (
    freeze,
    frozen_copy,
    norm_parameters,
    parameter_groups,
    preprocess_tensor,
    unfreeze,
)
from binderclip.model.preprocess import Preprocess
from tests.compare.tiny import tiny_config


@pytest.fixture(scope="module")
def clip() -> CLIP:
    torch.manual_seed(0)
    return build(tiny_config())


def picture(size: tuple[int, int] = (80, 60)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_at_most_twenty_public_names_of_its_own(clip: CLIP) -> None:
    own = {n for n in dir(clip) if not n.startswith("_")} - set(dir(torch.nn.Module()))
    assert own <= {
        *("towers", "tower", "name", "device", "scale", "encode", "encode_image", "encode_text", "forward"),
        *("image", "text", "embed_dim", "tokenizer", "preprocess", "config", "logit_scale", "logit_bias", "decode"),
    }


def test_images_and_texts_as_users_have_them(clip: CLIP, tmp_path: Path) -> None:
    image = picture()
    image.save(tmp_path / "a.png")
    features = clip.encode_image([image, tmp_path / "a.png", str(tmp_path / "a.png")])
    assert features.shape == (3, 8)
    assert torch.allclose(features[0], features[1], atol=1e-6)
    assert torch.allclose(features.norm(dim=1), torch.ones(3), atol=1e-6)
    assert features.requires_grad
    assert clip.preprocess is not None
    pixels = torch.from_numpy(clip.preprocess.normalize(np.stack([clip.preprocess(image)])))
    assert torch.allclose(clip.encode_image(pixels)[0], features[0], atol=1e-6)

    texts = clip.encode_text(["a dog", "a red bicycle"])
    assert clip.tokenizer is not None
    ids, eos = (torch.from_numpy(part) for part in clip.tokenizer(["a dog", "a red bicycle"]))
    assert torch.equal(clip.encode_text((ids, eos)), texts)
    assert torch.equal(clip.encode_text(ids), texts)
    assert torch.allclose(clip.encode_text(["a dog"])[0], texts[0], atol=1e-6)
    raw = clip.encode_text(["a dog"], normalize=False)
    assert torch.allclose(raw / raw.norm(), texts[:1], atol=1e-6)

    out = clip([image], ["a dog", "a red bicycle"])
    assert out.image.shape == (1, 8)
    assert out.bias is None
    assert out.scale.item() == pytest.approx(20)
    assert clip.encode_image([]).shape == (0, 8)


def test_what_cannot_be_used_says_so(clip: CLIP, tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"b\.jpg"):
        clip.encode_image([tmp_path / "b.jpg"])
    with pytest.raises(InputError, match="list of images"):
        clip.encode_image(str(tmp_path / "b.jpg"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="list of texts"):
        clip.encode_text("a dog")
    with pytest.raises(NeedsPartError, match="no tower 'audio'; it has image, text"):
        clip.encode("audio", torch.zeros(1))
    bare = CLIP({"text": torch.nn.Identity()}, 8)
    with pytest.raises(NeedsPartError, match="no tokenizer"):
        bare.encode_text(["a dog"])
    with pytest.raises(InputError, match="cannot be named 'scale'"):
        CLIP({"scale": torch.nn.Identity()}, 8)


def test_scale_may_be_linear_and_bias_present() -> None:
    clip = CLIP({}, 4, logit_scale=5.0, exponential=False, logit_bias=-10.0)
    assert clip.scale is clip.logit_scale
    assert clip.logit_bias is not None
    assert set(clip.state_dict()) == {"logit_scale", "logit_bias"}


def test_frozen_copy_shares_nothing_that_trains(clip: CLIP) -> None:
    twin = frozen_copy(clip)
    assert twin.tokenizer is clip.tokenizer
    assert not any(p.requires_grad for p in twin.parameters())
    assert all(p.requires_grad for p in clip.parameters())
    before = twin.encode_text(["a dog"])
    saved = clip.logit_scale.item()
    with torch.no_grad():
        clip.logit_scale.add_(1)
    assert twin.logit_scale.item() == pytest.approx(saved)
    with torch.no_grad():
        clip.logit_scale.sub_(1)
    assert torch.equal(before, clip.encode_text(["a dog"]))


def test_freezing_by_pattern_and_groups(clip: CLIP) -> None:
    names = freeze(clip, "text.blocks.*")
    assert len(names) == 12
    assert not clip.text.blocks[0].norm1.weight.requires_grad  # type: ignore[union-attr,index]
    groups = parameter_groups(clip, {"image.head.*": 1e-2, "image.*": 1e-4}, lr=1e-3, weight_decay=0.1)
    by_name = {name: group for group in groups for name in group["names"]}
    assert "text.blocks.0.norm1.weight" not in by_name
    assert by_name["image.head.last.weight"]["lr"] == 1e-2
    assert by_name["image.stem.conv.weight"]["lr"] == 1e-4
    assert by_name["text.positions"]["lr"] == 1e-3
    assert by_name["text.positions"]["weight_decay"] == 0.1
    assert by_name["text.norm.weight"]["weight_decay"] == 0
    assert sum(len(g["params"]) for g in groups) == sum(p.requires_grad for p in clip.parameters())
    torch.optim.AdamW([{k: v for k, v in g.items() if k != "names"} for g in groups])
    unfreeze(clip, "text.*")
    with pytest.raises(InputError, match="no parameter matches 'txt"):
        freeze(clip, "txt*")


def test_norm_parameters(clip: CLIP) -> None:
    found = norm_parameters(clip)
    assert {"image.stem.norm.weight", "text.norm.bias", "text.blocks.0.norm1.weight"} <= set(found)
    assert all(".norm" in name for name in found)


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(80, 60), (61, 97)])
def test_preprocess_tensor_follows_the_picture_path(mode: str, size: tuple[int, int]) -> None:
    p = Preprocess(size=32, resize_mode=mode, fill=128)
    small = picture((8, 6)).resize(size, Image.Resampling.BICUBIC)  # smooth, as photos are
    expected = torch.from_numpy(p.normalize(p(small)[None]))
    x = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255
    x.requires_grad_()
    got = preprocess_tensor(p, x)
    std = torch.tensor(p.std)[:, None, None]
    assert ((got - expected) * std).abs().max() <= 1.5 / 255
    got.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_build_says_what_is_wrong() -> None:
    def broken(**changes: Any) -> dict[str, Any]:
        return {**tiny_config(), **changes}

    with pytest.raises(CheckpointError, match="upgrade"):
        build(broken(format=2))
    with pytest.raises(CheckpointError, match="unknown kind 'mlp'"):
        build(broken(towers={"image": {"kind": "mlp"}}))
    with pytest.raises(CheckpointError, match="wings"):
        build(broken(towers={"image": {"kind": "efficientnet_lite", "wings": 2}}))
    with pytest.raises(CheckpointError, match="'embed_dim' and 'towers'"):
        build({"hidden_size": 8})
