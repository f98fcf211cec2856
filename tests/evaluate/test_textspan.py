"""TextSpan: the exact sum against loops, ablation, the greedy choice of texts, maps, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.cli.main import run
from binderclip.errors import InputError, NeedsPartError
from binderclip.evaluate.ablation import HeadAblation, ablate, role
from binderclip.evaluate.decomposition import collect, decompose, patch_terms
from binderclip.evaluate.head_texts import descriptions
from binderclip.evaluate.patch_maps import heat_maps
from binderclip.evaluate.textspan import TextSpan, heads_about, text_span
from binderclip.hub import native
from binderclip.model.base import State
from binderclip.model.build import build
from binderclip.model.clip import CLIP
from tests.evaluate.helpers import COLOURS, picture
from tests.train.kit import tiny_clip

pytestmark = pytest.mark.system("textspan")
Captured = pytest.CaptureFixture[str]
BARE = {"qkv_bias": False, "out_bias": False, "mlp_bias": False}


def shaken(clip: CLIP, seed: int = 1) -> CLIP:
    """With noise on every vector, so that a forgotten bias, gain or layer scale shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in clip.parameters():
            if p.dim() == 1:
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return clip.eval()


def tiny(**image: Any) -> CLIP:
    torch.manual_seed(0)
    tower = {"kind": "vit", "image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "heads": 4, **image}
    return shaken(build({"embed_dim": 24, "towers": {"image": tower}}))


def pixels(n: int = 5, seed: int = 0, side: int = 32) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({}, 1e-5),
        ({"block": BARE}, 1e-5),
        ({"block": {"layer_scale": 0.5}, "proj_bias": True}, 1e-5),
        ({"proj": "none", "pre_norm": False, "activation": "quick_gelu"}, 1e-5),
        ({"layers": 24}, 1e-4),
    ],
    ids=["biases", "none", "layer-scale", "no-projection", "24-layers"],
)
def test_the_terms_add_to_the_unit_embedding(options: dict[str, Any], tolerance: float) -> None:
    clip, x = tiny(**options), pixels(32)
    found = decompose(clip, x)
    with torch.no_grad():
        e = clip.encode_image(x)
    assert torch.equal(found.embedding, e) or (found.embedding - e).abs().max() < 1e-6
    assert (found.total() - e).abs().max() < tolerance
    # the MLPs' terms are what the MLPs give, so that no head's fault hides in them: shares of the norm by a loop
    tower, L = clip.image, found.mlp.shape[1] - 1
    kept: dict[str, Tensor] = {}
    at: dict[str, Any] = {"pool.in": lambda s: (kept.update(z=s.x[:, 0]), s)[1]}
    for i in range(L):
        at[f"blocks.{i}.in"] = lambda s, i=i: (kept.update({f"in.{i}": s.x}), s)[1]
    with torch.no_grad():
        length = clip.encode("image", x, at).pooled.norm(dim=1)
        z = kept["z"]
        sd = (z.var(1, unbiased=False) + tower.norm.eps).sqrt()
        for i, block in enumerate(tower.blocks):
            state = kept[f"in.{i}"]
            y = block.scale1(block.attn(block.norm1(state), State(state)))
            mlp = block.scale2(block.mlp(block.norm2(state + y)))[:, 0]
            share = (tower.norm.weight * (mlp - z.mean(1)[:, None] / (2 * L + 1)) / sd[:, None]) + tower.norm.bias / (
                2 * L + 1
            )
            bias = tower.proj.bias / (2 * L + 1) if getattr(tower.proj, "bias", None) is not None else 0.0
            term = (share @ tower.proj.weight.T if hasattr(tower.proj, "weight") else share) + bias
            assert (found.mlp[:, i + 1] - term / length[:, None]).abs().max() < tolerance


