"""1,000 photo files of about 500x400 to vectors: the encoder against the same weights in torch with one decoding thread.

The photos are those at hand (short side 288), enlarged to 500x400 and written as JPEG of quality 90 into a temporary folder.
"""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks.common import digest, imagenet_photos, record, shared_data
from binderclip import Encoder

COUNT = 1000


def write_photos(folder: Path) -> list[Path]:
    """JPEG files of 500x400 pixels."""
    paths = []
    for i, data in enumerate(imagenet_photos(COUNT)):
        image = ImageOps.fit(Image.open(io.BytesIO(data)).convert("RGB"), (500, 400))
        if i >= 645:
            image = ImageOps.mirror(image)  # the second time round, so that no two are alike
        path = folder / f"{i:04d}.jpg"
        image.save(path, quality=90)
        paths.append(path)
    return paths


def main() -> None:
    """Measure and record."""
    import torch

    import binderclip

    encoder = Encoder("pocket")
    clip = binderclip.load("pocket").eval()
    assert clip.preprocess is not None

    def peer(paths: list[Path]) -> np.ndarray:
        rows = []
        for start in range(0, len(paths), 32):
            with torch.inference_mode():
                pixels = [clip.preprocess(Image.open(path).convert("RGB")) for path in paths[start : start + 32]]
                rows.append(clip.encode_image(torch.from_numpy(clip.preprocess.normalize(np.stack(pixels)))).numpy())
        return np.concatenate(rows)

    with tempfile.TemporaryDirectory() as place:
        paths = write_photos(Path(place))
        encoder.encode_image(paths[:64])
        ours_s, peer_s = [], []
        for _ in range(2):
            start = time.perf_counter()
            ours = encoder.encode_image(paths)
            ours_s.append(time.perf_counter() - start)
            start = time.perf_counter()
            theirs = peer(paths)
            peer_s.append(time.perf_counter() - start)
    figures = {
        "photos": COUNT,
        "ours_seconds": min(ours_s),
        "peer_seconds": min(peer_s),
        "ratio": min(peer_s) / min(ours_s),
        "images_per_second": COUNT / min(ours_s),
        "peer_images_per_second": COUNT / min(peer_s),
        "largest_difference": float(np.abs(ours - theirs).max()),
    }
    data = digest(shared_data() / "imagenet1k_photos.parquet")
    record(
        "files_to_embeddings", figures, wanted="3x the same weights in torch with single-threaded decoding", data=data
    )


if __name__ == "__main__":
    main()
