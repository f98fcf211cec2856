"""Each topology, read from its published layout, against what the reference implementation gave.

``tests/compare/compare_*.py`` wrote the goldens; weights and inputs are a formula of name and index. The whole path is
tested: config file, key table, inference from shapes, towers, gradients.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from binderclip.hub.layouts import from_layout, to_layout
from binderclip.hub.loader import detect_layout, load
from binderclip.model.clip import CLIP
from binderclip.model.sites import recorder
from tests.compare import formula

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
NAMES = (
    "vit_quick",
    "vit_gelu",
    "rn50",
    "convnext_linear",
    "convnext_mlp",
    "siglip_open_clip",
    "xlm_roberta",
    "clip_hf",
    "siglip_hf",
)
Golden = tuple[dict[str, np.ndarray], dict[str, torch.Tensor], CLIP]


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    """The stored arrays, the weights in their layout, and our model of them."""
    with np.load(GOLDENS / f"{request.param}.npz") as file:
        stored = dict(file)
    theirs = {k: torch.from_numpy(v) for k, v in formula.fill(formula.unpack(stored["shapes"])).items()}
    folder = tmp_path_factory.mktemp(request.param)
    save_file(theirs, folder / "model.safetensors")
    for name, config in formula.unpack(stored["configs"]).items():
        (folder / name).write_text(json.dumps(config))
    return stored, theirs, load(folder)


def inputs(stored: dict[str, np.ndarray], clip: CLIP) -> tuple[torch.Tensor, torch.Tensor]:
    size = clip.preprocess.size  # type: ignore[union-attr]
    pixels = torch.from_numpy(formula.noise("pixels", (2, 3, size, size))).requires_grad_()
    bert = clip.config["towers"]["text"]["kind"] == "bert"
    return pixels, torch.from_numpy(formula.BERT_TEXT if bert else formula.TEXT)


def off(got: Any, wanted: np.ndarray) -> float:
    """max |a - b| / max |b|."""
    a = got.detach().numpy() if isinstance(got, torch.Tensor) else np.asarray(got)
    assert a.shape == wanted.shape
    return float(np.abs(a - wanted).max() / np.abs(wanted).max())


def test_outputs_and_inner_blocks(golden: Golden) -> None:
    stored, _, clip = golden
    pixels, ids = inputs(stored, clip)
    for tower, x in (("image", pixels), ("text", ids)):
        sites = [k for k in stored if k.startswith(f"{tower}.blocks.")]
        kept: dict[str, Any] = {}
        tokens = clip.encode(tower, x, {k.removeprefix(f"{tower}."): recorder(kept, k) for k in sites})
        assert off(tokens.pooled, stored[tower]) <= 1e-5
        for site in sites:
            assert off(formula.sample(kept[site].x[-1].detach().numpy(), 512), stored[site]) <= 1e-5, site
    assert clip.scale.item() == pytest.approx(np.exp(2.5), rel=1e-6)


def test_gradients_of_every_parameter_and_of_pixels(golden: Golden) -> None:
    stored, theirs, clip = golden
    pixels, ids = inputs(stored, clip)
    total = torch.zeros(())
    for tower, x in (("image", pixels), ("text", ids)):
        pooled = clip.encode(tower, x).pooled
        total = total + (pooled * torch.from_numpy(formula.noise(f"loss.{tower}", pooled.shape))).sum()
    parameters = dict(clip.named_parameters())
    gradients = torch.autograd.grad(total, [pixels, *parameters.values()], allow_unused=True)
    assert off(formula.sample(gradients[0].numpy(), 512), stored["pixel_gradient"]) <= 1e-4
    ours = {
        k: torch.zeros_like(p) if g is None else g for (k, p), g in zip(parameters.items(), gradients[1:], strict=True)
    }
    buffers = {k: v for k, v in clip.state_dict().items() if k not in parameters}
    renamed = to_layout({**ours, **buffers}, detect_layout(theirs))
    names = formula.unpack(stored["gradient_names"])
    start = 0
    for name in names:
        got = formula.sample(renamed[name].numpy())
        wanted = stored["gradients"][start : start + len(got)]
        start += len(got)
        # A bias before a softmax has no gradient but rounding: compare with the largest of its kind at least.
        floor = 1e-6 * np.abs(stored["gradients"]).max()
        assert np.abs(got - wanted).max() <= max(1e-4 * np.abs(wanted).max(), floor), name
    assert start == len(stored["gradients"])
    assert len(names) > 20


def test_layout_round_trip_is_bit_exact(golden: Golden) -> None:
    _, theirs, clip = golden
    layout = detect_layout(theirs)
    ours = from_layout(theirs, layout)
    for name, tensor in clip.state_dict().items():
        assert torch.equal(tensor, ours[name]), name
    back = to_layout(clip.state_dict(), layout)
    wanted = {k: v for k, v in theirs.items() if not any(re.fullmatch(p, k) for p in layout.ignored)}
    assert set(back) == set(wanted)
    for name, tensor in wanted.items():
        assert back[name].shape == tensor.shape, name
        assert torch.equal(back[name], tensor), name


def test_every_golden_is_tested_and_they_are_small() -> None:
    files = {p.stem: p.stat().st_size for p in GOLDENS.glob("*.npz")}
    assert set(NAMES) <= set(files)
    assert sum(files[name] for name in NAMES) <= 300_000
