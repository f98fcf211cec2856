"""The encoder: an exported checkpoint and the torch module give the same vectors; wrong input is one clear line."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binderclip import Encoder
from binderclip.engine.encoder import foreign_script
from binderclip.errors import BinderclipError, InputError, MediaError

torch = pytest.importorskip("torch")

CONFIG = {
    "name": "tiny",
    "embed_dim": 12,
    "scripts": ["LATIN"],
    "languages": ["English"],
    "logit_scale": 2.0,
    "towers": {
        "image": {"kind": "vit", "image_size": 32, "patch_size": 8, "width": 24, "layers": 2, "heads": 2},
        "text": {
            "kind": "text_transformer",
            "vocab_size": 49408,
            "context_length": 16,
            "width": 16,
            "layers": 2,
            "heads": 2,
            "factor": 4,
        },
    },
    "preprocess": {"size": 32},
    "tokenizer": {"kind": "clip_bpe", "context_length": 16},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One checkpoint twice: with exported graphs, and without."""
    from binderclip.engine.torch_export import export_onnx
    from binderclip.hub.native import load, save
    from binderclip.model.build import build

    torch.manual_seed(0)
    exported, plain = tmp_path_factory.mktemp("exported"), tmp_path_factory.mktemp("plain")
    clip = build(CONFIG)
    for folder in (exported, plain):
        save(clip, folder, dtype=torch.float16)
    worst = export_onnx(load(exported), exported)
    assert max(worst.values()) < 1e-5
    return exported, plain


@pytest.fixture(scope="module")
def encoder(folders: tuple[Path, Path]) -> Encoder:
    return Encoder(str(folders[0]))


def pictures(n: int = 5) -> list[Image.Image]:
    rng = np.random.default_rng(3)
    return [Image.fromarray(rng.integers(0, 256, (40 + 5 * i, 50, 3), dtype=np.uint8)) for i in range(n)]


def test_graphs_hold_no_weights(folders: tuple[Path, Path]) -> None:
    exported = folders[0]
    weights = (exported / "model.safetensors").stat().st_size
    assert (exported / "image.onnx").stat().st_size + (exported / "text.onnx").stat().st_size < 150_000
    assert weights > 400_000


def test_exported_equals_torch(folders: tuple[Path, Path], encoder: Encoder) -> None:
    other = Encoder(str(folders[1]))
    assert type(other.towers).__name__ == "TorchTowers"
    assert type(encoder.towers).__name__ == "OnnxTowers"
    texts = ["a dog", "", "a very long sentence about a red bicycle", "dog"]
    np.testing.assert_allclose(encoder.encode_text(texts), other.encode_text(texts), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_image(pictures()), other.encode_image(pictures()), atol=1e-5)
    assert encoder.logit_scale == pytest.approx(np.exp(2.0))
    assert other.logit_scale == pytest.approx(np.exp(2.0), rel=1e-3)


def test_rows_are_unit_float32_in_order(encoder: Encoder) -> None:
    texts = [f"{'very ' * (i % 7)}dog {i}" for i in range(150)]
    rows = encoder.encode_text(texts)
    assert (rows.shape, rows.dtype) == ((150, 12), np.float32)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    for i in (0, 63, 64, 149):
        np.testing.assert_allclose(rows[i], encoder.encode_text([texts[i]])[0], atol=1e-5)


def test_sources_of_an_image(encoder: Encoder, tmp_path: Path) -> None:
    image = pictures(1)[0]
    stream = io.BytesIO()
    image.save(stream, "PNG")
    (tmp_path / "x.png").write_bytes(stream.getvalue())
    rows = encoder.encode_image([image, tmp_path / "x.png", str(tmp_path / "x.png"), stream.getvalue()])
    assert np.abs(rows - rows[0]).max() < 1e-6
    many = encoder.encode_image(pictures(5) * 8)
    np.testing.assert_allclose(many[35:], encoder.encode_image(pictures(5)), atol=1e-6)


def test_nothing_in_nothing_out(encoder: Encoder) -> None:
    assert encoder.encode_text([]).shape == (0, 12)
    assert encoder.encode_image([]).shape == (0, 12)


def test_wrong_input(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a list of texts"):
        encoder.encode_text("a dog")
    with pytest.raises(InputError, match="a list of images"):
        encoder.encode_image(str(tmp_path / "x.png"))  # type: ignore[arg-type]
    (tmp_path / "bad.jpg").write_text("no")
    with pytest.raises(MediaError, match=r"bad\.jpg: is no picture"):
        encoder.encode_image([tmp_path / "bad.jpg"])
    with pytest.raises(BinderclipError, match="no-such-model"):
        Encoder("no-such-model")


def test_a_script_it_never_learnt_is_told_once(encoder: Encoder) -> None:
    encoder._told_script = False
    with pytest.warns(UserWarning, match=r"Cyrillic script, which .* never learnt"):
        encoder.encode_text(["a dog", "собака"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode_text(["кот"])


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("a dog", None),
        ("café", None),
        ("犬 dog", None),
        ("犬", "CJK"),
        ("собака a", "CYRILLIC"),
        ("123 !", None),
        ("कुत्ता", "DEVANAGARI"),
    ],
)
def test_foreign_script(text: str, script: str | None) -> None:
    assert foreign_script(text, ["LATIN"]) == script


def test_fingerprint_changes_with_weights_preprocess_and_tokenizer(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from binderclip.engine.opening import fingerprint_of

    (tmp_path / "model.safetensors").write_bytes((folders[0] / "model.safetensors").read_bytes())
    config = json.loads((folders[0] / "config.json").read_text())
    first = fingerprint_of(tmp_path, config)
    assert fingerprint_of(tmp_path, json.loads(json.dumps(config))) == first
    assert fingerprint_of(tmp_path, config | {"preprocess": {"size": 64}}) != first
    assert fingerprint_of(tmp_path, config | {"tokenizer": {"kind": "clip_bpe"}}) != first
    (tmp_path / "model.safetensors").write_bytes(b"other")
    assert fingerprint_of(tmp_path, config) != first


def test_a_damaged_graph_is_one_line(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for file in folders[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "text.onnx").write_bytes(b"\x00\x01nothing")
    broken = Encoder(str(tmp_path))
    broken.encode_image(pictures(1))  # the other tower is whole
    with pytest.raises(BinderclipError, match=r"text\.onnx .* cannot be opened"):
        broken.encode_text(["a dog"])


def test_padding_is_folded_into_convolutions(tmp_path: Path) -> None:
    """EfficientNet-Lite pads by hand; the exported graph has no Pad left and gives what torch gives."""
    import onnx

    from binderclip.engine.torch_export import export_onnx
    from binderclip.hub.native import load, save
    from binderclip.model.build import build

    torch.manual_seed(1)
    towers = {"image": {"kind": "efficientnet_lite", "variant": "lite0"}, "text": CONFIG["towers"]["text"]}  # type: ignore[index]
    save(build(CONFIG | {"towers": towers}), tmp_path)
    assert export_onnx(load(tmp_path), tmp_path)["image"] < 1e-5
    graph = onnx.load(str(tmp_path / "image.onnx"), load_external_data=False).graph
    kinds = {node.op_type for node in graph.node}
    assert "Conv" in kinds
    assert "Pad" not in kinds
