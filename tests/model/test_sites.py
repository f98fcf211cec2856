"""Seven unlike reaches into a tower: each a short site function, each against slow arithmetic, no tower edited."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.errors import NeedsPartError
from binderclip.model import sites as sites_module
from binderclip.model.base import At, AttentionState, State
from binderclip.model.block import ACTIVATIONS, Block
from binderclip.model.sites import recorder
from binderclip.model.text import TextTransformer
from binderclip.model.vit import VisionTransformer

DEPTH, WIDTH, HEADS, PATCHES, D = 3, 32, 4, 16, 12


def shake(module: nn.Module, seed: int) -> None:
    """Weights with nothing at its start value, so that a forgotten bias or norm shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator) * (0.3 if p.dim() > 1 else 0.2)
            p.copy_(
                noise * (p.shape[-1] ** -0.5 * 3) if p.dim() > 1 else noise + float("norm" in name and "weight" in name)
            )


@pytest.fixture(scope="module")
def vit() -> VisionTransformer:
    tower = VisionTransformer(32, 8, WIDTH, DEPTH, HEADS, D, activation="quick_gelu").eval()
    shake(tower, 1)
    return tower


@pytest.fixture(scope="module")
def text() -> TextTransformer:
    tower = TextTransformer(60, 12, 24, DEPTH, HEADS, D, activation="quick_gelu").eval()
    shake(tower, 2)
    return tower


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))


# ---------------------------------------------------------------- the oracle: one block in float64, head by head

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q [S, d], k [S, d], v [S, d] of one head -> [S, d]


def softmax_attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.T / q.shape[1] ** 0.5, 1) @ v


def causal_attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    logits = q @ k.T / q.shape[1] ** 0.5
    return torch.softmax(logits.masked_fill(torch.ones_like(logits).triu(1).bool(), float("-inf")), 1) @ v


