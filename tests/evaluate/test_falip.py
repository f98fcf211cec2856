"""FALIP: the bump, where it reaches and where not, regions to patches, scores and the probe."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from binderclip.errors import InputError, NeedsPartError
from binderclip.evaluate.falip import FALIP, attention_mass, head_reactions
from binderclip.evaluate.foveal import box_maps, bump, foveal_bias
from binderclip.evaluate.red_circle import Referring
from binderclip.evaluate.referring import ReferringProbe, overlap
from binderclip.model.build import build
from binderclip.model.clip import CLIP
from tests.train.kit import tiny_clip

pytestmark = pytest.mark.system("falip")


def tiny(**image: Any) -> CLIP:
    torch.manual_seed(0)
    tower = {"kind": "vit", "image_size": 32, "patch_size": 8, "width": 32, "layers": 6, "heads": 4, **image}
    return build({"embed_dim": 16, "towers": {"image": tower}, "preprocess": {"size": 32}}).eval()


def pixels(seed: int = 0) -> Tensor:
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def noise(width: int = 61, height: int = 47) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


MAPS = box_maps([(0, 0, 2, 2), (1, 1, 4, 4), (0, 0, 4, 4)], (4, 4), 1.0, 100.0)  # [3, 4, 4]


def test_the_bump_against_its_closed_form() -> None:
    """For large sigma: v (dmax^2 - d^2 + g) / (dmax^2 - dmin^2 + g), g = 2e-6 sigma^2."""
    v = 0.2
    for r in range(1, 15):
        for c in range(1, 15):
            d = [[(i - (r - 1) / 2) ** 2 + (j - (c - 1) / 2) ** 2 for j in range(c)] for i in range(r)]
            most, least = max(map(max, d)), min(map(min, d))
            want = [[v * (most - one + 0.02) / (most - least + 0.02) for one in row] for row in d]
            got = bump(r, c, v)
            assert np.abs(got - want).max() <= 6e-4 * v
            assert got.max() == pytest.approx(v)
    for r, c in ((1, 1), (1, 2), (2, 1), (2, 2)):
        assert np.abs(bump(r, c, v) - v).max() < 1e-9


def test_regions_to_patches() -> None:
    """Columns max(ceil(x0), 1) - 1 to max(ceil(x1), 1) - 1, rows likewise; token = 1 + row w + column."""
    bias = foveal_bias([(0, 0, 1, 1), (1.2, 0.3, 3.0, 2.1), (2.5, 1.5, 9.0, 9.0)], (3, 5), 0.4)
    assert bias.shape == (3, 16, 16)
    assert (bias[:, 1:] == 0).all()
    assert (bias[:, 0, 0] == 0).all()
    for k, (rows, columns) in enumerate([(range(1), range(1)), (range(3), range(1, 3)), (range(1, 3), range(2, 5))]):
        want = np.zeros(16)
        patch = bump(len(rows), len(columns), 0.4)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                want[1 + row * 5 + column] = patch[i, j]
        np.testing.assert_allclose(bias[k, 0], want, atol=1e-7)
    for bad in ([(5.0, 0, 6, 1)], [(2, 2, 2, 3)], [(float("nan"), 0, 1, 1)], [], [(1, 2, 3)]):
        with pytest.raises(InputError, match=r"no patch in a grid|at least one"):
            foveal_bias(bad, (3, 5))


def test_strength_0_is_encode_image() -> None:
    clip, image = tiny(), noise()
    assert clip.preprocess is not None
    with torch.no_grad():
        square = image.resize((32, 32), Image.Resampling.BICUBIC)
        plain = clip.encode_image([square])
        same = FALIP(clip, strength=0).encode_regions(image, [(0, 0, 30, 30), (10, 10, 61, 47)])
        assert torch.equal(same, plain.expand(2, -1))
        # the zeros through the biased kernel
        x = torch.from_numpy(clip.preprocess.normalize(np.asarray(square)[None]))
        zeros = FALIP(clip).function(torch.zeros(1, 4, 4))
        biased = clip.encode_image(x, {f"blocks.{i}.attn": zeros for i in range(6)})
        assert (biased - plain).abs().max() < 1e-6
        assert (FALIP(clip, strength=2.0).encode_regions(image, [(0, 0, 30, 30)]) - plain).abs().max() > 1e-4


def states(clip: CLIP, maps: Tensor | None) -> list[Tensor]:
    kept: dict[int, Tensor] = {}

    def keep(i: int) -> Any:
        return lambda s: (kept.update({i: s.x}), s)[1]

    at: dict[str, Any] = {f"blocks.{i}.out": keep(i) for i in range(6)}
    if maps is not None:
        at |= {f"blocks.{i}.attn": FALIP(clip).function(maps) for i in (4, 5)}
    with torch.no_grad():
        clip.encode("image", pixels(), at)
    return [kept[i] for i in range(6)]


def test_it_reaches_only_the_last_third_and_first_the_class_row() -> None:
    clip = tiny()
    plain, zero = states(clip, None), states(clip, torch.zeros(1, 4, 4))
    bumped = states(clip, torch.from_numpy(5 * MAPS[1:2]).float())
    for i in range(4):
        assert torch.equal(bumped[i], plain[i])
    assert torch.equal(bumped[4][:, 1:], zero[4][:, 1:])
    assert (bumped[4][:, 0] - zero[4][:, 0]).abs().max() > 1e-4
    assert (bumped[5][:, 1:] - zero[5][:, 1:]).abs().max() > 1e-6


def test_the_class_attention_rises_with_the_strength() -> None:
    clip, region = tiny(), MAPS[1] > 0
    masses = []
    for v in (0.0, 0.2, 0.5, 1.0, 2.0):
        function = FALIP(clip).function(torch.from_numpy(v * MAPS[1:2]).float())
        masses.append(attention_mass(clip, pixels(), region, {f"blocks.{i}.attn": function for i in (4, 5)}))
    assert masses[0].shape == (6, 4)
    for before, after in itertools.pairwise(masses):
        assert (after[4] > before[4]).all()  # the first biased block, every head
        np.testing.assert_array_equal(after[:4], before[:4])
    # the mass by a loop, without anything added
    weights: list[Tensor] = []
    with torch.no_grad():
        clip.encode("image", pixels(), {"blocks.2.attn": lambda a: (weights.append(a.weights()), a)[1]})
    slow = [sum(float(weights[0][0, h, 0, 1 + i]) for i in np.flatnonzero(region)) for h in range(4)]
    np.testing.assert_allclose(masses[0][2], slow, atol=1e-6)


def test_a_constant_over_everything_changes_nothing() -> None:
    clip = tiny()

    def shift(a: Any) -> Any:
        extra = torch.zeros(1, 1, 17, 17)
        extra[:, :, 0] = 0.7  # class column and all patches
        return a.with_(bias=extra)

    with torch.no_grad():
        shifted = clip.encode_image(pixels(), {f"blocks.{i}.attn": shift for i in (4, 5)})
        assert (shifted - clip.encode_image(pixels())).abs().max() < 1e-6


def test_shared_blocks_equal_the_whole_way() -> None:
    clip, maps = tiny(), 2 * MAPS
    scorer = FALIP(clip)
    shared = scorer.encode_pixels(clip, pixels(), maps)
    assert (shared - scorer.encode_pixels(clip, pixels(), maps, shared=False)).abs().max() < 1e-6
    assert (shared - scorer.encode_pixels(clip, pixels(), maps, batch=2)).abs().max() < 1e-6
    # one region by hand: the whole bias matrix at the last two blocks
    bias = torch.zeros(1, 1, 17, 17)
    bias[0, 0, 0, 1:] = torch.from_numpy(maps[1]).float().flatten()
    with torch.no_grad():
        slow = clip.encode_image(
            pixels(), {f"blocks.{i}.attn": lambda a: a.mixed((a.logits() + bias).softmax(-1)) for i in (4, 5)}
        )
    assert (shared[1:2] - slow).abs().max() < 1e-6


def test_heads_blocks_and_targets() -> None:
    clip, maps = tiny(), torch.from_numpy(3 * MAPS[:1]).float()
    region = MAPS[0] > 0
    plain = attention_mass(clip, pixels(), region)
    some = {"blocks.1.attn": FALIP(clip, heads=[2], blocks=[1]).function(maps)}
    changed = attention_mass(clip, pixels(), region, some)
    assert changed[1, 2] > plain[1, 2]
    np.testing.assert_array_equal(np.delete(changed[1], 2), np.delete(plain[1], 2))
    kept: list[Tensor] = []

    def look(a: Any) -> Any:
        kept.append(a.bias)
        return a

    with torch.no_grad():
        clip.encode("image", pixels(), {"blocks.1.attn": [FALIP(clip, target="all").function(maps), look]})
    assert (kept[0] == kept[0][:, :, :1]).all()
    assert kept[0].shape == (1, 4, 17, 17)
    for options, message in (
        ({"blocks": [6]}, "numbers from 0 to 5"),
        ({"blocks": "last"}, "use last_third"),
        ({"target": "patch"}, "use class or all"),
    ):
        with pytest.raises(InputError, match=message):
            FALIP(clip, **options)
    with pytest.raises(InputError, match="heads 0 to 3"):
        FALIP(clip, heads=[4]).encode_regions(noise(), [(0, 0, 9, 9)])
    with pytest.raises(InputError, match="no regions"):
        FALIP(clip).encode_regions(noise(), [])


def test_masks() -> None:
    clip, image = tiny(), noise(32, 32)
    mask = np.zeros((1, 32, 32), bool)
    mask[0, 9:23, 1:15] = True  # touches rows 1..2 and columns 0..1
    box = [(0.5, 8.5, 16.0, 24.0)]
    scorer = FALIP(clip, strength=2.0)
    assert torch.equal(scorer.encode_regions(image, mask), scorer.encode_regions(image, box))
    mask[0, 9:16, 1:8] = False  # one patch less: the same rectangle, no bump there
    weighed = FALIP(clip, strength=2.0, coverage=True)
    maps = [one._maps(clip, pixels(), mask, image.size)[0] for one in (scorer, weighed)]
    assert (maps[0] > 0).sum() == 3
    assert maps[0][1, 0] == 0
    np.testing.assert_allclose(maps[1][1, 1], maps[0][1, 1] * 7 * 7 / 64)
    with pytest.raises(InputError, match="mask is empty"):
        scorer.encode_regions(image, np.zeros((1, 32, 32)))


def test_other_towers() -> None:
    tower = {"kind": "resnet", "image_size": 64, "layers": [1, 1, 1, 1], "stem_width": 8, "heads": 4}
    resnet = build({"embed_dim": 16, "towers": {"image": tower}, "preprocess": {"size": 64}}).eval()
    for clip in (resnet, tiny(pool="map", class_token=False)):
        scorer, boxes = FALIP(clip, strength=3.0), [(0, 0, 25, 25), (35, 20, 61, 47)]
        rows = scorer.encode_regions(noise(), boxes)
        assert rows.shape == (2, 16)
        assert (rows[0] - rows[1]).abs().max() > 1e-5
        with torch.no_grad():
            side = clip.preprocess.size  # type: ignore[union-attr]
            plain = clip.encode_image([noise().resize((side, side), Image.Resampling.BICUBIC)])
        assert torch.equal(FALIP(clip, strength=0).encode_regions(noise(), boxes)[:1], plain)
    for clip in (
        tiny(pool="avg", class_token=False),
        build({"embed_dim": 8, "towers": {"image": {"kind": "convnext", "depths": [1] * 4, "widths": [8] * 4}}}),
    ):
        with pytest.raises(NeedsPartError, match="foveal attention needs"):
            FALIP(clip)


@pytest.fixture(scope="module")
def small() -> CLIP:
    return tiny_clip(layers=3).eval()


def test_scores(small: CLIP) -> None:
    image, boxes, texts = noise(), [(0, 0, 20, 20), (30, 5, 61, 47)], ["A Red circle", "a blue star"]
    scorer = FALIP(small, strength=2.0)
    with torch.no_grad():
        W = small.encode_text(["a photo of a red circle", "a photo of a blue star"])
        slow = (small.scale * scorer.encode_regions(image, boxes) @ W.T).numpy()
    got = scorer.score(image, boxes, texts)
    np.testing.assert_allclose(got, slow, atol=1e-5)
    np.testing.assert_allclose(FALIP([small, small], strength=2.0).score(image, boxes, texts), 2 * slow, atol=1e-5)
    np.testing.assert_allclose(scorer.score(image, boxes[::-1], texts), got[::-1], atol=1e-5)
    less = scorer.score(image, boxes, texts, negatives=["a green heart"])
    np.testing.assert_allclose(less[:, 0] - less[:, 1], got[:, 0] - got[:, 1], atol=1e-5)
    mask = np.zeros((47, 61), bool)
    mask[5:30, 5:30] = True
    views = scorer.score_views([image, image], [mask, mask], texts)
    np.testing.assert_allclose(views, scorer.score(image, mask[None], texts)[0], atol=1e-5)
    with pytest.raises(InputError, match="at least one model"):
        FALIP([])


class Planted:
    """Scores a box by its left edge."""

    name = "planted"

    def score(self, image: Any, boxes: Any, texts: Any, negatives: Any = None) -> np.ndarray:
        return np.array([[-float(box[0])] for box in boxes])


def test_the_probe() -> None:
    boxes = ((0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0))
    rows = [Referring(str(i), noise(), boxes, f"thing {i}", i % 2) for i in range(4)]
    report = ReferringProbe(Planted()).run(rows, splits={"0": "a", "1": "b", "2": "a", "3": "b"})
    assert (report["accuracy"], report["accuracy_a"], report["accuracy_b"], report["chance"]) == (0.5, 1.0, 0.0, 0.5)
    # a detector's box counts where it overlaps the true one by more than half
    near = ReferringProbe(Planted()).run(rows[:1], truth={"0": (0.0, 0.0, 10.0, 14.0)})
    far = ReferringProbe(Planted()).run(rows[:1], truth={"0": (0.0, 0.0, 10.0, 21.0)})
    assert (near["accuracy"], far["accuracy"]) == (1.0, 0.0)
    tie = (Referring("t", noise(), ((0.0, 0.0, 9.0, 9.0), (0.0, 20.0, 9.0, 29.0)), "x", 0),)
    assert ReferringProbe(Planted()).run(tie)["accuracy"] == 0.0
    assert overlap((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    with pytest.raises(InputError, match="no expressions"):
        ReferringProbe(Planted()).run([])


def test_the_probe_takes_off_the_mean_of_others(small: CLIP) -> None:
    boxes = ((0.0, 0.0, 20.0, 20.0), (30.0, 5.0, 61.0, 47.0))
    rows = [Referring(str(i), noise(), boxes, text, i % 2) for i, text in enumerate(["a red star", "a blue ring"])]
    report = ReferringProbe(FALIP(small, strength=2.0), subtract=5).run(rows)
    s = FALIP(small, strength=2.0).score(noise(), boxes, ["a red star"], ["a blue ring"])[:, 0]
    assert report.rows[0]["margin"] == pytest.approx(s[0] - s[1])


def test_reactions_of_heads(small: CLIP) -> None:
    plain, marked = head_reactions(small, noise(), (5, 5, 40, 40))
    assert plain.shape == marked.shape == (3, 2)
    assert ((plain > 0) & (plain < 1)).all()
    assert np.abs(plain - marked).max() > 1e-6
