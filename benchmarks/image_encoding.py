"""Image encoding of ViT-B/32 against open_clip in fp32, same weights, batches of 64 and of 1: as an encoder and as a module.

The encoder runs the exported graph on ONNX Runtime, as `Encoder(FOLDER)` does after `binderclip models export`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.common import record, versus
from benchmarks.peers import exported, pair


def main() -> None:
    """Measure and record."""
    ours, theirs = pair("ViT-B-32")
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as place:
        encoder = exported(ours, Path(place))
        for size in (64, 1):
            pixels = torch.randn(size, 3, 224, 224, generator=torch.Generator().manual_seed(size))
            array = pixels.numpy()

            def module(pixels: torch.Tensor = pixels) -> torch.Tensor:
                with torch.inference_mode():
                    return ours.encode_image(pixels)

            def peer(pixels: torch.Tensor = pixels) -> torch.Tensor:
                with torch.inference_mode():
                    return F.normalize(theirs.encode_image(pixels), dim=-1)

            repeat = 5 if size > 1 else 31
            wanted = peer()
            figures[f"batch_{size}"] = {
                "encoder": versus(lambda a=array: encoder.towers.image(a), peer, repeat=repeat),
                "module": versus(module, peer, repeat=repeat),
                "largest_difference_encoder": float(
                    (torch.from_numpy(encoder.towers.image(array)) - wanted).abs().max()
                ),
                "largest_difference_module": float((module() - wanted).abs().max()),
            }
    record("image_encoding", figures, wanted="batch 64: 1.0x; batch 1: 1.4x", seed=0, data="random pixels of a seed")


if __name__ == "__main__":
    main()
