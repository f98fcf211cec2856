"""EfficientNet-Lite and its head."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from binderclip.errors import InputError, NeedsPartError
from binderclip.model.concept_head import ConceptHead
from binderclip.model.efficientnet_lite import EfficientNetLite


@pytest.fixture(scope="module")
def tower() -> EfficientNetLite:
    torch.manual_seed(0)
    return EfficientNetLite(16, "lite0", {"classes": 10, "hidden": [32]}).eval()


# Published sizes: 4.7, 5.4 and 6.1 million parameters with the 1,000-way classifier.
@pytest.mark.parametrize(("variant", "count"), [("lite0", 4_652_008), ("lite1", 5_416_680), ("lite2", 6_092_072)])
def test_sizes_of_the_variants(variant: str, count: int) -> None:
    with torch.device("meta"):
        tower = EfficientNetLite(16, variant, {"classes": 1000})
    backbone = sum(p.numel() for n, p in tower.named_parameters() if not n.startswith("head."))
    assert backbone + 1280 * 1000 + 1000 == count


def test_stages_strides_and_pyramid(tower: EfficientNetLite) -> None:
    pixels = torch.randn(1, 3, 65, 96)
    maps = tower.pyramid(pixels)
    assert {s: m.shape[1] for s, m in maps.items()} == {4: 24, 8: 40, 16: 112, 32: 1280}
    for stride, feature_map in maps.items():
        assert feature_map.shape[2:] == (math.ceil(65 / stride), math.ceil(96 / stride))
    tokens = tower(pixels)
    assert torch.equal(tokens.sequence, maps[32].flatten(2).transpose(1, 2))
    assert tokens.grid == (3, 3)
    assert tokens.raw is not None
    assert torch.allclose(tokens.raw, tokens.sequence.mean(1), atol=1e-6)
    assert torch.equal(tower.project(tokens.raw), tokens.pooled)
    assert tower.project(tokens.sequence).shape == (1, 9, 16)


def test_head_is_its_formula(tower: EfficientNetLite) -> None:
    head, f = tower.head, torch.randn(3, 1280)
    head.temperature.fill_(1.7)
    with torch.no_grad():
        head.mix.copy_(torch.tensor([0.6, 1.1]))
        a = head.last(torch.nn.functional.gelu(head.inner[0](f)))
        p = torch.softmax(head.classifier(f) / 1.7, -1)
        c = sum(p[:, i : i + 1] * head.concepts[i] for i in range(10))
        e = 0.6 * a / a.norm(dim=1, keepdim=True) + 1.1 * c / c.norm(dim=1, keepdim=True)
        assert torch.allclose(head(f), e / e.norm(dim=1, keepdim=True), atol=1e-6)
    head.temperature.fill_(1.0)


def test_plain_linear_head_commutes_with_the_mean() -> None:
    head, f = ConceptHead(8, 4), torch.randn(2, 9, 8)
    assert torch.allclose(head(f).mean(1), head(f.mean(1)), atol=1e-6)


def test_sites_replace_a_feature_map_and_there_is_no_attention(tower: EfficientNetLite) -> None:
    x = torch.randn(2, 3, 64, 64)
    plain = tower(x).pooled
    assert torch.equal(tower(x, {"blocks.3.in": lambda s: s}).pooled, plain)
    zeroed = tower(x, {"blocks.3.in": lambda s: s.with_(x=torch.zeros_like(s.x))}).pooled
    assert torch.allclose(zeroed[0], zeroed[1], atol=1e-6)
    with pytest.raises(NeedsPartError, match=r"no site 'blocks\.3\.attn'"):
        tower(x, {"blocks.3.attn": lambda s: s})


def test_gradient_to_pixels_through_frozen_weights(tower: EfficientNetLite) -> None:
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    frozen = tower.requires_grad_(False)
    frozen(x).pooled[0, 0].backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    frozen.requires_grad_(True)


def test_exports(tower: EfficientNetLite, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = tower

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.tower(x).pooled
            return out

    x = torch.randn(2, 3, 64, 64)
    path = str(tmp_path / "image.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Graph().eval(),
            (x[:1],),
            path,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "n"}},
            dynamo=False,
        )
    got = ort.InferenceSession(path).run(None, {"x": x.numpy()})[0]
    assert np.abs(got - tower(x).pooled.detach().numpy()).max() < 1e-4


def test_unknown_variant() -> None:
    with pytest.raises(InputError, match="lite0, lite1, lite2"):
        EfficientNetLite(8, "lite9")
