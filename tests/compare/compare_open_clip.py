"""Write the goldens of open_clip's topologies, in an environment of its own.

    pip install torch==2.13.0 transformers
    pip install --no-deps torchvision==0.28.0 open_clip_torch==3.3.0 timm ftfy wcwidth
    python tests/compare/compare_open_clip.py --out tests/goldens [--stub PATH/torchvision_stub.py]

The stub lets a torchvision built for CUDA import beside a CPU torch.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import formula
from golden import load_stub, write

TEXT = {"context_length": 10, "vocab_size": 100, "width": 128, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "patch_size": 8, "width": 128, "layers": 2}


def block_names(image: str, text: str, depth: int = 2) -> dict[str, str]:
    return {
        f"{tower}.blocks.{i}.out": f"{where}.{i}"
        for tower, where in (("image", image), ("text", text))
        for i in range(depth)
    }


def run(name: str, out: Path, model: Any, config: dict[str, Any], blocks: dict[str, str], **inputs: Any) -> None:
    size = config["vision_cfg"]["image_size"]
    write(
        name,
        out,
        model,
        {"open_clip_config.json": {"model_cfg": config, "preprocess_cfg": {}}},
        {"image": lambda m, x: m.encode_image(x), "text": lambda m, x: m.encode_text(x)},
        {"image": formula.noise("pixels", (2, 3, size, size)), "text": formula.TEXT, **inputs},
        blocks,
    )


def clip_config(**changes: Any) -> dict[str, Any]:
    return {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT, **changes}


def arguments(config: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in ("custom_text",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stub", type=Path)
    options = parser.parse_args()
    load_stub(options.stub)
    import open_clip
    import open_clip.timm_model as timm_model
    import timm
    import torch
    from open_clip.hf_model import HFTextEncoder
    from open_clip.model import CLIP, CustomTextCLIP
    from transformers import XLMRobertaConfig

    torch.set_num_threads(1)
    print("open_clip", open_clip.__version__, "timm", timm.__version__, "torch", torch.__version__)
    openai_blocks = block_names("visual.transformer.resblocks", "transformer.resblocks")
    for name, config in (("vit_quick", clip_config(quick_gelu=True)), ("vit_gelu", clip_config())):
        run(name, options.out, CLIP(**config), config, openai_blocks)

    config = clip_config(vision_cfg={"image_size": 64, "layers": [3, 4, 6, 3], "width": 8, "patch_size": None})
    stages = {f"image.blocks.{i}.out": f"visual.layer{i + 1}" for i in range(4)}
    run("rn50", options.out, CLIP(**config), config, stages)

    # timm's towers in a tiny size: the same classes, other arguments.
    create = timm.create_model
    sizes = {
        "convnext_tiny": {"depths": (1, 2, 1, 1), "dims": (8, 12, 16, 24)},
        "vit_base_patch16_siglip_224": {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2},
    }
    timm_model.timm.create_model = lambda name, **k: create(name, **{**k, **sizes[name]})
    vision = {"timm_model_name": "convnext_tiny", "timm_pool": "", "image_size": 64}
    for proj in ("linear", "mlp"):
        config = clip_config(vision_cfg={**vision, "timm_proj": proj})
        stages = {f"image.blocks.{i}.out": f"visual.trunk.stages.{i}" for i in range(4)} if proj == "linear" else {}
        run(f"convnext_{proj}", options.out, CLIP(**config), config, stages)

    config = {
        "embed_dim": 128,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": "vit_base_patch16_siglip_224",
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            **TEXT,
            "hf_tokenizer_name": "none",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-06},
            "act_kwargs": {"approximate": "tanh"},
        },
    }
    blocks = block_names("visual.trunk.blocks", "text.transformer.resblocks")
    run("siglip_open_clip", options.out, CustomTextCLIP(**arguments(config)), config, blocks)

    config = clip_config(text_cfg={"hf_model_name": "xlm-roberta-base", "hf_pooler_type": "mean_pooler"})
    plain = CustomTextCLIP(**clip_config())
    plain.text = HFTextEncoder(
        "xlm-roberta-base",
        16,
        config=XLMRobertaConfig(
            vocab_size=100,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=1,
            intermediate_size=64,
            max_position_embeddings=12,
            type_vocab_size=1,
            pad_token_id=1,
            layer_norm_eps=1e-5,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        pooler_type="mean_pooler",
        proj_type="mlp",
        pretrained=False,
    )
    blocks = block_names("visual.transformer.resblocks", "text.transformer.encoder.layer")
    run("xlm_roberta", options.out, plain, config, blocks, text=formula.BERT_TEXT)


if __name__ == "__main__":
    main()