def test_one_head_against_a_loop() -> None:
    """c = A (v W_O) + b_O / (S H) of one head and token, in float64, through the norm's own mean and deviation."""
    clip, x = tiny().double(), pixels(2).double()
    tower = clip.image
    got = decompose(clip, x, per_token=True)
    kept: dict[str, Any] = {}
    at = {
        "blocks.1.in": lambda s: (kept.update(x=s.x), s)[1],
        "pool.in": lambda s: (kept.update(z=s.x[:, 0]), s)[1],
    }
    with torch.no_grad():
        pooled = clip.encode("image", x, at).pooled
        attn, (S, H, d) = tower.blocks[1].attn, (17, 4, 8)
        y = tower.blocks[1].norm1(kept["x"])[1]  # [S, C] of the second picture
        q, k, v = (y @ attn.qkv.weight.T + attn.qkv.bias).chunk(3, dim=1)
        for h in (0, 3):
            part = slice(h * d, (h + 1) * d)
            weights = (q[0, part] @ k[:, part].T / d**0.5).softmax(0)
            for i in (0, 1, 16):
                c = weights[i] * v[i, part] @ attn.out.weight[:, part].T + attn.out.bias / (S * H)
                z, K = kept["z"][1], 7 * S * H
                sd = (((z - z.mean()) ** 2).mean() + tower.norm.eps).sqrt()
                u = tower.norm.weight * (c - z.mean() / K) / sd + tower.norm.bias / K
                assert (got.attn[1, 1, i, h] - tower.proj.weight @ u / pooled[1].norm()).abs().max() < 1e-12
    # a head's own part, and tokens and patches summed
    assert (got.own - got.attn[:, :, 0]).abs().max() < 1e-15


@pytest.mark.parametrize("options", [{}, {"block": BARE}])
def test_tokens_add_to_heads(options: dict[str, Any]) -> None:
    clip, x = tiny(**options), pixels()
    whole, each = decompose(clip, x), decompose(clip, x, per_token=True)
    assert each.attn.shape == (5, 3, 17, 4, 24)
    assert (each.heads - whole.attn).abs().max() < 1e-6
    assert (each.total() - whole.embedding).abs().max() < 1e-5
    patches, grid = patch_terms(clip, x)
    assert grid == (4, 4)
    assert (patches - each.attn.sum((1, 3))[:, 1:]).abs().max() < 1e-6
    joined = collect(clip, x, batch=2)
    assert (joined.attn - whole.attn).abs().max() < 1e-6
    with pytest.raises(InputError, match="no pictures to look at"):
        collect(clip, x[:0])


def test_a_head_has_the_rank_of_its_width_and_three() -> None:
    """gamma, beta and b_O add three directions, whatever the pictures."""
    clip, x = tiny(layers=2).double(), pixels(60).double()
    for head in range(4):
        data = decompose(clip, x).heads[:, 1, head].numpy()
        s = np.linalg.svd(data, compute_uv=False)
        assert int((s > 1e-10 * s[0]).sum()) <= 8 + 3


