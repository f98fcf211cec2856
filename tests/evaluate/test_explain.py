"""`explain`: the maps against slow computations and planted objects, the words against their definition, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from binderclip.cli.main import run
from binderclip.errors import InputError, NeedsPartError
from binderclip.evaluate.overlay import heat, overlay
from binderclip.evaluate.relevance import explain, image_relevance, word_relevance
from binderclip.hub import load
from binderclip.model.build import build
from binderclip.model.clip import CLIP

Captured = pytest.CaptureFixture[str]


def tiny(**image: object) -> CLIP:
    torch.manual_seed(0)
    towers = {
        "image": {"kind": "vit", "image_size": 32, "patch_size": 8, "width": 16, "layers": 2, "heads": 2, **image}
    }
    return build({"embed_dim": 8, "towers": towers})


def pixels(seed: int = 0, side: int = 32) -> torch.Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", [{}, {"class_token": False, "pool": "avg", "pre_norm": False}])
def test_attention_relevance_against_a_loop(options: dict[str, object]) -> None:
    """Weights and their gradients taken by hand: each attention is replaced by a leaf, one block at a time."""
    clip, x = tiny(**options), pixels()
    target = F.normalize(torch.arange(1.0, 9.0), dim=0)
    cosine, found, how = image_relevance(clip, x, target)
    weights: list[torch.Tensor] = []
    for i in range(2):
        clip.encode("image", x, {f"blocks.{i}.attn": lambda a: (weights.append(a.weights().detach()), a)[1]})
    relevance = np.eye(weights[0].shape[-1])
    for i in range(2):
        leaf = weights[i].clone().requires_grad_(True)
        pooled = clip.encode("image", x, {f"blocks.{i}.attn": lambda a, leaf=leaf: a.mixed(leaf)}).pooled  # type: ignore[misc]
        (gradient,) = torch.autograd.grad(F.normalize(pooled, dim=-1)[0] @ target, leaf)
        flow = np.zeros_like(relevance)
        for h in range(2):
            flow += np.maximum((gradient[0, h] * leaf.detach()[0, h]).numpy(), 0) / 2
        relevance = relevance + flow @ relevance
    row = relevance[0, 1:] if clip.tower("image").prefix else relevance.mean(0) - 1 / 16
    assert found == pytest.approx(np.maximum(row, 0).reshape(4, 4), abs=1e-6)
    assert cosine == pytest.approx(float(clip.encode_image(x)[0].detach() @ target), abs=1e-6)
    assert how == "attention and its gradient"


def test_grad_cam_against_finite_differences() -> None:
    torch.manual_seed(0)
    towers = {"image": {"kind": "convnext", "depths": [1, 1, 1, 1], "widths": [8, 16, 24, 32]}}
    clip = build({"embed_dim": 8, "towers": towers}).double()
    x, target = pixels(1, 64).double(), F.normalize(torch.arange(1.0, 9.0).double(), dim=0)
    _, found, how = image_relevance(clip, x, target)
    kept: list[torch.Tensor] = []
    clip.encode("image", x, {"pool.in": lambda s: (kept.append(s.x.detach()), s)[1]})

    def cosine(features: torch.Tensor) -> float:
        with torch.no_grad():
            pooled = clip.encode("image", x, {"pool.in": lambda s: s.with_(x=features)}).pooled
        return float(F.normalize(pooled, dim=-1)[0] @ target)

    features, step = kept[0], 1e-5  # [1, C, 2, 2]
    cam = np.zeros(features.shape[2:])
    for c in range(features.shape[1]):
        slopes = []
        for i, j in np.ndindex(*features.shape[2:]):
            moved = features.clone()
            moved[0, c, i, j] += step
            up = cosine(moved)
            moved[0, c, i, j] -= 2 * step
            slopes.append((up - cosine(moved)) / (2 * step))
        cam += np.mean(slopes) * (features[0, c] - features[0, c].mean()).numpy()
    assert how == "Grad-CAM"
    assert found == pytest.approx(np.maximum(cam, 0), abs=1e-6)


@pytest.mark.parametrize(("text", "left"), [("a cat", True), ("a cup of coffee", False)])
def test_pocket_looks_at_the_named_half_of_two_photos(text: str, left: bool) -> None:
    """A cat left and a cup right: most of the map is on the half that the text names."""
    from skimage import data

    clip = load("pocket")
    assert clip.preprocess is not None
    halves = [Image.fromarray(photo).resize((112, 224)) for photo in (data.chelsea(), data.coffee())]
    both = np.concatenate([np.asarray(half) for half in halves], axis=1)
    found = explain(clip, torch.from_numpy(clip.preprocess.normalize(both[None])), text)
    assert found.map.shape == (7, 7)
    assert found.map.max() == 1.0
    share = found.map[:, :3].sum() / (
        found.map[:, :3].sum() + found.map[:, 4:].sum()
    )  # the column between counts for none
    assert (share if left else 1 - share) > 0.6
    assert [word for word, _ in found.words] == text.split()


def test_words_are_what_the_cosine_falls_without_them() -> None:
    clip = load("pocket")
    x = torch.zeros(1, 3, 224, 224)
    image = clip.encode_image(x)[0]
    whole, without = (clip.encode_text(["a red circle", "a circle"]) @ image).detach()
    assert dict(word_relevance(clip, x, "a red circle"))["red"] == pytest.approx(float(whole - without), abs=1e-6)
    assert len(word_relevance(clip, x, "circle")) == 1


def test_what_cannot_be_explained() -> None:
    clip = load("pocket")
    with pytest.raises(InputError, match="no text to explain"):
        explain(clip, torch.zeros(1, 3, 224, 224), " ")
    with pytest.raises(InputError, match="one picture"):
        explain(clip, torch.zeros(2, 3, 224, 224), "a")
    bare = CLIP({"image": torch.nn.Flatten()}, 8)
    with pytest.raises(NeedsPartError, match="needs the sites"):
        image_relevance(bare, torch.zeros(1, 3, 2, 2), torch.zeros(12))


def test_the_overlay_is_bright_where_the_map_is() -> None:
    grey = [int(colour.sum()) for colour in heat(np.linspace(0, 1, 11))]
    assert grey == sorted(grey)
    values = np.zeros((4, 4), np.float32)
    values[0, 3] = 1
    page = np.asarray(overlay(Image.new("RGB", (100, 50), "grey"), values, ["a", "b" * 500], side=200), float)
    assert page.shape[1] == 320
    assert page[5:20, 180:195].mean() > page[70:95, 5:40].mean() + 50


def test_the_command_writes_an_overlay(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (90, 60), "orange").save("a.jpg")
    assert run(["explain", "pocket", "a.jpg", "an orange wall", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert np.array(facts["map"]).shape == (7, 7)
    with Image.open(facts["overlay"]) as page:
        assert page.format == "PNG"
    assert run(["explain", "pocket", "a.jpg", "an orange wall", "-o", "b.png"]) == 0
    assert "cosine falls without it by" in capsys.readouterr().out
    Path("bad.jpg").write_bytes(b"text")
    for arguments, message in (
        (["pocket", "bad.jpg", "x"], "is no picture"),
        (["pocket", "a.jpg", " "], "no text to explain"),
        (["pocket", "a.jpg", "x", "-o", "b.jpg"], "end it in .png"),
        (["nothing-such", "a.jpg", "x"], "nothing-such"),
    ):
        assert run(["explain", *arguments]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.explained.png", "a.jpg", "b.png", "bad.jpg"]