def slow_norm(norm: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(norm, nn.LayerNorm)
    mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / (var + norm.eps).sqrt() * norm.weight.double() + norm.bias.double()


def slow_attention(block: Block, x: Tensor, attend: Attend) -> Tensor:
    """x [S, C] of one image, not yet normed -> the attention's output [S, C]."""
    y, d = slow_norm(block.norm1, x), block.attn.head_width
    qkv = y @ block.attn.qkv.weight.double().T + block.attn.qkv.bias.double()
    heads = []
    for h in range(block.attn.heads):
        q, k, v = (qkv[:, i * x.shape[1] + h * d : i * x.shape[1] + (h + 1) * d] for i in range(3))
        heads.append(attend(q, k, v))
    return torch.cat(heads, 1) @ block.attn.out.weight.double().T + block.attn.out.bias.double()


def slow_block(block: Block, x: Tensor, attend: Attend = softmax_attend) -> Tensor:
    x = x + slow_attention(block, x, attend)
    y = slow_norm(block.norm2, x) @ block.mlp.up.weight.double().T + block.mlp.up.bias.double()
    return x + ACTIVATIONS["quick_gelu"](y) @ block.mlp.down.weight.double().T + block.mlp.down.bias.double()


def slow_tokens(vit: VisionTransformer, pixels: Tensor) -> Tensor:
    """[N, 1 + patches, C] in float64: class token, then each patch by itself, then positions."""
    p, rows = vit.patch_size, []
    weight = vit.patch.weight.double().flatten(1)  # [C, 3 p p]
    for image in pixels.double():
        tokens = [vit.class_token.double()]
        tokens += [weight @ image[:, i : i + p, j : j + p].flatten() for i in range(0, 32, p) for j in range(0, 32, p)]
        rows.append(torch.stack(tokens) + vit.positions.double())
    return torch.stack(rows)


def slow_end(vit: VisionTransformer, x: Tensor) -> Tensor:
    return slow_norm(vit.norm, x) @ vit.proj.weight.double().T


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((a.double() - b.double()).abs().max() <= tolerance * b.double().abs().max())


def test_the_oracle_is_the_tower(vit: VisionTransformer, pixels: Tensor) -> None:
    out = []
    for x in slow_tokens(vit, pixels):
        y = slow_norm(vit.norm_pre, x)
        for block in vit.blocks:
            y = slow_block(block, y)
        out.append(slow_end(vit, y)[0])
    assert close(vit(pixels).pooled, torch.stack(out))


# ---------------------------------------------------------------- 1. MaPLe: deep prompts in both towers


def deep_prompts(prompts: list[Tensor], slot: int | None) -> At:
    """Level 0 appended after positions (or already in the sentence); level j replaces it before block j."""
    m = len(prompts[0])

    def replace(state: State, p: Tensor) -> State:
        start = state.x.shape[1] - m if slot is None else slot
        new = p.expand(state.x.shape[0], -1, -1)
        return state.with_(x=torch.cat([state.x[:, :start], new, state.x[:, start + m :]], 1))

    at: dict[str, Callable[[State], State]] = {} if slot else {"embed.out": lambda s: s.insert(prompts[0])}
    for j, p in enumerate(prompts[1:], 1):
        at[f"blocks.{j}.in"] = lambda s, p=p: replace(s, p)  # type: ignore[misc]
    return at


@pytest.mark.parametrize("m", [0, 2])
def test_maple_prompts_on_images(vit: VisionTransformer, pixels: Tensor, m: int) -> None:
    prompts = [torch.randn(m, WIDTH, requires_grad=True) for _ in range(2)]
    lengths: dict[str, State] = {}
    at = {**deep_prompts(prompts, None), **{f"blocks.{i}.out": recorder(lengths, str(i)) for i in range(DEPTH)}}
    got = vit(pixels, at).pooled
    rows = []
    for x in slow_tokens(vit, pixels):
        y = slow_norm(vit.norm_pre, torch.cat([x, prompts[0].double()]))
        y = slow_block(vit.blocks[0], y)
        y = torch.cat([y[: 1 + PATCHES], prompts[1].double()])
        for block in list(vit.blocks)[1:]:
            y = slow_block(block, y)
        rows.append(slow_end(vit, y)[0])
    assert close(got, torch.stack(rows))
    assert {s.x.shape[1] for s in lengths.values()} == {1 + PATCHES + m}
    if m == 0:
        assert close(got, vit(pixels).pooled)
    else:
        grads = torch.autograd.grad(got.sum(), prompts)
        assert all(g.abs().sum() > 0 for g in grads)


def test_maple_prompts_on_texts(text: TextTransformer) -> None:
    ids, eos, m = torch.tensor([[58, 3, 4, 9, 59, 0], [58, 3, 4, 7, 8, 59]]), torch.tensor([4, 5]), 2
    words = text.embed_tokens(ids)
    plain = text.encode_prompts(words, eos)
    assert torch.equal(plain, text(ids, eos=eos).pooled)  # depth 1, prompts untrained
    prompts = [words[0, 1:3].detach(), torch.randn(m, 24, requires_grad=True)]
    got = text.encode_prompts(words, eos, deep_prompts(prompts, 1))
    rows = []
    for row, end in zip(words.double(), eos, strict=True):
        y = slow_block(text.blocks[0], row + text.positions[:6].double(), causal_attend)
        y = torch.cat([y[:1], prompts[1].double(), y[3:]])
        for block in list(text.blocks)[1:]:
            y = slow_block(block, y, causal_attend)
        rows.append(slow_norm(text.norm, y)[end] @ text.proj.weight.double().T)
    assert close(got, torch.stack(rows))
    assert torch.autograd.grad(got.sum(), prompts[1])[0].abs().sum() > 0


# ---------------------------------------------------------------- 2. DualPrompt: prefixes on keys and values


def prefixes(blocks: dict[int, tuple[Tensor, Tensor]]) -> At:
    """Block to keys and values, each [P, H, d]."""
    return {
        f"blocks.{i}.attn": lambda a, k=k, v=v: a.prepend(k.transpose(0, 1)[None], v.transpose(0, 1)[None])
        for i, (k, v) in blocks.items()
    }


def test_dualprompt_prefixes(vit: VisionTransformer, pixels: Tensor) -> None:
    k, v = torch.randn(5, HEADS, 8), torch.randn(5, HEADS, 8)
    got = vit(pixels, prefixes({0: (k, v), 2: (v, k)})).pooled

    def with_prefix(block: Block, x: Tensor, pk: Tensor, pv: Tensor) -> Tensor:
        head = iter(range(HEADS))

        def attend(q: Tensor, kk: Tensor, vv: Tensor) -> Tensor:
            h = next(head)
            return softmax_attend(q, torch.cat([pk[:, h].double(), kk]), torch.cat([pv[:, h].double(), vv]))

        return slow_block(block, x, attend)

    rows = []
    for x in slow_tokens(vit, pixels):
        y = with_prefix(vit.blocks[0], slow_norm(vit.norm_pre, x), k, v)
        y = with_prefix(vit.blocks[2], slow_block(vit.blocks[1], y), v, k)
        rows.append(slow_end(vit, y)[0])
    assert close(got, torch.stack(rows))
    plain = vit(pixels)
    assert close(vit(pixels, prefixes({0: (k[:0], v[:0])})).pooled, plain.pooled, 1e-6)
    doubled = vit(pixels, {"blocks.1.attn": lambda a: a.prepend(a.k, a.v)})  # a block's own keys and values
    assert close(doubled.pooled, plain.pooled, 2e-6)
    assert doubled.sequence.shape == plain.sequence.shape


def test_prefixes_keep_the_causal_mask(text: TextTransformer) -> None:
    ids = torch.tensor([[58, 3, 4, 59]])
    at = prefixes({i: (torch.randn(2, HEADS, 6), torch.randn(2, HEADS, 6)) for i in range(DEPTH)})
    one, other = text(ids, at).sequence, text(torch.tensor([[58, 3, 4, 7]]), at).sequence
    assert torch.equal(one[:, :3], other[:, :3])


# ---------------------------------------------------------------- 3. MaskCLIP: the last block's values alone


def maskclip(tower: VisionTransformer) -> At:
    """No softmax, no residual, no MLP in the last block."""
    last, kept = len(tower.blocks) - 1, {}  # type: ignore[var-annotated]
    merge = tower.blocks[last].attn.merge  # type: ignore[union-attr]
    return {
        f"blocks.{last}.attn": recorder(kept, "a"),
        f"blocks.{last}.out": lambda s: s.with_(x=merge(kept["a"].v)),  # type: ignore[operator]
    }


def test_maskclip_attention(vit: VisionTransformer, pixels: Tensor) -> None:
    got = vit.project(vit(pixels, maskclip(vit)).sequence)[:, 1:]
    rows = []
    for x in slow_tokens(vit, pixels):
        y = slow_norm(vit.norm_pre, x)
        for block in list(vit.blocks)[:-1]:
            y = slow_block(block, y)
        rows.append(slow_end(vit, slow_attention(vit.blocks[-1], y, lambda q, k, v: v))[1:])
    assert close(got, torch.stack(rows))
    # with residual and MLP: an identity attention matrix is the values themselves
    name = f"blocks.{DEPTH - 1}.attn"
    identity = vit(pixels, {name: lambda a: a.mixed(torch.eye(1 + PATCHES).expand(3, HEADS, -1, -1))})
    values = vit(pixels, {name: lambda a: a.with_(output=a.v)})
    assert close(identity.sequence, values.sequence, 1e-6)


# ---------------------------------------------------------------- 4. CLIPtrase: self-correlations


def cliptrase(a: AttentionState) -> AttentionState:
    """softmax(qq) + softmax(kk) + softmax(vv)."""
    return a.mixed(sum(torch.softmax(a.scale * t @ t.mT, -1) for t in (a.q, a.k, a.v)))  # type: ignore[arg-type]


def correlation(into: dict[str, Tensor]) -> Callable[[AttentionState], AttentionState]:
    """Mean over heads of (cos qq + cos kk + cos vv) / 3, recorded only."""

    def look(a: AttentionState) -> AttentionState:
        units = [F.normalize(t, dim=-1) for t in (a.q, a.k, a.v)]
        into["R"] = torch.stack([u @ u.mT for u in units]).mean(0).mean(1)  # [N, S, S]
        return a

    return look


def test_cliptrase_attention(vit: VisionTransformer, pixels: Tensor) -> None:
    kept: dict[str, Tensor] = {}
    before, last = f"blocks.{DEPTH - 2}.attn", f"blocks.{DEPTH - 1}.attn"
    recorded = vit(pixels, {before: correlation(kept)})
    assert torch.equal(recorded.pooled, vit(pixels).pooled)  # recording changes no bit
    R = kept["R"]
    assert (R - R.mT).abs().max() < 1e-6
    assert (R.diagonal(dim1=1, dim2=2) - 1).abs().max() < 1e-6
    assert R.abs().max() <= 1 + 1e-6

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = sum(torch.softmax(t @ t.T / q.shape[1] ** 0.5, 1) for t in (q, k, v))
        assert torch.allclose(weights.sum(1), torch.tensor(3.0).double())  # type: ignore[union-attr]
        return weights @ v

    got = vit.project(vit(pixels, {last: cliptrase}).sequence)
    rows = []
    for x in slow_tokens(vit, pixels):
        y = slow_norm(vit.norm_pre, x)
        for block in list(vit.blocks)[:-1]:
            y = slow_block(block, y)
        rows.append(slow_end(vit, slow_block(vit.blocks[-1], y, attend)))
    assert close(got, torch.stack(rows))
    vanilla = vit(pixels, {last: lambda a: a.mixed(a.weights())})
    assert close(vanilla.sequence, vit(pixels).sequence)


# ---------------------------------------------------------------- 5. A-CLIP and CLIPA: patches dropped


def keep_patches(keep: Tensor) -> At:
    """keep [N, K]: patch numbers, ascending; the class token always stays."""
    return {"embed.out": lambda s: s.take(torch.cat([torch.zeros_like(keep[:, :1]), keep + 1], 1))}


def test_patches_dropped_with_their_positions(vit: VisionTransformer, pixels: Tensor) -> None:
    keep = torch.stack([torch.randperm(PATCHES)[:6].sort().values for _ in range(3)])
    tokens = vit(pixels, keep_patches(keep))
    assert tokens.sequence.shape == (3, 7, WIDTH)
    rows = []
    for x, k in zip(slow_tokens(vit, pixels), keep, strict=True):
        y = slow_norm(vit.norm_pre, torch.stack([x[0], *(x[1 + i] for i in k)]))
        for block in vit.blocks:
            y = slow_block(block, y)
        rows.append(slow_end(vit, y)[0])
    assert close(tokens.pooled, torch.stack(rows))
    everything = torch.arange(PATCHES).expand(3, -1)
    assert torch.equal(vit(pixels, keep_patches(everything)).pooled, vit(pixels).pooled)


# ---------------------------------------------------------------- 6. TextSpan: the embedding as a sum


def contributions(tower: VisionTransformer, into: dict[str, Tensor]) -> At:
    """Of the class token: attn.l [N, S, H, C] by source token and head, mlp.l [N, C], and z0 [N, C]."""
    at: dict[str, Callable[..., object]] = {"blocks.0.in": recorder(into, "first")}
    for i, block in enumerate(tower.blocks):
        o = block.attn.out  # type: ignore[union-attr]

        def attn(a: AttentionState, i: int = i, o: nn.Linear = o) -> AttentionState:  # type: ignore[assignment]
            h, s, d = a.v.shape[1:]
            mixed = a.weights()[:, :, 0, :, None] * a.v  # [N, H, S, d]
            terms = torch.einsum("nhsd,chd->nshc", mixed, o.weight.reshape(-1, h, d))
            into[f"attn.{i}"] = terms + o.bias / (s * h)
            into[f"in.{i}"] = a.state.x[:, 0]
            return a

        def out(state: State, i: int = i) -> State:
            into[f"mlp.{i}"] = state.x[:, 0] - into[f"in.{i}"] - into[f"attn.{i}"].sum((1, 2))
            return state

        at |= {f"blocks.{i}.attn": attn, f"blocks.{i}.out": out}
    return at  # type: ignore[return-value]


def test_textspan_contributions_sum_to_the_embedding(vit: VisionTransformer, pixels: Tensor) -> None:
    found: dict[str, Tensor] = {}
    tokens = vit(pixels, contributions(vit, found))
    assert torch.equal(tokens.pooled, vit(pixels).pooled)
    assert tokens.hidden is not None
    z = tokens.hidden[:, 0]  # [N, C]
    mu, sd = z.mean(1), (z.var(1, unbiased=False) + vit.norm.eps).sqrt()
    n, spread = 2 * DEPTH + 1, (1 + PATCHES) * HEADS
    length = tokens.pooled.norm(dim=1)

    def fold(u: Tensor, parts: int) -> Tensor:  # u [N, ..., C] -> [N, ..., D], its share of norm, projection, length
        wide = (slice(None), *(None,) * (u.dim() - 1))
        gain, shift = vit.norm.weight, vit.norm.bias
        return vit.proj(gain * (u - mu[wide] / parts) / sd[wide] + shift / parts) / length[wide]

    heads = [fold(found[f"attn.{i}"], n * spread) for i in range(DEPTH)]  # [N, S, H, D]
    mlps = [fold(found[f"mlp.{i}"], n) for i in range(DEPTH)]
    first = fold(found["first"].x[:, 0], n)  # type: ignore[attr-defined]
    total = first + sum(mlps) + sum(h.sum((1, 2)) for h in heads)  # type: ignore[operator]
    assert (total - F.normalize(tokens.pooled, dim=1)).abs().max() < 1e-5
    # and each MLP term is what the MLP gave
    x = found["in.1"] + found["attn.1"].sum((1, 2))
    block = vit.blocks[1]
    assert close(found["mlp.1"], block.mlp(block.norm2(x)), 1e-4)


# ---------------------------------------------------------------- 7. Alpha-CLIP: a mask as second input


def alpha_input(conv: nn.Conv2d, alpha: Tensor, size: int) -> At:
    """alpha [N, 1, h, w] in 0..1, resized and normalised here so that no caller can forget."""
    mask = (F.interpolate(alpha, size=(size, size), mode="bilinear") - 0.5) / 0.26
    tokens = conv(mask).flatten(2).transpose(1, 2)  # [N, P, C]
    return {"embed.out": lambda s: s.with_(x=torch.cat([s.x[:, : s.prefix], s.x[:, s.prefix :] + tokens], 1))}


def test_alpha_clip_second_input(vit: VisionTransformer, pixels: Tensor) -> None:
    conv = nn.Conv2d(1, WIDTH, 8, 8, bias=False)
    nn.init.zeros_(conv.weight)
    alpha = torch.rand(3, 1, 20, 20)
    plain = vit(pixels).pooled
    assert torch.equal(vit(pixels, alpha_input(conv, alpha, 32)).pooled, plain)
    nn.init.normal_(conv.weight, std=0.1)
    got = vit(pixels, alpha_input(conv, torch.ones(3, 1, 32, 32), 32)).pooled
    # the oracle: one convolution over four channels
    four = nn.Conv2d(4, WIDTH, 8, 8, bias=False)
    with torch.no_grad():
        four.weight.copy_(torch.cat([vit.patch.weight, conv.weight], 1))
    maps = four(torch.cat([pixels, torch.full((3, 1, 32, 32), 0.5 / 0.26)], 1)).flatten(2).transpose(1, 2)
    x = torch.cat([vit.class_token.expand(3, 1, -1), maps], 1) + vit.positions
    state = vit.enter(State(x, prefix=1))
    for block in vit.blocks:
        state = block(state)
    assert close(got, vit.pool(state).pooled)
    assert not close(got, plain, 1e-2)


# ---------------------------------------------------------------- the mechanism itself


def test_no_at_is_the_plain_path_to_the_bit(vit: VisionTransformer, text: TextTransformer, pixels: Tensor) -> None:
    state = vit.enter(vit.embed(pixels))
    for block in vit.blocks:
        state = block(state)
    plain = vit.pool(state)
    kept: dict[str, object] = {}
    everywhere = {name: [recorder(kept, name), lambda s: s] for name in vit.sites}
    for at in (None, {}, everywhere):
        assert torch.equal(vit(pixels, at).pooled, plain.pooled)
    assert tuple(kept) == vit.sites
    ids = torch.tensor([[58, 3, 4, 59]])
    assert torch.equal(text(ids, {name: lambda s: s for name in text.sites}).pooled, text(ids).pooled)


def test_functions_compose_in_the_order_given(vit: VisionTransformer, pixels: Tensor) -> None:
    add, double = (lambda s: s.with_(x=s.x + 1)), (lambda s: s.with_(x=s.x * 2))
    kept: dict[str, State] = {}
    vit(pixels, {"blocks.1.in": [recorder(kept, "x"), add, double, recorder(kept, "y")]})
    assert torch.equal(kept["y"].x, (kept["x"].x + 1) * 2)


def test_calls_in_threads_do_not_collide(vit: VisionTransformer, pixels: Tensor) -> None:
    def call(scale: float) -> Tensor:
        return vit(pixels, {"blocks.1.in": lambda s: s.with_(x=s.x * scale)}).pooled

    scales = [0.5, 1.0, 2.0, 3.0] * 4
    expected = {s: call(s) for s in set(scales)}
    with ThreadPoolExecutor(4) as pool:
        for scale, got in zip(scales, pool.map(call, scales), strict=True):
            assert torch.allclose(got, expected[scale], atol=1e-6)


def test_attention_bias_and_own_logits(vit: VisionTransformer, pixels: Tensor) -> None:
    bias = torch.randn(HEADS, 1 + PATCHES, 1 + PATCHES)
    fused = vit(pixels, {"blocks.1.attn": lambda a: a.with_(bias=bias)}).pooled
    by_hand = vit(pixels, {"blocks.1.attn": lambda a: a.mixed((a.logits() + bias).softmax(-1))}).pooled
    assert close(fused, by_hand)
    state_bias = vit(
        pixels, {"blocks.1.in": lambda s: s.with_(bias=bias), "blocks.1.out": lambda s: s.with_(bias=None)}
    )
    assert close(state_bias.pooled, fused)


def test_unknown_sites_name_the_known(vit: VisionTransformer, pixels: Tensor) -> None:
    with pytest.raises(NeedsPartError) as caught:
        vit(pixels, {"blocks.7.attn": lambda a: a})
    assert str(caught.value) == (
        "this tower has no site 'blocks.7.attn'; its sites are embed.out, blocks.0.in .. blocks.2.in, "
        "blocks.0.attn .. blocks.2.attn, blocks.0.out .. blocks.2.out, pool.in"
    )


def test_each_reach_and_each_forward_is_short() -> None:
    for function in (
        deep_prompts,
        prefixes,
        maskclip,
        cliptrase,
        correlation,
        keep_patches,
        contributions,
        alpha_input,
    ):
        assert len(inspect.getsource(function).splitlines()) < 30
    assert len(inspect.getsource(sites_module.run_blocks).splitlines()) <= 30