def test_ablation() -> None:
    clip, x, others = tiny(), pixels(8), pixels(6, seed=3)
    terms, mean = decompose(clip, x), decompose(clip, others).mean()
    W = F.normalize(torch.randn(10, 24, generator=torch.Generator().manual_seed(5)), dim=1)
    every = [(lay, h) for lay in range(3) for h in range(4)]
    with torch.no_grad():
        e = clip.encode_image(x)
        nothing = HeadAblation((), mean)(clip)
        assert torch.equal((e @ W.T).argmax(1), (ablate(terms, mean) @ W.T).argmax(1))
        assert (nothing.encode_image(x) - e).abs().max() < 1e-6
        everything = ablate(terms, mean, every, mlps=True)
        assert (everything == everything[0]).all()
        assert (everything[0] - mean.total()[0]).abs().max() < 1e-6
        assert (
            len(set((HeadAblation(tuple(every), mean, mlps=True)(clip).encode_image(x) @ W.T).argmax(1).tolist())) == 1
        )
    # by a loop: every term that stays, and the means of those that go
    some, slow = [(0, 1), (2, 3)], torch.zeros(8, 24)
    for lay, h in every:
        slow += mean.heads[0, lay, h] if (lay, h) in some else terms.heads[:, lay, h]
    slow += terms.mlp.sum(1)
    assert (ablate(terms, mean, some) - slow).abs().max() < 1e-6
    kept: dict[str, Any] = {}
    with torch.no_grad():
        changed = HeadAblation(tuple(some), mean)(clip)
        at = {"blocks.1.in": lambda s: (kept.update(seen=s), s)[1]}
        out = changed.encode_image(x, at)
    assert (out - F.normalize(slow, dim=1)).abs().max() < 1e-5
    assert "seen" in kept  # a wrapped tower still takes functions at its sites
    assert changed.image.sites == clip.image.sites
    # the class token's attention to itself
    own = ablate(terms, mean, own=True)
    assert (own - (terms.embedding + (mean.own - terms.own).sum((1, 2)))).abs().max() < 1e-6
    assert (role(terms, some) - terms.heads[:, 0, 1] - terms.heads[:, 2, 3]).abs().max() < 1e-6


def test_text_span_finds_what_was_planted() -> None:
    rng = np.random.default_rng(0)
    R = rng.normal(size=(50, 32))
    R /= np.linalg.norm(R, axis=1, keepdims=True)
    a, b = 2 * rng.normal(size=(400, 1)), rng.normal(size=(400, 1))
    found = text_span(a * R[7] + b * R[21] + 0.0, R, rank=32, m=20)
    assert found.chosen[:2] == (7, 21)
    assert found.explained[:2].sum() == pytest.approx(1, abs=1e-9)


def test_text_span_against_pca() -> None:
    rng = np.random.default_rng(1)
    R = rng.normal(size=(60, 24))
    R /= np.linalg.norm(R, axis=1, keepdims=True)
    C = rng.normal(size=(200, 10)) * np.linspace(3, 0.2, 10) @ rng.normal(size=(10, 24)) + rng.normal(size=24)
    found = text_span(C, R, rank=10, m=8)
    centred = C - C.mean(axis=0)
    left = centred - centred @ found.directions.T @ found.directions
    for t, u in zip(found.chosen, found.directions, strict=True):
        assert np.abs(left @ u).max() < 1e-5
        assert np.linalg.norm(u) == pytest.approx(1)
        assert t not in found.chosen[: found.chosen.index(t)]
    s = np.linalg.svd(centred, compute_uv=False) ** 2
    explained, best = np.cumsum(found.explained), np.cumsum(s)[:8] / s.sum()
    assert (found.explained >= 0).all()
    assert (explained <= best + 1e-9).all()
    assert explained[-1] == pytest.approx(1 - (left**2).sum() / (centred**2).sum())
    np.testing.assert_allclose(found.rebuilt(C), C - left, atol=1e-9)
    # the first text by a loop: the projected one with the largest deviation
    V = np.linalg.svd(C, full_matrices=False)[2][:10]
    scores = [float(np.std([c @ (V.T @ (V @ r)) for c in centred])) for r in R]
    assert found.chosen[0] == int(np.argmax(scores))


def test_text_span_stops_when_texts_are_used_up() -> None:
    rng = np.random.default_rng(2)
    C = rng.normal(size=(50, 6))
    assert len(text_span(C, np.eye(6)[:2], rank=6, m=20).chosen) == 2
    assert text_span(np.ones((4, 6)), np.eye(6), rank=6, m=20).chosen == ()
    for bad in (C[:1], C[:, :5]):
        with pytest.raises(InputError, match="give"):
            text_span(bad, np.eye(6), 6)


@pytest.fixture(scope="module")
def small() -> CLIP:
    return shaken(tiny_clip(), 4)


