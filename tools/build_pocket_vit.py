"""Build the embedded model ``pocket-vit`` and measure it.

    python tools/build_pocket_vit.py --data DIR --work SCRATCH            # all stages; each resumes where it stopped
    python tools/build_pocket_vit.py --data DIR --work SCRATCH --stage train --until 2000

A ViT of OpenAI's layout learns `pocket`'s place for each training picture (feature mimicry and contrast, objective
``mimicry``), under `pocket`'s own text tower, which is frozen and not shipped twice. Stages: teacher (pocket's vectors of
one view of every training row), train (the recipe pocket_vit/first.yaml), teacher_again (two more views), train_again
(pocket_vit/second.yaml, from the first half's weights), measure (every figure on test rows),
package (the folder inside the package). Each resumes where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

STAGES = ("teacher", "train", "teacher_again", "train_again", "measure", "package")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the Parquet tables")
    parser.add_argument("--work", type=Path, default=Path("pocket-vit-work"), help="scratch folder")
    parser.add_argument("--wheels", type=Path, help="work folder of build_pocket.py, for the names of classes")
    parser.add_argument("--out", type=Path, default=HERE.parent / "src" / "binderclip" / "assets" / "pocket-vit")
    parser.add_argument("--stage", choices=STAGES, action="append", help="only this stage; may be repeated")
    parser.add_argument("--size", type=int, help="measure at this image size instead of the model's own")
    parser.add_argument("--until", type=int, help="stop training behind this step, to go on later")
    args = parser.parse_args()
    from pocket_vit import stages

    for stage in args.stage or STAGES:
        began = time.time()
        print(f"== {stage}", flush=True)
        getattr(stages, stage)(args)
        print(f"== {stage}: {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
