"""TextSpan: which layers matter, where an object is, a spurious cue taken out: `python -m benchmarks.evaluate_textspan VIT`.

VIT is a folder or name of a CLIP with a ViT, for CIFAR-10; scenes are seen by the scene CLIP.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.common import record, shared_data
from benchmarks.scene_clip import HOW, scene_clip
from binderclip.data.hashing import Draws, hash64
from binderclip.data.pairs import Pair, Pairs
from binderclip.data.scenes import SceneSpec, scene
from binderclip.data.templates import class_vectors
from binderclip.evaluate.ablation import ablate
from binderclip.evaluate.base import mean_of, share
from binderclip.evaluate.decomposition import Decomposition, collect, patch_terms, pixel_batches
from binderclip.evaluate.linear import lbfgs
from binderclip.evaluate.metrics.ranking import auroc, average_ranks
from binderclip.evaluate.patch_maps import heat_maps
from binderclip.evaluate.textspan import TextSpan, heads_about, text_rows
from binderclip.hub import load
from binderclip.model.clip import CLIP

SHAPES = ("circle", "star")  # of all pairs the one that the scene CLIP tells apart best on training scenes
WORDS = (
    *(f"a plain {ground} ground" for ground in ("white", "grey", "black")),
    *(f"a {c} object" for c in ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")),
    *(
        f"a {s}"
        for s in (
            "circle",
            "ring",
            "square",
            "diamond",
            "triangle",
            "star",
            "hexagon",
            "cross",
            "heart",
            "crescent",
        )
    ),
    *(f"a {s} object" for s in ("small", "medium", "large")),
    "one object",
    "two objects",
)


def shown(metric: Any) -> dict[str, Any]:
    """Value, interval and n."""
    return {"value": round(metric.value, 4), "ci95": [round(metric.low, 4), round(metric.high, 4)], "n": metric.n}


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation."""
    return float(np.corrcoef(average_ranks(a), average_ranks(b))[0, 1])


def cifar(clip: CLIP, count: int = 1000) -> dict[str, Any]:
    """Accuracy with the attention of the first k layers, and what else the paper ablates, at their means of other rows."""
    table = pq.read_table(shared_data() / "cifar10.parquet", columns=["id", "image", "name"]).to_pylist()
    names = sorted({row["name"] for row in table})
    table.sort(key=lambda row: hash64(0, row["id"]))
    held = [row for row in table if int(hashlib.sha256(row["id"].encode()).hexdigest()[:8], 16) % 5 == 0][:count]
    rest = [row for row in table if int(hashlib.sha256(row["id"].encode()).hexdigest()[:8], 16) % 5 != 0][:count]
    y = torch.tensor([names.index(row["name"]) for row in held])

    class Texts:
        def encode_text(self, texts: Sequence[str]) -> Any:
            return text_rows(clip, texts).numpy()

    W = torch.from_numpy(class_vectors(Texts(), names, "photos"))
    terms, other = (collect(clip, [photo(row) for row in rows]) for rows in (held, rest))
    mean, (L, H) = other.mean(), terms.heads.shape[1:3]

    def measured(**what: Any) -> dict[str, Any]:
        return shown(share("accuracy", ((ablate(terms, mean, **what) @ W.T).argmax(1) == y).numpy()))

    layers = [measured(heads=[(lay, h) for lay in range(k) for h in range(H)]) for k in range(L + 1)]
    drops = [layers[0]["value"] - one["value"] for one in layers]
    keep = max(0, L - 4)
    span = TextSpan(clip)
    span.fit(other)
    return {
        "model": clip.name,
        "layers": L,
        "first_layers_ablated": {k: one["value"] for k, one in enumerate(layers)},
        "full": layers[0],
        "last_4_layers_kept": layers[keep],
        "drop_in_points": round(100 * drops[keep], 2),
        "rank_correlation": round(spearman(range(L + 1), drops), 4),
        "rank_correlation_up_to_all_but_4": round(spearman(range(keep + 1), drops[: keep + 1]), 4),
        "all_mlps_ablated": measured(mlps=True),
        "class_token_to_itself_ablated": measured(own=True),
        "last_4_layers_by_20_texts_a_head": shown(
            share("accuracy", ((span.rebuilt(terms) @ W.T).argmax(1) == y).numpy())
        ),
    }


def photo(row: dict[str, Any]) -> Image.Image:
    """The picture of a table's row."""
    data = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
    return Image.open(io.BytesIO(data)).convert("RGB")


def segmenting(clip: CLIP, count: int = 400) -> dict[str, Any]:
    """Pixel AUROC of one named object of two, against the class token's attention of each layer."""
    spec = SceneSpec(size=32, objects=(2, 2), alike=0.0, textures=("plain",), sizes=("medium", "large"), split="test")
    kinds = [" ".join(kind) for kind in spec.kinds(held_out=False)]
    images, masks, named, number = list[Any](), list[Any](), list[int](), 0
    while len(images) < count:
        made, number = scene(number, spec), number + 1
        target = hash64(0, made.id) % 2
        if made.objects[0].kind != made.objects[1].kind and made.masks.any(axis=(1, 2)).all():
            images.append(made.image)
            masks.append(made.masks[target].ravel())
            named.append(kinds.index(" ".join(made.objects[target].kind)))
    W, pixels = text_rows(clip, [f"a {kind}" for kind in kinds]), torch.cat(list(pixel_batches(clip, images)))
    patches, grid = patch_terms(clip, pixels)
    maps = heat_maps(patches, grid, W, W, 4)[torch.arange(count), torch.tensor(named)]
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def look(a: Any) -> Any:
            kept[name] = a.weights()[:, :, 0, 1:].mean(1)
            return a

        return look

    sites = [name for name in clip.tower("image").sites if name.endswith(".attn")]  # type: ignore[union-attr]
    with torch.no_grad():
        clip.encode("image", pixels, {name: keep(name) for name in sites})
    out = {
        "patch_terms": shown(mean_of("auroc", [auroc(m.numpy().ravel(), t) for m, t in zip(maps, masks, strict=True)]))
    }
    for name, row in kept.items():
        wide = torch.nn.functional.interpolate(row.view(-1, 1, *grid), scale_factor=4.0, mode="bilinear")[:, 0]
        scores = [auroc(m.numpy().ravel(), t) for m, t in zip(wide, masks, strict=True)]
        out[f"class_attention_{name}"] = shown(mean_of("auroc", scores))
    return out


