"""Token dropping: counts by arithmetic, shapes of the subsets by loops, and a tower that sees what it should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from binderclip.errors import InputError, NeedsPartError
from binderclip.model.base import State
from binderclip.model.sites import recorder, run_blocks
from binderclip.model.vit import VisionTransformer
from binderclip.train.parts.dropping import block_shape, drop_tokens, keep_count, keep_indices


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("patches", "keep", "count"),
    [
        (256, 0.7, 179),
        (100, 1 - 0.9, 10),
        (576, 0.6, 345),
        (64, 0.7, 44),
        (144, 0.6, 86),
        (100, 0.1, 10),
        (196, 0.5, 98),
        (49, 0.5, 24),
        (9, 1, 9),
    ],
)
def test_counts(patches: int, keep: float, count: int) -> None:
    assert keep_count(patches, keep) == count
    side = int(patches**0.5)
    assert keep_indices(2, (side, side), keep, generator=seeded()).shape == (2, count)


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5, 0.001])
def test_shares_that_leave_nothing(keep: float) -> None:
    with pytest.raises(InputError, match="keep"):
        keep_count(64, keep)


def rectangle(kept: list[int], columns: int) -> tuple[int, int, int, int]:
    """Top, left, rows, columns of the smallest rectangle around patches."""
    ys, xs = [i // columns for i in kept], [i % columns for i in kept]
    return min(ys), min(xs), max(ys) - min(ys) + 1, max(xs) - min(xs) + 1


@pytest.mark.parametrize("how", ["random", "grid", "block"])
@pytest.mark.parametrize("grid", [(8, 8), (6, 10), (14, 14)])
def test_every_subset_is_ascending_distinct_and_fresh(how: str, grid: tuple[int, int]) -> None:
    rows, columns = grid
    kept = keep_indices(50, grid, 0.25, how, seeded())
    assert kept.shape == (50, keep_count(rows * columns, 0.25))
    assert (kept.diff(dim=1) > 0).all()
    assert kept.min() >= 0
    assert kept.max() < rows * columns
    assert len({tuple(row.tolist()) for row in kept}) > 10
    assert torch.equal(kept, keep_indices(50, grid, 0.25, how, seeded()))
    assert not torch.equal(kept, keep_indices(50, grid, 0.25, how, seeded(1)))


def test_grid_keeps_one_patch_a_window_each_alike() -> None:
    kept = keep_indices(2000, (6, 4), 0.25, "grid", seeded())
    counts = torch.zeros(4)
    for row in kept.tolist():
        windows = [(i // 4 // 2, i % 4 // 2) for i in row]
        assert sorted(windows) == [(y, x) for y in range(3) for x in range(2)]
        for i in row:
            counts[i // 4 % 2 * 2 + i % 2] += 1
    assert (counts / 12000 - 0.25).abs().max() < 4 * (0.25 * 0.75 / 12000) ** 0.5  # 4 standard errors


@pytest.mark.parametrize(
    ("grid", "keep", "shape"), [((14, 14), 0.25, (7, 7)), ((8, 8), 0.5, (4, 8)), ((9, 9), 12 / 81, (3, 4))]
)
def test_block_is_one_rectangle_at_every_place_alike(
    grid: tuple[int, int], keep: float, shape: tuple[int, int]
) -> None:
    kept = keep_indices(3000, grid, keep, "block", seeded())
    places: dict[tuple[int, int], int] = {}
    for row in kept.tolist():
        top, left, high, wide = rectangle(row, grid[1])
        assert (high, wide) == shape
        assert high * wide == len(row)  # so all of it is kept
        places[top, left] = places.get((top, left), 0) + 1
    possible = (grid[0] - shape[0] + 1) * (grid[1] - shape[1] + 1)
    assert len(places) == possible
    expected = 3000 / possible
    assert max(abs(n - expected) for n in places.values()) < 5 * expected**0.5


def test_block_shapes_against_all_rectangles() -> None:
    for grid in [(4, 4), (3, 7), (8, 5)]:
        for count in range(1, grid[0] * grid[1] + 1):
            every = [(a, b) for a in range(1, grid[0] + 1) for b in range(1, grid[1] + 1) if a * b == count]
            if every:
                got = block_shape(grid, count)
                assert got in every
                assert abs(got[0] - got[1]) == min(abs(a - b) for a, b in every)
            else:
                with pytest.raises(InputError, match="no rectangle"):
                    block_shape(grid, count)
    with pytest.raises(InputError, match="179 patches fits 16 x 16: keep 176 or 180"):
        keep_indices(1, (16, 16), 0.7, "block")


def test_random_subsets_are_uniform() -> None:
    kept = keep_indices(6000, (3, 3), 1 / 3, generator=seeded())
    share = torch.bincount(kept.flatten(), minlength=9) / 6000
    assert (share - 1 / 3).abs().max() < 4 * (2 / 9 / 6000) ** 0.5


def test_attentive_keeps_the_highest_and_takes_ties_in_order() -> None:
    scores = torch.rand(5, 4, 4, generator=seeded(), requires_grad=True)
    kept = keep_indices(5, (4, 4), 0.5, "attentive", keep_map=scores)
    for row, one in zip(kept.tolist(), scores.detach(), strict=True):
        flat = one.flatten().tolist()
        assert row == sorted(sorted(range(16), key=lambda i: -flat[i])[:8])
    flat_map = torch.zeros(1, 16)
    assert keep_indices(1, (4, 4), 0.25, "attentive", keep_map=flat_map).tolist() == [[0, 1, 2, 3]]


def test_what_a_way_cannot_do_is_said() -> None:
    with pytest.raises(InputError, match=r"keep 0\.25"):
        keep_indices(1, (8, 8), 0.5, "grid")
    with pytest.raises(InputError, match="even grid"):
        keep_indices(1, (7, 7), 0.25, "grid")
    with pytest.raises(InputError, match="unknown way"):
        keep_indices(1, (8, 8), 0.5, "clever")
    with pytest.raises(InputError, match="keep_map"):
        keep_indices(2, (4, 4), 0.5, "attentive")
    with pytest.raises(InputError, match="pass indices"):
        drop_tokens(0.5, "attentive")
    with pytest.raises(NeedsPartError, match="grid"):
        drop_tokens(0.5)(State(torch.zeros(2, 3, 4, 4)))


@pytest.fixture(scope="module")
def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(32, 8, 16, 2, 2, 8)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=seeded(1))


def test_half_of_the_patches_and_the_class_token(vit: VisionTransformer, pixels: Tensor) -> None:
    seen: dict[str, State] = {}
    out = vit(
        pixels, at={"embed.out": [recorder(seen, "all"), drop_tokens(0.5, generator=seeded()), recorder(seen, "kept")]}
    )
    assert out.sequence.shape == (4, 16 // 2 + 1, 16)
    assert out.prefix == 1
    places = seen["kept"].positions
    assert places is not None
    assert (places[:, 0] == 0).all()
    assert len({tuple(row.tolist()) for row in places}) > 1  # other images, other subsets
    for row in range(4):  # tokens are those of the full image, positions added
        for k, place in enumerate(places[row].tolist()):
            assert torch.equal(seen["kept"].x[row, k], seen["all"].x[row, place])


def test_given_patches_against_a_loop(vit: VisionTransformer, pixels: Tensor) -> None:
    kept = torch.tensor([[5, 0, 9], [1, 2, 3], [15, 14, 13], [4, 8, 12]])  # in any order
    got = vit(pixels, at={"embed.out": drop_tokens(how="attentive", indices=kept)})
    full = vit.embed(pixels).x
    rows = [torch.stack([full[n, 0], *(full[n, 1 + i] for i in sorted(kept[n].tolist()))]) for n in range(4)]
    wanted = run_blocks(vit, State(torch.stack(rows), prefix=1))
    torch.testing.assert_close(got.pooled, wanted.pooled, rtol=0, atol=0)
    same = vit(pixels, at={"embed.out": drop_tokens(indices=kept[0])})
    assert torch.equal(same.pooled[0], got.pooled[0])


@pytest.mark.parametrize("how", ["random", "block"])
def test_all_kept_is_the_identity_and_draws_nothing(how: str, vit: VisionTransformer, pixels: Tensor) -> None:
    state = vit.embed(pixels)
    before = torch.get_rng_state()
    assert drop_tokens(1.0, how)(state) is state
    assert torch.equal(torch.get_rng_state(), before)
    assert drop_tokens(indices=torch.arange(16))(state) is state
    assert torch.equal(vit(pixels, at={"embed.out": drop_tokens(1.0, how)}).pooled, vit(pixels).pooled)


def test_the_global_generator_is_the_default(vit: VisionTransformer, pixels: Tensor) -> None:
    drop = drop_tokens(0.25)
    torch.manual_seed(3)
    first, second = (vit(pixels, at={"embed.out": drop}).pooled for _ in range(2))
    torch.manual_seed(3)
    again = vit(pixels, at={"embed.out": drop}).pooled
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_gradients_reach_every_parameter(vit: VisionTransformer, pixels: Tensor) -> None:
    vit.zero_grad()
    vit(pixels, at={"embed.out": drop_tokens(0.5, generator=seeded())}).pooled.square().sum().backward()
    assert all(p.grad is not None for p in vit.parameters())
    table = vit.positions.grad
    assert table is not None
    vit.zero_grad()
    vit(pixels[:1], at={"embed.out": drop_tokens(indices=torch.tensor([2, 7]))}).pooled.square().sum().backward()
    assert vit.positions.grad is not None
    used = vit.positions.grad.abs().sum(1).nonzero().flatten().tolist()
    assert used == [0, 3, 8]  # dropped tokens are gone, not zero
