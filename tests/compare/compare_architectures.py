"""Write the names and shapes of open_clip's published architectures, so that tests infer each config without a download.

    python tests/compare/compare_architectures.py --out tests/goldens --zoo src/binderclip/hub/zoo.tsv [--stub PATH]

The environment is that of ``compare_open_clip.py``. Models are made on the meta device: nothing is computed.
"""

from __future__ import annotations

import argparse
import json
import lzma
from pathlib import Path

from golden import load_stub


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--stub", type=Path)
    options = parser.parse_args()
    load_stub(options.stub)
    import open_clip
    import torch
    from open_clip.model import CLIP, CustomTextCLIP

    rows = [line.split("\t")[0] for line in options.zoo.read_text().splitlines() if not line.startswith("#")]
    found = {}
    for name in dict.fromkeys(row.split("/")[0] for row in rows):
        config = open_clip.get_model_config(name)
        if config is None or "hf_model_name" in config["text_cfg"]:
            continue  # a hub name, or a text tower whose config would have to be downloaded
        custom = config.get("custom_text", False)
        arguments = {k: v for k, v in config.items() if k != "custom_text"}
        with torch.device("meta"):
            model = (CustomTextCLIP if custom else CLIP)(**arguments)
        shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
        found[name] = {"config": config, "shapes": shapes, "parameters": sum(p.numel() for p in model.parameters())}
    path = options.out / "architectures.json.xz"
    path.write_bytes(lzma.compress(json.dumps(found, separators=(",", ":")).encode(), preset=9))
    print(len(found), "architectures of open_clip", open_clip.__version__, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