def plain(n: int = 12) -> list[Any]:
    return [picture(list(COLOURS)[i % len(COLOURS)], i) for i in range(n)]


def test_heads_are_described(small: CLIP) -> None:
    texts = ["a red thing", "a blue circle", "a green star", "a white ground", "a white ground", "two hearts"]
    span = TextSpan(small, texts, m=3, last_layers=1)
    found = span.fit(plain())
    assert sorted(found) == [(1, 0), (1, 1)]  # the last of two layers
    assert all(text in texts and 0 <= share <= 1 for told in found.values() for text, share in told)
    assert len(span.texts) == 5
    # what is rebuilt: the first layer's means, the last layer's texts, MLPs as they are
    terms = collect(small, plain())
    assert span.mean is not None
    slow = terms.mlp.sum(1) + span.mean.heads[0, 0].sum(0)
    for h in range(2):
        slow = slow + torch.from_numpy(span.spans[1, h].rebuilt(terms.heads[:, 1, h].numpy())).float()
    assert (span.rebuilt(terms) - slow).abs().max() < 1e-5
    said = span.said(terms.rows(slice(0, 1)), 2)
    best = max(texts, key=lambda t: float(terms.heads[0, 1, 0] @ span.vectors([t])[0]))
    assert said[1, 0][0][0] == best
    assert [len(told) for told in said.values()] == [2, 2]
    with pytest.raises(InputError, match="call fit first"):
        TextSpan(small, texts).rebuilt(terms)
    with pytest.raises(InputError, match="at least one text"):
        TextSpan(small, [])


def test_heads_about_words() -> None:
    told = {
        (0, 0): [("a white ground", 0.4), ("a star", 0.3), ("the background", 0.2)],
        (0, 1): [("a star", 0.5), ("a ground", 0.4)],
        (1, 0): [("underground", 0.9)],
        (1, 1): [],
    }
    assert heads_about(told, ["Ground"]) == []
    assert heads_about(told, ["ground", "background"]) == [(0, 0)]
    assert heads_about(told, ["ground"], share=0.4) == [(0, 0), (0, 1)]
    assert heads_about(told, ["star"], first=1) == [(0, 1)]


