"""Image encoding of ViT-B/32 against open_clip in fp32, same weights, batches of 64 and of 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.common import record, versus
from benchmarks.peers import pair


def main() -> None:
    """Measure and record."""
    ours, theirs = pair("ViT-B-32")
    figures: dict[str, object] = {}
    for size in (64, 1):
        pixels = torch.randn(size, 3, 224, 224, generator=torch.Generator().manual_seed(size))

        def mine(pixels: torch.Tensor = pixels) -> torch.Tensor:
            with torch.inference_mode():
                return ours.encode_image(pixels)

        def peer(pixels: torch.Tensor = pixels) -> torch.Tensor:
            with torch.inference_mode():
                return F.normalize(theirs.encode_image(pixels), dim=-1)

        figures[f"batch_{size}"] = versus(mine, peer, repeat=5 if size > 1 else 31)
        figures[f"largest_difference_{size}"] = float((mine() - peer()).abs().max())
    record("image_encoding", figures, wanted="batch 64: 1.0x; batch 1: 1.4x", seed=0, data="random pixels of a seed")


if __name__ == "__main__":
    main()
