"""Does decoding a JPEG at a fraction of its size change what `pocket` sees? Cosine of the two vectors, by enlargement.

The photos at hand have a short side of 288 pixels, too small for a draft at 224: they are enlarged to camera sizes first.
"""

from __future__ import annotations

import numpy as np

from benchmarks.common import digest, imagenet_photos, record, shared_data
from benchmarks.preprocessing import enlarge
from binderclip import Encoder
from binderclip.data.media import open_image


def main() -> None:
    """Measure and record."""
    encoder = Encoder("pocket")
    figures: dict[str, object] = {}
    for side, count in ((500, 300), (1000, 300), (2000, 60)):
        files = enlarge(imagenet_photos(count), side)
        full = encoder.encode_pixels(np.stack([encoder.pixels(open_image(data).image) for data in files]))
        for margin in (1, 2):
            least = margin * encoder.preprocess.min_side
            quick = encoder.encode_pixels(
                np.stack([encoder.pixels(open_image(data, min_side=least).image) for data in files])
            )
            cosines = (full * quick).sum(1)
            low, middle = np.percentile(cosines, [1, 50])
            figures[f"side_{side}_least_{least}"] = {
                "first_percentile": float(low),
                "median": float(middle),
                "photos": count,
            }
    record(
        "draft_decoding", figures, data=digest(shared_data() / "imagenet1k_photos.parquet"),
        wanted="on by default where the first percentile of the cosine is at least 0.99",
    )  # fmt: skip


if __name__ == "__main__":
    main()
