"""Write open_clip's preprocessing of four real photos to tests/goldens/preprocess.npz, and measure ours on more.

Run in an environment of its own with open_clip_torch 3.3.0, torchvision 0.28.0, scikit-image and binderclip's core:

    python tests/compare/compare_preprocess.py PATH/TO/torchvision_stub.py [FOLDER OF PHOTOS]
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
from PIL import Image

MODES = ("shortest", "squash", "longest")
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


def main(stub: str, folder: str | None = None) -> None:
    """Goldens at 48 px in the three modes; then the largest difference at 224 px over a folder."""
    runpy.run_path(stub)
    from open_clip.transform import image_transform
    from skimage import data

    from binderclip.model.preprocess import Preprocess

    out = {}
    for name in PHOTOS:
        photo = Image.fromarray(np.asarray(getattr(data, name)())[..., :3])
        photo = photo.crop((0, 0, photo.width - 7, photo.height - 2))  # odd sizes, where rounding shows
        for mode in MODES:
            transform = image_transform(
                48, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode, fill_color=0
            )
            out[f"{name}/{mode}"] = np.rint(transform(photo).numpy() * 255).astype(np.uint8).transpose(1, 2, 0)
    path = Path(__file__).parent.parent / "goldens" / "preprocess.npz"
    np.savez_compressed(path, **out)
    print(f"{len(out)} goldens, {path.stat().st_size} bytes")
    worst = dict.fromkeys(MODES, 0)
    files = sorted(Path(folder).iterdir()) if folder else []
    for file in files:
        photo = Image.open(file).convert("RGB")
        for mode in MODES:
            theirs = image_transform(224, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode)(
                photo
            ).numpy()
            ours = Preprocess(size=224, resize_mode=mode)(photo).transpose(2, 0, 1)
            worst[mode] = max(worst[mode], int(np.abs(np.rint(theirs * 255) - ours).max()))
    print(f"largest difference over {len(files)} photos at 224 px, in 1/255: {worst}")


if __name__ == "__main__":
    main(*sys.argv[1:])
