"""Parity at full size, in two steps: open_clip writes random weights and its outputs, then ours reads and compares.

    python tests/compare/compare_full_size.py --write DIR [--stub PATH]      (environment of compare_open_clip.py)
    python tests/compare/compare_full_size.py --check DIR                    (our own; prints a JSON object)

About 3 GB of weights pass through DIR; nothing of it is kept in the repository.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

NAMES = ("ViT-B-32-quickgelu", "ViT-B-32", "RN50", "convnext_tiny", "ViT-B-16-SigLIP2")


def write(folder: Path) -> None:
    """Random weights, inputs and outputs of each model."""
    import open_clip
    import torch
    from open_clip.model import CLIP, CustomTextCLIP
    from safetensors.torch import save_file

    torch.manual_seed(0)
    for name in NAMES:
        config = open_clip.get_model_config(name)
        kind = CustomTextCLIP if config.get("custom_text") else CLIP
        model = kind(**{k: v for k, v in config.items() if k != "custom_text"}).eval()
        for key, p in model.named_parameters():  # start at zero in a ResNet, which would hide most of it
            if key.endswith("bn3.weight"):
                torch.nn.init.ones_(p)
        where = folder / name
        where.mkdir(parents=True, exist_ok=True)
        state = {k: v.contiguous() for k, v in model.state_dict().items() if "attn_mask" not in k}
        save_file(state, where / "open_clip_model.safetensors")
        (where / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
        size, text = config["vision_cfg"]["image_size"], config["text_cfg"]
        pixels = torch.randn(4, 3, size, size)
        ids = torch.randint(5, text["vocab_size"] - 3, (4, text["context_length"]))
        for row, end in enumerate((6, 12, 30, text["context_length"] - 1)):
            ids[row, end], ids[row, end + 1 :] = text["vocab_size"] - 1, 0
        with torch.no_grad():
            out = {"image": model.encode_image(pixels), "text": model.encode_text(ids)}
        save_file({"pixels": pixels, "ids": ids, **out}, where / "reference.safetensors")


def check(folder: Path) -> dict[str, Any]:
    """``max |a - b| / max |b|`` of each tower of each model."""
    import torch
    from safetensors.torch import load_file

    from binderclip.hub.loader import load

    rows = {}
    for name in NAMES:
        clip, stored = load(folder / name), load_file(folder / name / "reference.safetensors")
        with torch.no_grad():
            got = {
                "image": clip.encode("image", stored["pixels"]).pooled,
                "text": clip.encode("text", stored["ids"]).pooled,
            }
        rows[name] = {k: float((v - stored[k]).abs().max() / stored[k].abs().max()) for k, v in got.items()}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--check", type=Path)
    parser.add_argument("--stub", type=Path)
    options = parser.parse_args()
    if options.write:
        from golden import load_stub

        load_stub(options.stub)
        write(options.write)
    if options.check:
        print(json.dumps(check(options.check), indent=1))


if __name__ == "__main__":
    main()
