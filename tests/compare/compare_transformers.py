"""Write the goldens of Hugging Face's CLIP, SigLIP and BERT, in an environment of its own.

pip install torch==2.13.0 transformers
python tests/compare/compare_transformers.py --out tests/goldens
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import formula
from golden import load_stub, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--stub", type=Path, help="torchvision_stub.py, where a torchvision built for CUDA is installed"
    )
    options = parser.parse_args()
    load_stub(options.stub)
    import torch
    import transformers
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    torch.set_num_threads(1)
    print("transformers", transformers.__version__, "torch", torch.__version__)
    image = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 2}
    image |= {"image_size": 32, "patch_size": 8}
    text = {"hidden_size": 24, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"vocab_size": 100, "max_position_embeddings": 10, "bos_token_id": 98, "eos_token_id": 99}
    inputs = {"image": formula.noise("pixels", (2, 3, 32, 32)), "text": formula.TEXT}
    blocks = {
        f"{ours}.blocks.{i}.out": f"{theirs}.encoder.layers.{i}"
        for ours, theirs in (("image", "vision_model"), ("text", "text_model"))
        for i in range(2)
    }

    def features(output: Any) -> Any:
        return output if isinstance(output, torch.Tensor) else output.pooler_output

    encode = {
        "image": lambda m, x: features(m.get_image_features(pixel_values=x)),
        "text": lambda m, x: features(m.get_text_features(input_ids=x)),
    }
    configs = {
        "clip_hf": (CLIPModel, CLIPConfig(text_config=text, vision_config=image, projection_dim=16)),
        "siglip_hf": (SiglipModel, SiglipConfig(text_config={**text, "projection_size": 32}, vision_config=image)),
    }
    for name, (kind, config) in configs.items():
        config._attn_implementation = "eager"
        published = {
            "model_type": config.model_type,
            "text_config": {**text, "hidden_act": config.text_config.hidden_act},
            "vision_config": {**image, "hidden_act": config.vision_config.hidden_act},
        }
        write(name, options.out, kind(config), {"config.json": published}, encode, inputs, blocks)


if __name__ == "__main__":
    main()
