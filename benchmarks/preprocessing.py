"""Decoding and preprocessing photos against open_clip: full decoding, and the fast path as the encoder decodes.

Two sets: the photos at hand (short side 288, where a draft has nothing to gain) and the same enlarged to camera sizes.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from benchmarks.common import digest, imagenet_photos, open_clip, record, shared_data, versus
from binderclip.data.media import open_image
from binderclip.model.preprocess import Preprocess


def enlarge(files: list[bytes], side: int) -> list[bytes]:
    """JPEG files with the short side scaled up, as a camera would have written them."""
    out = []
    for data in files:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        scale = side / min(image.size)
        stream = io.BytesIO()
        size = (round(image.width * scale), round(image.height * scale))
        image.resize(size, Image.Resampling.LANCZOS).save(stream, "JPEG", quality=90)
        out.append(stream.getvalue())
    return out


def main() -> None:
    """Measure and record."""
    open_clip()
    from open_clip.transform import image_transform

    theirs = image_transform(224, is_train=False)
    ours = Preprocess(size=224)

    def peer(files: list[bytes]) -> list[object]:
        return [theirs(Image.open(io.BytesIO(data))) for data in files]

    def full(files: list[bytes]) -> list[np.ndarray]:
        return [ours.normalize(ours(open_image(data).image)[None])[0] for data in files]

    def fast(files: list[bytes]) -> list[np.ndarray]:
        return [ours.normalize(ours(open_image(data, min_side=448).image)[None])[0] for data in files]

    figures: dict[str, object] = {}
    for name, files in {
        "short_side_288": imagenet_photos(150),
        "short_side_1000": enlarge(imagenet_photos(40), 1000),
        "short_side_3000": enlarge(imagenet_photos(8), 3000),
    }.items():
        same = max(float(np.abs(a - b.numpy()).max()) for a, b in zip(full(files), peer(files), strict=True))
        figures[name] = {
            "photos": len(files),
            "full": versus(lambda f=files: full(f), lambda f=files: peer(f), repeat=3),
            "fast": versus(lambda f=files: fast(f), lambda f=files: peer(f), repeat=3),
            "largest_difference_full": same,
        }
    data = digest(shared_data() / "imagenet1k_photos.parquet")
    record("preprocessing", figures, wanted="2x open_clip's pipeline in the fast path", data=data)


if __name__ == "__main__":
    main()
