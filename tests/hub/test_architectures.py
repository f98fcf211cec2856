"""Every architecture of the table: its published names and shapes give back its config, and its size is the table's."""

from __future__ import annotations

import json
import lzma
from typing import Any

import pytest
import torch

from binderclip.hub.hints import from_open_clip
from binderclip.hub.infer import infer_config
from binderclip.hub.layouts import from_layout, to_layout
from binderclip.hub.loader import detect_layout
from binderclip.hub.zoo import entries
from binderclip.model.build import build
from tests.compare.published import GOLDENS

ARCHITECTURES: dict[str, Any] = json.loads(lzma.decompress((GOLDENS / "architectures.json.xz").read_bytes()))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_config_from_names_and_shapes(name: str) -> None:
    published = ARCHITECTURES[name]
    state = {k: torch.empty(shape, device="meta") for k, shape in published["shapes"].items()}
    layout = detect_layout(state)
    ours = from_layout(state, layout)
    config = infer_config(ours, from_open_clip({"model_cfg": published["config"]}).towers)
    with torch.device("meta"):
        clip = build({**config, **({"logit_bias": -10.0} if "logit_bias" in ours else {})})
    assert {k: v.shape for k, v in clip.state_dict().items()} == {k: v.shape for k, v in ours.items()}
    back = {k: list(v.shape) for k, v in to_layout(ours, layout).items()}
    assert back == {k: v for k, v in published["shapes"].items() if k in back}
    assert set(published["shapes"]) - set(back) <= {"attn_mask", "visual.attn_mask", "text.attn_mask"}
    count = sum(p.numel() for p in clip.parameters())
    assert count == published["parameters"]
    assert config["embed_dim"] == published["config"]["embed_dim"]
    assert {row.params for row in entries() if row.name.split("/")[0] == name} == {round(count / 1e6)}
    vision, text = published["config"]["vision_cfg"], published["config"]["text_cfg"]
    assert config["towers"]["text"]["heads"] == text["heads"]
    if config["towers"]["image"]["kind"] == "vit" and "width" in vision:
        assert config["towers"]["image"]["heads"] == vision["width"] // vision.get("head_width", 64)
    # a bare OpenAI file states nothing: shapes alone must give the same heads
    if layout.name == "OpenAI":
        bare = infer_config(ours, {})["towers"]
        assert [bare[t].get("heads") for t in bare] == [config["towers"][t].get("heads") for t in bare]


def test_how_many_there_are() -> None:
    assert len(ARCHITECTURES) >= 45
