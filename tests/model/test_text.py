"""The text transformer: trimming, prompts, export."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from binderclip.errors import InputError, NeedsPartError
from binderclip.model.sites import recorder
from binderclip.model.text import TextTransformer

VOCAB, CONTEXT, WIDTH = 50, 12, 16


def make(**options: object) -> TextTransformer:
    torch.manual_seed(0)
    return TextTransformer(VOCAB, CONTEXT, WIDTH, 2, 2, 8, **options).eval()  # type: ignore[arg-type]


IDS = torch.tensor([[48, 5, 6, 49, 0, 0, 0, 0, 0, 0, 0, 0], [48, 7, 8, 9, 10, 49, 0, 0, 0, 0, 0, 0]])
EOS = torch.tensor([3, 5])


def test_trimmed_text_is_exact() -> None:
    tower = make()
    full, trimmed = tower(IDS).pooled, tower(IDS[:, :6]).pooled
    assert torch.allclose(full, trimmed, atol=1e-6)
    alone = torch.cat([tower(IDS[:1, :4]).pooled, tower(IDS[1:, :6]).pooled])
    assert torch.allclose(full, alone, atol=1e-6)


def test_end_index_is_explicit_or_the_first_end_token() -> None:
    tower = make()
    assert tower.end_index(IDS).tolist() == [3, 5]
    assert tower.end_index(torch.tensor([[48, 49, 7, 49]])).tolist() == [1]
    assert tower.end_index(torch.tensor([[48, 1, 2, 3]])).tolist() == [3]
    assert torch.equal(tower(IDS).pooled, tower(IDS, eos=EOS).pooled)
    assert not torch.allclose(tower(IDS).pooled, tower(IDS, eos=EOS - 1).pooled)


def test_causal_and_not() -> None:
    changed = IDS.clone()
    changed[0, 3] = 11
    for causal in (True, False):
        tower = make(causal=causal)
        a, b = tower(IDS).sequence[0, :3], tower(changed).sequence[0, :3]
        assert torch.equal(a, b) == causal


@pytest.mark.parametrize("pool", ["eos", "last", "first", "mean"])
def test_pooling(pool: str) -> None:
    tower = make(pool=pool, pad_id=0, causal=False, proj_bias=True)
    tokens = tower(IDS)
    s = tokens.sequence
    rows = {
        "eos": [s[0, 3], s[1, 5]],
        "last": [s[0, -1], s[1, -1]],
        "first": [s[0, 0], s[1, 0]],
        "mean": [s[0, :4].mean(0), s[1, :6].mean(0)],
    }[pool]
    assert torch.allclose(tokens.pooled, tower.proj(torch.stack(rows)), atol=1e-6)
    assert tokens.raw is not None
    assert torch.equal(tower.project(tokens.raw), tokens.pooled)
    # hidden padding changes nothing but what is pooled there
    if pool != "last":
        assert torch.allclose(tower(IDS[:, :6]).pooled, tokens.pooled, atol=1e-6)


@pytest.mark.parametrize("factor", [None, 4])
def test_prompts_equal_ids_and_carry_gradient(factor: int | None) -> None:
    tower = make(factor=factor)
    words = tower.embed_tokens(IDS).detach().requires_grad_()
    plain = tower(IDS).pooled
    assert torch.equal(tower.encode_prompts(words, EOS), plain)
    plain_grad = torch.autograd.grad(tower.encode_prompts(words, EOS).square().sum(), words)[0]
    chunked = tower.encode_prompts(words, EOS, chunk=1)
    assert torch.allclose(chunked, plain, atol=1e-6)
    chunked_grad = torch.autograd.grad(chunked.square().sum(), words)[0]
    # Gradients here are of the order of 100: compare in their own scale.
    assert (chunked_grad - plain_grad).abs().max() <= 1e-6 * plain_grad.abs().max()
    assert plain_grad[0, :4].abs().sum() > 0
    assert not plain_grad[0, 4:].any()  # behind the end token nothing counts


def test_factorised_table_is_a_product() -> None:
    tower = make(factor=4)
    full = make()
    assert isinstance(tower.token_proj, torch.nn.Linear)
    state = {k: v for k, v in tower.state_dict().items() if not k.startswith("token_")}
    state["token_embedding.weight"] = tower.token_embedding.weight @ tower.token_proj.weight.T
    full.load_state_dict(state)
    assert torch.allclose(full(IDS).pooled, tower(IDS).pooled, atol=1e-6)


def test_context_length_can_change() -> None:
    tower = make()
    before = tower(IDS).pooled
    tower.resize_context(6)
    assert torch.allclose(tower(IDS[:, :6]).pooled, before, atol=1e-6)
    with pytest.raises(InputError, match="longer than this tower's 6"):
        tower(IDS)
    tower.resize_context(24)
    assert tower(torch.cat([IDS, IDS], 1)).pooled.shape == (2, 8)


def test_sites_are_checked_and_listed() -> None:
    tower = make()
    seen: dict[str, object] = {}
    out = tower(IDS, {name: recorder(seen, name) for name in tower.sites})
    assert tuple(seen) == tower.sites
    assert torch.equal(out.pooled, tower(IDS).pooled)
    with pytest.raises(NeedsPartError, match=r"no site 'blocks.9.in'.*embed.out, blocks.0.in .. blocks.1.in"):
        tower(IDS, {"blocks.9.in": lambda s: s})


@pytest.mark.parametrize("factor", [None, 4])
def test_exports_with_dynamic_rows_and_length(factor: int | None, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    tower = make(factor=factor)

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = tower

        def forward(self, ids: torch.Tensor, eos: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(self.tower(ids, eos=eos).pooled, dim=-1)

    path = tmp_path / "text.onnx"
    axes = {"ids": {0: "n", 1: "l"}, "eos": {0: "n"}, "features": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Graph(),
            (IDS, EOS),
            str(path),
            input_names=["ids", "eos"],
            output_names=["features"],
            dynamic_axes=axes,
            dynamo=False,
        )
    session = ort.InferenceSession(str(path))
    for ids, eos in ((IDS, EOS), (IDS[1:, :6], EOS[1:]), (IDS.repeat(3, 1)[:, :7], EOS.repeat(3))):
        got = session.run(None, {"ids": ids.numpy(), "eos": eos.numpy()})[0]
        assert np.abs(got - Graph()(ids, eos).detach().numpy()).max() < 1e-5
