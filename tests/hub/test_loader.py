"""``hub.load`` from files, folders and names; every way it can fail is one line."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from binderclip import hub
from binderclip.errors import CheckpointError, OfflineError, UnknownNameError
from binderclip.hub import native
from binderclip.hub.embedded import embedded_models
from binderclip.hub.loader import load
from tests.compare.published import GOLDENS, archive, folder, weights
from tests.compare.tiny import tiny_config


def features(path: Path, **options: str) -> torch.Tensor:
    from tests.compare import formula

    clip = load(path, **options)
    size = clip.config["preprocess"]["size"]
    return clip.encode("image", torch.from_numpy(formula.noise("pixels", (2, 3, size, size)))).pooled


def golden(name: str) -> torch.Tensor:
    with np.load(GOLDENS / f"{name}.npz") as stored:
        return torch.from_numpy(stored["image"])


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-5 * b.abs().max())


@pytest.mark.parametrize("name", ["vit_quick", "rn50"])
def test_openais_archive_is_read_without_running_it(name: str, tmp_path: Path) -> None:
    state, _ = weights(name)
    numbers = {"input_resolution": 32, "context_length": 10, "vocab_size": 100}
    state |= {k: torch.tensor(v) for k, v in numbers.items()}
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}  # as in the published files
    path = archive(state, tmp_path / "ViT-tiny.pt")
    assert same(features(path), golden(name))
    clip = load(path)
    image, text = clip.config["towers"]["image"], clip.config["towers"]["text"]
    assert text["activation"] == "quick_gelu"
    assert image["image_size"] == clip.config["preprocess"]["size"] == (32 if name == "vit_quick" else 64)
    if name == "rn50":
        assert image["layers"] == [3, 4, 6, 3]
        assert image["heads"] == 4
    else:
        assert (image["patch_size"], image["layers"], image["width"], image["heads"]) == (8, 2, 128, 2)
    assert clip.name == "ViT-tiny"
    assert clip.config["source"] == {"layout": "OpenAI"}


@pytest.mark.parametrize("file", ["model.safetensors", "weights.pt", "training.pt"])
def test_bare_state_dicts_ask_for_their_activation(file: str, tmp_path: Path) -> None:
    state, _ = weights("rn50")
    path = tmp_path / file
    if file == "training.pt":  # as open_clip's training script saves it
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    elif file.endswith(".pt"):
        torch.save(state, path)
    else:
        save_file(state, path)
    with pytest.raises(CheckpointError, match=r"activation='quick_gelu'\) for OpenAI's"):
        load(path)
    assert same(features(path, activation="gelu"), golden("rn50"))


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors"])
def test_a_folder_and_a_file_in_it_are_the_same(file: str, tmp_path: Path) -> None:
    path = folder("vit_quick", tmp_path / "m", file)
    assert same(features(path), golden("vit_quick"))
    assert load(path).config["towers"]["image"]["activation"] == "quick_gelu"
    (path / "config.json").write_text("{}")  # timm's repositories have one too; open_clip's own wins
    assert same(features(path / file), golden("vit_quick"))


def test_shards(tmp_path: Path) -> None:
    path = folder("clip_hf", tmp_path / "m")
    state = load_file(path / "model.safetensors")
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": names[20:]}
    for part, keys in parts.items():
        save_file({k: state[k] for k in keys}, path / part)
    (path / "model.safetensors").unlink()
    index = {"weight_map": {k: part for part, keys in parts.items() for k in keys}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(features(path), golden("clip_hf"))


def test_preprocess_and_scale_travel(tmp_path: Path) -> None:
    path = folder("siglip_hf", tmp_path / "m")
    (path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.2], "resample": 2})
    )
    clip = load(path)
    assert clip.preprocess is not None
    assert clip.preprocess.to_dict() == {
        "size": 32,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.2, 0.2],
        "interpolation": "bilinear",
        "resize_mode": "squash",
        "fill": 0,
        "crop_pct": 1.0,
    }
    assert clip.logit_bias is not None
    assert clip.logit_bias.item() == -3.0
    assert clip.tokenizer is None  # its file is not there: ids are asked for


def test_saved_and_loaded_again_as_our_own(tmp_path: Path) -> None:
    clip = load(folder("convnext_linear", tmp_path / "m"))
    again = load(native.save(clip, tmp_path / "ours"))
    for (name, a), (other, b) in zip(clip.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b)
    assert again.config["source"] == {"layout": "OpenAI"} or again.config["source"] == {"layout": "open_clip"}
    with pytest.raises(CheckpointError, match="load their folder"):
        load(shutil.copy(tmp_path / "ours" / "model.safetensors", tmp_path / "loose.safetensors"))


def test_the_hub_cache_of_other_tools_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "hf" / "models--timm--vit_base_patch32_clip_224.openai"
    folder("vit_gelu", root / "snapshots" / "abc")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc\n")
    assert same(features(root), golden("vit_gelu"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    assert hub.resolve("ViT-B/32") == root / "snapshots" / "abc"
    clip = hub.load("ViT-B/32")
    assert clip.name == "ViT-B-32/openai"
    assert clip.config["towers"]["image"]["activation"] == "quick_gelu"  # the table knows better than the file


def test_names_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnknownNameError, match=r"did you mean ViT-B-32/openai"):
        load("ViT-B-23")
    with pytest.raises(UnknownNameError, match="ViT-B-32/laion2b_s34b_b79k"):
        load("ViT-B-32/laion2b_s34b_b79")
    with pytest.raises(UnknownNameError, match="no file, folder or published model"):
        load("./nowhere/at.all")
    with pytest.raises(CheckpointError, match="EVA-CLIP models are not supported yet"):
        load("EVA02-B-16/merged2b_s8b_b131k")
    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE is set"):
        load("ViT-B-32/openai")


def test_embedded_models_load_by_name() -> None:
    for name in embedded_models():
        assert hub.resolve(name).name == name


def test_wrong_files_say_what_to_do(tmp_path: Path) -> None:
    path = folder("vit_gelu", tmp_path / "m")
    file = path / "model.safetensors"
    whole = file.read_bytes()
    state = {k: v.clone() for k, v in load_file(file).items()}  # the file is about to be written over
    cases: list[tuple[str, object]] = [
        (r"truncated or no safetensors file .* fetch it again", whole[:2000]),
        (r"truncated or no safetensors file", b""),
        (
            r"missing text\.blocks\.1\.mlp\.up\.weight",
            {k: v for k, v in state.items() if "resblocks.1.mlp.c_fc.weight" not in k or "visual" in k},
        ),
        (
            r"is of no kind|not whole",
            {k: v for k, v in state.items() if not k.startswith("visual.")} | {"visual.x": torch.zeros(1)},
        ),
        (r"extra\.weight is not a key of the OpenAI layout", {**state, "extra.weight": torch.zeros(2)}),
        (r"no CLIP that is known names its weights a", {"a": torch.zeros(1)}),
        (r"wanted", {**state, "visual.ln_post.weight": torch.zeros(5)}),
        (r"logit_scale", {k: v for k, v in state.items() if k != "logit_scale"}),
    ]
    for message, content in cases:
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            save_file(content, file)  # type: ignore[arg-type]
        with pytest.raises(CheckpointError, match=message) as caught:
            load(path)
        assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        load(path)
    (path / "open_clip_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load(path)


def test_pickles_are_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return print, ("run",)

    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="more than weights"):
        load(tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(CheckpointError):
        load(tmp_path / "raw.pt")
    (tmp_path / "text.pt").write_text("not weights")
    with pytest.raises(CheckpointError):
        load(tmp_path / "text.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="no table of weights"):
        load(tmp_path / "list.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multimodal_cfg": {}}, "CoCa"),
        ({"vision_cfg": {"timm_model_name": "vitamin_small"}}, "vitamin_small"),
        ({"text_cfg": {"hf_model_name": "google/mt5-base"}}, "mt5"),
        ({"text_cfg": None}, "vision_cfg"),
    ],
)
def test_open_clip_families_to_come(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = folder("vit_gelu", tmp_path / "m")
    config = json.loads((path / "open_clip_config.json").read_text())
    config["model_cfg"] |= change
    (path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load(path)


def test_hugging_face_families_to_come(tmp_path: Path) -> None:
    path = folder("clip_hf", tmp_path / "m")
    for family in ("siglip2", "altclip", "chinese_clip"):
        config = json.loads((path / "config.json").read_text()) | {"model_type": family}
        (path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=f"{family}.*not supported yet"):
            load(path)


def test_tiny_native_folder_by_path(tmp_path: Path) -> None:
    from binderclip.model.build import build

    native.save(build(tiny_config()), tmp_path / "tiny")
    assert load(tmp_path / "tiny").name == "tiny"
    assert load(tmp_path / "tiny" / "model.safetensors").name == "tiny"


def test_texts_through_a_tokenizer_file_and_back(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, 100)}}
    rust = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    path = folder("siglip_hf", tmp_path / "m")
    rust.save(str(path / "tokenizer.json"))
    clip = load(path)
    texts = ["w5 W9, w40", "w7"]  # lowered and stripped of punctuation, an end token, then filled to the full length
    ids = torch.tensor([[5, 9, 40, 1, *[1] * 6], [7, 1, *[1] * 8]])
    assert torch.equal(clip.encode_text(texts), clip.encode_text(ids))
    again = load(native.save(clip, tmp_path / "ours"))
    assert "text" in json.loads((tmp_path / "ours" / "config.json").read_text())["probe"]
    assert torch.equal(again.encode_text(texts), clip.encode_text(texts))