def test_segments_of_a_planted_map(small: CLIP) -> None:
    """Patches are given as vectors: the text they lie along is found where they are, to the pixel."""
    texts = torch.eye(4)[:3]
    patches = torch.zeros(1, 6, 4)
    patches[0, :3, 0], patches[0, 3:, 1] = 1.0, 2.0
    maps = heat_maps(patches, (2, 3), texts, texts, 1)
    for t in range(3):
        for i in range(6):
            slow = float(patches[0, i] @ (texts[t] - texts.mean(0)))
            assert maps[0, t, i // 3, i % 3] == pytest.approx(slow, abs=1e-6)
    # the whole way: scaled to 0..1, over its own mean, the size of what the tower saw
    said = ["a red circle", "a blue star", "a green heart"]
    span = TextSpan(small, said)
    found = span.segment(plain(3), said)
    assert found.heat.shape == found.mask.shape == (3, 3, 16, 16)
    assert found.labels.shape == (3, 16, 16)
    assert found.heat.min() == 0
    for b in range(3):
        for t in range(3):
            assert (found.mask[b, t] == (found.heat[b, t] > found.heat[b, t].mean())).all()
    with torch.no_grad():
        cosines = small.encode_image(plain(3)) @ small.encode_text(said).T
    assert found.predicted.tolist() == cosines.argmax(1).tolist()
    assert span.segment(plain(1), ["a red circle"]).heat.shape == (1, 1, 16, 16)
    with pytest.raises(InputError, match="no pictures"):
        span.segment([], said)
    with pytest.raises(InputError, match="no texts"):
        span.segment(plain(1), [])


@pytest.mark.parametrize(
    "options",
    [
        {"class_token": False, "pool": "avg"},
        {"pool": "map"},
        {"block": {"order": "post"}},
        {"block": {"order": "sub"}},
    ],
)
def test_other_towers_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(NeedsPartError, match="heads are told apart"):
        decompose(tiny(**options), pixels(1))


def test_the_descriptions() -> None:
    texts = descriptions()
    assert len(texts) == len(set(texts)) > 1000
    assert "an orange thing" in texts
    assert not any(" a a" in t or "{" in t or t.startswith("a e") for t in texts)


@pytest.fixture
def folder(tmp_path: Path, small: CLIP) -> Path:
    native.save(small, tmp_path / "model")
    (tmp_path / "photos").mkdir()
    for n, one in enumerate(plain(5)):
        one.save(tmp_path / "photos" / f"{n}.png")
    (tmp_path / "texts.txt").write_text("a red thing\na blue circle\n\na green star\n")
    return tmp_path


def test_the_command_says_what_heads_look_at(
    folder: Path, small: CLIP, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    asked = ["explain", "model", "photos", "a red thing", "--heads", "--texts", "texts.txt", "--layers", "1"]
    assert run([*asked, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["images"], facts["layers"], len(facts["heads"])) == (5, [1], 2)
    # heads and the rest add to the mean cosine
    total = sum(row["adds"] for row in facts["heads"]) + facts["earlier_heads"] + facts["mlps"]
    assert total == pytest.approx(facts["cosine"], abs=1e-5)
    with torch.no_grad():
        e = small.encode_image([folder / "photos" / f"{n}.png" for n in range(5)])
        assert facts["cosine"] == pytest.approx(float((e @ small.encode_text(["a red thing"])[0]).mean()), abs=1e-5)
    assert run([*asked[:3], *asked[4:], "--top", "2", "--most", "3"]) == 0
    said = capsys.readouterr()
    assert "spread" in said.out
    assert "the first 3 pictures" in said.err
    assert run([*asked[:3], "black/white photo no. 5", *asked[4:]]) == 0  # a text, not a path
    assert "'black/white photo no. 5'" in capsys.readouterr().out
    assert run(["explain", "model", "photos/1.png", "--heads", "--texts", "texts.txt", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["heads"][0]
    assert list(row["texts"][0]) == ["text", "score"]
    assert run(["explain", "model", "photos/1.png", "a red circle", "--patches", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert np.array(facts["map"]).shape == (4, 4)
    assert Path(facts["overlay"]).is_file()


def test_bad_input_of_the_command(folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "empty.txt").write_text("\n")
    (folder / "bad.png").write_bytes(b"text")
    for arguments, message in (
        (["model", "photos", "--heads", "--patches"], "leave out"),
        (["model", "photos", "--heads", "--texts", "none.txt"], "cannot be read as text"),
        (["model", "photos", "--heads", "--texts", "empty.txt"], "holds no descriptions"),
        (["model", "nothing.png", "--heads"], "no picture, folder or table"),
        (["model", "photos", "nothing.png", "--heads"], "no picture, folder or table"),
        (["model", "photos", "other/photos", "--heads"], "no picture, folder or table"),
        (["model", "photos", " ", "--heads"], "no text to explain"),
        (["model", "photos/1.png", "--texts", "texts.txt", "a"], "goes with --heads"),
        (["model", "photos/1.png"], "one picture and one text"),
        (["pocket", "photos", "--heads"], "heads are told apart"),
        (["pocket", "photos/1.png", "a dog", "--patches"], "heads are told apart"),
    ):
        assert run(["explain", *arguments]) == 2, arguments
        said = capsys.readouterr().err
        assert message in said
        assert len(said.strip().splitlines()) == 1
    assert run(["explain", "model", "bad.png", "--heads"]) == 2
    assert capsys.readouterr().err.count("\n") == 2  # a warning and the reason
    assert not list(folder.glob("*.explained.png"))
