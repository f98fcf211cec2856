"""`make demo`: index a folder of real photos, search it with six texts and a picture, and show the results.

Without --photos it uses the sample pictures that scikit-image and scikit-learn ship, and checks the six top answers.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from importlib import util
from pathlib import Path

import binderclip
from binderclip import Index
from binderclip.cli.results import show_hits
from binderclip.search.sheet import write_sheets

# What to type, and how the name of the picture that must come first begins.
SEARCHES = {
    "a cat": "chelsea",
    "a cup of coffee": "coffee",
    "a rocket launch": "rocket",
    "a flower": "flower",
    "a motorcycle": "motorcycle",
    "a palace": "china",
}
PHOTOS = frozenset(
    "astronaut.png brick.png camera.png chelsea.png clock_motion.png coffee.png coins.png grass.png gravel.png horse.png"
    " hubble_deep_field.jpg moon.png motorcycle_left.png motorcycle_right.png page.png retina.jpg rocket.jpg text.png"
    " china.jpg flower.jpg".split()
)
OUT = Path("demo")


def sample_photos(folder: Path) -> Path:
    """Copy the photos that come with scikit-image and scikit-learn into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for package, inner in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations
        for path in sorted((Path(spec.submodule_search_locations[0]) / inner).iterdir()):
            if path.name in PHOTOS:
                shutil.copyfile(path, folder / path.name)
    return folder


def main() -> int:
    """Run the demo; exit code 1 when a top answer is not the expected one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="your own folder of photos")
    photos = parser.parse_args().photos
    own = photos is not None
    folder = photos if own else sample_photos(OUT / "photos")
    start = time.perf_counter()
    with Index.open(OUT / ("index-own" if own else "index")) as index:
        report = index.add([folder])
        print(f"$ binderclip index {folder}")
        print(f"{report.found} pictures, {report.encoded} encoded, {time.perf_counter() - start:.1f} s\n")
        wrong, sheets = [], []
        for query, wanted in SEARCHES.items():
            hits = index.search(query, 3)
            print(f'$ binderclip search "{query}" --top 3')
            show_hits(hits, title="")
            sheets.append((query, hits))
            if not own and hits and not Path(hits[0].path).name.startswith(wanted):
                wrong.append(f"{query!r}: {Path(hits[0].path).name} came first, not {wanted}")
        seed = Path(sheets[0][1][0].path) if sheets[0][1] else None
        if seed:
            hits = index.search(str(seed), 3)
            print(f"$ binderclip search {seed} --top 3")
            show_hits(hits, title="")
            sheets.append((f"pictures like {seed.name}", hits))
        path = OUT / "results.html"
        write_sheets(path, "binderclip demo", dict(sheets))
        print(f"contact sheet: {path.absolute()}")
    assert "torch" not in sys.modules, "the demo must not need torch"
    print(f"binderclip {binderclip.__version__}: {time.perf_counter() - start:.1f} s, no torch, no network")
    for line in wrong:
        print(f"WRONG {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
