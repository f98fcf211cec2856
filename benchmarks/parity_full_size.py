"""Full-size towers against open_clip, same random weights: outputs and gradients, max |a - b| over max |b|."""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F

from benchmarks.common import open_clip, record
from benchmarks.peers import pair

NAMES = ("ViT-B-32-quickgelu", "ViT-B-32", "RN50", "convnext_base", "ViT-B-16-SigLIP")


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """``max |a - b| / max |b|``."""
    return float((a - b).abs().max() / b.abs().max())


def compare(name: str) -> dict[str, float]:
    """Image and text features, and the gradient of a loss with respect to pixels."""
    ours, theirs = pair(name)
    size = ours.preprocess.size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    texts = ["a photo of a dog", "two red bicycles leaning on a wall in the rain"]
    ids = open_clip().get_tokenizer("ViT-B-32")(texts, context_length=theirs.context_length)
    ids = ids % theirs.vocab_size
    found = {}
    gradients = []
    for model in (ours, theirs):
        x = pixels.clone().requires_grad_(True)
        image = F.normalize(model.encode_image(x), dim=-1)
        image[:, :7].sum().backward()
        gradients.append(x.grad)
        found[model is ours] = image.detach()
    found_gradient = relative(gradients[0], gradients[1])
    with torch.inference_mode():
        text = relative(F.normalize(ours.encode_text(ids), dim=-1), F.normalize(theirs.encode_text(ids), dim=-1))
    return {"image": relative(found[True], found[False]), "text": text, "pixel_gradient": found_gradient}


def main() -> None:
    """Compare and record."""
    figures = {name: compare(name) for name in NAMES}
    wanted = "outputs 1e-5, gradients 1e-4"
    record("parity_full_size", figures, wanted=wanted, seed=0, data="random pixels of a seed")
    if any(one["image"] > 1e-5 or one["text"] > 1e-5 or one["pixel_gradient"] > 1e-4 for one in figures.values()):
        sys.exit("over the tolerance")


if __name__ == "__main__":
    main()
