"""Groups of an optimiser: names, decay, rates, layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.errors import InputError
from binderclip.model.build import build
from binderclip.model.clip import CLIP
from binderclip.train.optim import factor, layer_factors, make_optimizer, set_rate


def nano(image: dict[str, object] | None = None, layers: int = 3) -> CLIP:
    torch.manual_seed(0)
    vit = {"kind": "vit", "image_size": 16, "patch_size": 8, "width": 8, "layers": layers, "heads": 2}
    text = {"kind": "text_transformer", "vocab_size": 20, "context_length": 6, "width": 8, "layers": 2, "heads": 2}
    return build({"format": 1, "embed_dim": 4, "towers": {"image": image or vit, "text": text}})


def by_name(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, object]]:
    found = {name: group for group in optimizer.param_groups for name in group["names"]}
    assert all(len(group["names"]) == len(group["params"]) for group in optimizer.param_groups)
    return found


def test_all_trainable_parameters_once_under_their_names() -> None:
    clip, head = nano(), nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    clip.text.requires_grad_(False)
    optimizer = make_optimizer({"clip": clip, "objective": head}, lr=1e-3, betas=[0.8, 0.9])  # type: ignore[arg-type]
    groups = by_name(optimizer)
    wanted = {f"clip.{n}": p for n, p in clip.named_parameters() if p.requires_grad}
    wanted |= {f"objective.{n}": p for n, p in head.named_parameters()}
    assert set(groups) == set(wanted)
    flat = {n: p for g in optimizer.param_groups for n, p in zip(g["names"], g["params"], strict=True)}
    assert all(flat[name] is parameter for name, parameter in wanted.items())
    for name, parameter in wanted.items():
        assert groups[name]["weight_decay"] == (0.2 if parameter.dim() >= 2 else 0.0)
        assert groups[name]["lr"] == groups[name]["base_lr"] == 1e-3
        assert groups[name]["betas"] == (0.8, 0.9)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["eps"] == 1e-6


def test_a_parameter_of_two_modules_is_taken_once() -> None:
    clip = nano()
    holder = nn.ModuleDict({"inner": clip, "own": nn.Linear(2, 2)})
    names = by_name(make_optimizer({"clip": clip, "objective": holder}, lr=1.0))
    assert {n for n in names if n.startswith("objective")} == {"objective.own.weight", "objective.own.bias"}


def test_rates_by_pattern_and_the_rate_of_a_step() -> None:
    optimizer = make_optimizer({"clip": nano()}, lr=1.0, rates={"clip.image.proj*": 0.5, "clip.image.*": 0.1})
    groups = by_name(optimizer)
    assert groups["clip.image.proj.weight"]["lr"] == 0.5
    assert groups["clip.image.patch.weight"]["lr"] == 0.1
    assert groups["clip.logit_scale"]["lr"] == 1.0
    set_rate(optimizer, 0.25)
    set_rate(optimizer, factor(1, 4, shape="linear"))  # a share of base_lr, not of what was there
    assert groups["clip.image.proj.weight"]["lr"] == 0.375
    assert groups["clip.image.proj.weight"]["base_lr"] == 0.5


def test_layer_decay_in_closed_form() -> None:
    d, groups = 0.5, by_name(make_optimizer({"clip": nano(), "objective": nn.Linear(2, 2)}, lr=1.0, layer_decay=0.5))
    wanted = {
        **dict.fromkeys(["image.class_token", "image.positions", "image.patch.weight", "image.norm_pre.bias"], d**4),
        **{f"image.blocks.{i}.attn.qkv.weight": d ** (3 - i) for i in range(3)},
        **{f"text.blocks.{i}.mlp.down.bias": d ** (2 - i) for i in range(2)},
        **dict.fromkeys(["text.positions", "text.token_embedding.weight"], d**3),
        **dict.fromkeys(["image.norm.weight", "image.proj.weight", "text.proj.weight", "logit_scale"], 1.0),
    }
    for name, share in wanted.items():
        assert groups[f"clip.{name}"]["lr"] == groups[f"clip.{name}"]["base_lr"] == share, name
    assert groups["objective.weight"]["lr"] == 1.0
    rated = by_name(make_optimizer({"clip": nano()}, lr=1.0, rates={"clip.text.*": 0.1}, layer_decay=0.5))
    assert rated["clip.text.blocks.0.norm1.weight"]["lr"] == pytest.approx(0.1 * d**2)
    assert rated["clip.text.blocks.0.norm1.weight"]["weight_decay"] == 0.0


def test_layer_decay_of_convolutional_towers() -> None:
    shares = layer_factors(
        nano({"kind": "convnext", "image_size": 32, "depths": [1, 2, 1, 1], "widths": [4, 4, 8, 8]}), 0.5
    )
    assert shares["image.stem.0.weight"] == 0.5**6
    assert shares["image.stages.0.0.depthwise.weight"] == 0.5**5
    assert shares["image.downs.1.1.weight"] == shares["image.stages.1.0.depthwise.weight"] == 0.5**4
    assert shares["image.stages.1.1.depthwise.weight"] == 0.5**3
    assert shares["image.stages.3.0.depthwise.weight"] == 0.5
    assert shares["image.norm.weight"] == 1.0
    lite = layer_factors(nano({"kind": "efficientnet_lite", "variant": "lite0"}), 0.9)
    assert lite["image.stem.conv.weight"] == pytest.approx(0.9**17)  # 16 blocks
    assert lite["image.features.conv.weight"] == 1.0


def test_sgd_has_the_same_groups_and_momentum() -> None:
    optimizer = make_optimizer({"clip": nano()}, lr=0.1, name="sgd", momentum=0.7, weight_decay=0.3)
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.7}
    assert by_name(optimizer)["clip.text.positions"]["weight_decay"] == 0.3


def test_fused_takes_the_same_steps() -> None:
    ends = []
    for fused in (False, True):
        clip = nano(layers=1)
        optimizer = make_optimizer({"clip": clip}, lr=1e-2, fused=fused)
        for step in range(3):
            torch.manual_seed(step)
            for p in clip.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in clip.parameters()]))
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_is_refused() -> None:
    clip = nano()
    for options, said in (
        ({"name": "adam"}, "unknown optimizer 'adam': use 'adamw' or 'sgd'"),
        ({"rates": {"clip.txt*": 1.0}}, "no parameter matches 'clip.txt"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5"),
    ):
        with pytest.raises(InputError, match=said):
            make_optimizer({"clip": clip}, lr=1.0, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nothing is trainable"):
        make_optimizer({"clip": clip.requires_grad_(False)}, lr=1.0)