def tied(rows: int, split: str, odd: float) -> list[Pair]:
    """Scenes of one object on white or black; only a share `odd` of those where shape and ground do not go together."""
    options = f"size=32&objects=1&textures=plain&sizes=medium,large&shapes={','.join(SHAPES)}&split={split}"
    found = []
    for pair in Pairs.open(f"scenes:{rows}?{options}"):
        ground = pair.metadata["ground"]
        together = (pair.metadata["shapes"][0] == SHAPES[0]) == (ground == "white")
        if ground != "grey" and (together or Draws(0, pair.id).unit("odd") < odd):
            found.append(replace(pair, masks=()))
    return found


def repair(clip: CLIP) -> dict[str, Any]:
    """A linear head learnt on shapes that go with the ground 90/10; then heads whose texts name the ground are ablated."""
    learn, test = tied(8000, "train", 1 / 9), tied(3000, "test", 1.0)
    own, terms = (collect(clip, [pair.image for pair in rows]) for rows in (learn, test))
    y, y_test = (np.array([SHAPES.index(pair.metadata["shapes"][0]) for pair in rows]) for rows in (learn, test))
    group = 2 * y_test + np.array([pair.metadata["ground"] == "black" for pair in test])
    span = TextSpan(clip, WORDS, m=5, last_layers=3)
    heads, mean = heads_about(span.fit(own), ["ground"]), own.mean()
    held = np.array([hash64(1, pair.id) % 4 == 0 for pair in learn])

    def right(X: Any, T: Any, decay: float, rows: Any, truth: Any) -> Any:
        return lbfgs(X.double().numpy()[rows], y[rows], T.double().numpy(), decay, 2)[0].argmax(axis=1) == truth

    # the head's weight decay is chosen as one would who does not know of groups
    by_decay = {
        d: right(own.embedding, own.embedding[held], d, ~held, y[held]).mean() for d in (1e-2, 1e-3, 1e-4, 1e-5)
    }
    decay = max(by_decay, key=lambda d: by_decay[d])

    def measured(e: Any) -> dict[str, Any]:
        hits = right(own.embedding, e, decay, slice(None), y_test)
        groups = [round(float(hits[group == k].mean()), 4) for k in range(4)]
        return {"accuracy": round(float(hits.mean()), 4), "groups": groups, "worst": min(groups)}

    before, after = measured(terms.embedding), measured(ablate(terms, mean, heads))
    return {
        "learnt_from": len(learn),
        "n": len(test),
        "group_sizes": np.bincount(group).tolist(),
        "decay": decay,
        "heads": [list(head) for head in heads],
        "said": {f"{lay}.{h}": [t for t, _ in span.described()[lay, h]] for lay, h in heads},
        "before": before,
        "after": after,
        "gain_of_worst_in_points": round(100 * (after["worst"] - before["worst"]), 2),
        "after_and_no_mlps": measured(ablate(terms, mean, heads, mlps=True)),
        "ground_explains_of_embedding": explained(terms, group % 2),
    }


def explained(terms: Decomposition, ground: Any) -> dict[str, float]:
    """Share of variance between grounds, of each head and of the whole."""

    def of(x: Any) -> float:
        rows = x.double().numpy()
        between = sum(((rows[ground == k].mean(0) - rows.mean(0)) ** 2).sum() * (ground == k).sum() for k in (0, 1))
        return round(float(between / ((rows - rows.mean(0)) ** 2).sum()), 3)

    heads = {f"{lay}.{h}": of(terms.heads[:, lay, h]) for lay in range(3) for h in range(4)}
    return {"all": of(terms.embedding), "mlps": of(terms.mlp.sum(1)), **heads}


def main() -> None:
    """Measure and record."""
    torch.set_num_threads(1)
    if len(sys.argv) != 2:
        sys.exit("name a CLIP with a ViT, as in: python -m benchmarks.evaluate_textspan ./my-vit")
    figures: dict[str, Any] = {"cifar10": cifar(load(sys.argv[1]).eval())}
    print(figures, flush=True)
    small = scene_clip()
    figures |= {"segmenter": segmenting(small), "repair": repair(small)}
    record(
        "evaluate_textspan",
        figures,
        wanted="CIFAR-10: drop with the last 4 layers kept, rank correlation of drop and ablated layers over 0.8; pixel "
        "AUROC of the named object over 0.75 and over class attention; worst group + 5 points without heads found by words",
        seed=0,
        data="cifar10, 1,000 test rows, means and texts from 1,000 others; 400 two-object scenes of split test; scenes of "
        "one circle or star on white or black",
        notes=f"CIFAR-10: the named ViT. Scenes: {HOW}. Repair: a logistic regression on embeddings of training scenes, "
        "shape and ground tied 90/10, weight decay by held-out rows of the same kind; test scenes untied. Heads: "
        "half of what their first five texts explain names the ground",
        methods=("textspan",),
    )


if __name__ == "__main__":
    main()
