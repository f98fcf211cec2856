"""The key tables: OpenAI and open_clip, timm trunks inside open_clip, Hugging Face CLIP, SigLIP and BERT."""

from __future__ import annotations

from collections.abc import Collection

from binderclip.errors import CheckpointError
from binderclip.hub.layouts import Layout, Rule, both

__all__ = ["HF_CLIP", "HF_SIGLIP", "open_clip_layout"]

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _resblocks(theirs: str, ours: str) -> tuple[Rule, ...]:
    """OpenAI's transformer blocks."""
    a, b = f"{theirs}.resblocks.{{i}}", f"{ours}.blocks.{{i}}"
    return (
        *both(f"{a}.ln_1", f"{b}.norm1"),
        Rule(f"{a}.attn.in_proj_weight", f"{b}.attn.qkv.weight"),
        Rule(f"{a}.attn.in_proj_bias", f"{b}.attn.qkv.bias"),
        *both(f"{a}.attn.out_proj", f"{b}.attn.out"),
        *both(f"{a}.ln_2", f"{b}.norm2"),
        *both(f"{a}.mlp.c_fc", f"{b}.mlp.up"),
        *both(f"{a}.mlp.c_proj", f"{b}.mlp.down"),
        Rule(f"{a}.ls_1.gamma", f"{b}.scale1.gamma"),
        Rule(f"{a}.ls_2.gamma", f"{b}.scale2.gamma"),
    )


def _openai_text(prefix: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{prefix}token_embedding.weight", "text.token_embedding.weight"),
        Rule(f"{prefix}positional_embedding", "text.positions"),
        *_resblocks(f"{prefix}transformer", "text"),
        *both(f"{prefix}ln_final", "text.norm"),
    )


_SCALARS = (Rule("logit_scale", "logit_scale"), Rule("logit_bias", "logit_bias"))

_OPENAI_VIT = (
    Rule("visual.class_embedding", "image.class_token"),
    Rule("visual.positional_embedding", "image.positions"),
    Rule("visual.conv1.weight", "image.patch.weight"),
    *both("visual.ln_pre", "image.norm_pre"),
    *_resblocks("visual.transformer", "image"),
    *both("visual.ln_post", "image.norm"),
    Rule("visual.proj", "image.proj.weight", "transpose"),
)

_OPENAI_RESNET = (
    *(Rule(f"visual.conv{n}.weight", f"image.stem.conv{n}.weight") for n in (1, 2, 3)),
    *(rule for n in (1, 2, 3) for rule in both(f"visual.bn{n}", f"image.stem.norm{n}", NORM)),
    *(
        rule
        for s in range(4)
        for n in (1, 2, 3)
        for rule in (
            Rule(f"visual.layer{s + 1}.{{i}}.conv{n}.weight", f"image.stages.{s}.{{i}}.conv{n}.weight"),
            *both(f"visual.layer{s + 1}.{{i}}.bn{n}", f"image.stages.{s}.{{i}}.norm{n}", NORM),
        )
    ),
    *(
        rule
        for s in range(4)
        for rule in (
            Rule(f"visual.layer{s + 1}.{{i}}.downsample.0.weight", f"image.stages.{s}.{{i}}.shortcut.weight"),
            *both(f"visual.layer{s + 1}.{{i}}.downsample.1", f"image.stages.{s}.{{i}}.shortcut_norm", NORM),
        )
    ),
    Rule("visual.attnpool.positional_embedding", "image.head.positions"),
    *both("visual.attnpool.q_proj", "image.head.q"),
    *both("visual.attnpool.k_proj", "image.head.k"),
    *both("visual.attnpool.v_proj", "image.head.v"),
    *both("visual.attnpool.c_proj", "image.head.out"),
)

_TIMM_VIT = (
    Rule("visual.trunk.pos_embed", "image.positions", "table"),
    *both("visual.trunk.patch_embed.proj", "image.patch"),
    *both("visual.trunk.blocks.{i}.norm1", "image.blocks.{i}.norm1"),
    *both("visual.trunk.blocks.{i}.attn.qkv", "image.blocks.{i}.attn.qkv"),
    *both("visual.trunk.blocks.{i}.attn.proj", "image.blocks.{i}.attn.out"),
    *both("visual.trunk.blocks.{i}.norm2", "image.blocks.{i}.norm2"),
    *both("visual.trunk.blocks.{i}.mlp.fc1", "image.blocks.{i}.mlp.up"),
    *both("visual.trunk.blocks.{i}.mlp.fc2", "image.blocks.{i}.mlp.down"),
    *both("visual.trunk.norm", "image.norm"),
    Rule("visual.trunk.attn_pool.latent", "image.head.probe", "vector"),
    *both("visual.trunk.attn_pool.q", "image.head.q"),
    *both("visual.trunk.attn_pool.kv", "image.head.kv"),
    *both("visual.trunk.attn_pool.proj", "image.head.out"),
    *both("visual.trunk.attn_pool.norm", "image.head.norm"),
    *both("visual.trunk.attn_pool.mlp.fc1", "image.head.mlp.up"),
    *both("visual.trunk.attn_pool.mlp.fc2", "image.head.mlp.down"),
)

_TIMM_CONVNEXT = (
    *both("visual.trunk.stem.0", "image.stem.0"),
    *both("visual.trunk.stem.1", "image.stem.1"),
    *both("visual.trunk.stages.{i}.downsample.0", "image.downs.{i}.0"),
    *both("visual.trunk.stages.{i}.downsample.1", "image.downs.{i}.1"),
    Rule("visual.trunk.stages.{i}.blocks.{j}.gamma", "image.stages.{i}.{j}.gamma"),
    *both("visual.trunk.stages.{i}.blocks.{j}.conv_dw", "image.stages.{i}.{j}.depthwise"),
    *both("visual.trunk.stages.{i}.blocks.{j}.norm", "image.stages.{i}.{j}.norm"),
    *both("visual.trunk.stages.{i}.blocks.{j}.mlp.fc1", "image.stages.{i}.{j}.mlp.up"),
    *both("visual.trunk.stages.{i}.blocks.{j}.mlp.fc2", "image.stages.{i}.{j}.mlp.down"),
    *both("visual.trunk.head.norm", "image.norm"),
    *both("visual.head.proj", "image.proj"),
    *both("visual.head.mlp.fc1", "image.proj.0"),
    *both("visual.head.mlp.fc2", "image.proj.2"),
)


def _bert(theirs: str, ours: str) -> tuple[Rule, ...]:
    a, b = f"{theirs}encoder.layer.{{i}}", f"{ours}.blocks.{{i}}"
    heads = tuple(
        Rule(
            tuple(f"{a}.attention.self.{name}.{end}" for name in ("query", "key", "value")),
            f"{b}.attn.qkv.{end}",
        )
        for end in ("weight", "bias")
    )
    return (
        Rule(f"{theirs}embeddings.word_embeddings.weight", f"{ours}.token_embedding.weight"),
        Rule(f"{theirs}embeddings.position_embeddings.weight", f"{ours}.positions"),
        Rule(f"{theirs}embeddings.token_type_embeddings.weight", f"{ours}.token_type"),
        *both(f"{theirs}embeddings.LayerNorm", f"{ours}.norm_pre"),
        *heads,
        *both(f"{a}.attention.output.dense", f"{b}.attn.out"),
        *both(f"{a}.attention.output.LayerNorm", f"{b}.norm1"),
        *both(f"{a}.intermediate.dense", f"{b}.mlp.up"),
        *both(f"{a}.output.dense", f"{b}.mlp.down"),
        *both(f"{a}.output.LayerNorm", f"{b}.norm2"),
    )


def _hf_layers(theirs: str, ours: str) -> tuple[Rule, ...]:
    a, b = f"{theirs}.encoder.layers.{{i}}", f"{ours}.blocks.{{i}}"
    heads = tuple(
        Rule(tuple(f"{a}.self_attn.{name}_proj.{end}" for name in "qkv"), f"{b}.attn.qkv.{end}")
        for end in ("weight", "bias")
    )
    return (
        *heads,
        *both(f"{a}.self_attn.out_proj", f"{b}.attn.out"),
        *both(f"{a}.layer_norm1", f"{b}.norm1"),
        *both(f"{a}.layer_norm2", f"{b}.norm2"),
        *both(f"{a}.mlp.fc1", f"{b}.mlp.up"),
        *both(f"{a}.mlp.fc2", f"{b}.mlp.down"),
    )


_HF_TEXT = (
    Rule("text_model.embeddings.token_embedding.weight", "text.token_embedding.weight"),
    Rule("text_model.embeddings.position_embedding.weight", "text.positions"),
    *_hf_layers("text_model", "text"),
    *both("text_model.final_layer_norm", "text.norm"),
)
_HF_IMAGE = (
    *both("vision_model.embeddings.patch_embedding", "image.patch"),
    Rule("vision_model.embeddings.position_embedding.weight", "image.positions"),
    *_hf_layers("vision_model", "image"),
    *both("vision_model.post_layernorm", "image.norm"),
)

# OpenAI's archives keep some numbers among the weights; others keep buffers that any model makes itself.
_IGNORED = (
    "input_resolution",
    "context_length",
    "vocab_size",
    r"(visual\.|text\.)?attn_mask",
    r"text\.transformer\.embeddings\.position_ids",
    r"text\.transformer\.pooler\..*",
)

# A key that tells which table a tower is in, and the table.
_IMAGE_TABLES = (
    ("visual.class_embedding", _OPENAI_VIT),
    ("visual.attnpool.positional_embedding", _OPENAI_RESNET),
    ("visual.trunk.patch_embed.proj.weight", _TIMM_VIT),
    ("visual.trunk.stem.0.weight", _TIMM_CONVNEXT),
)
_TEXT_TABLES = (
    ("positional_embedding", (*_openai_text(""), Rule("text_projection", "text.proj.weight", "transpose"))),
    (
        "text.text_projection",
        (*_openai_text("text."), Rule("text.text_projection", "text.proj.weight", "transpose")),
    ),
    ("text.positional_embedding", (*_openai_text("text."), *both("text.text_projection", "text.proj"))),
    (
        "text.transformer.embeddings.word_embeddings.weight",
        (
            *_bert("text.transformer.", "text"),
            *both("text.proj.0", "text.proj.0"),
            *both("text.proj.2", "text.proj.2"),
            *both("text.proj", "text.proj"),
        ),
    ),
)


def open_clip_layout(keys: Collection[str]) -> Layout:
    """The table of an OpenAI or open_clip state dict: one of four image towers and one of four text towers.

    Raises:
        CheckpointError: a tower of another kind.
    """
    image = next((rules for key, rules in _IMAGE_TABLES if key in keys), None)
    text = next((rules for key, rules in _TEXT_TABLES if key in keys), None)
    if image is None or text is None:
        side = "image" if image is None else "text"
        raise CheckpointError(
            f"the file's {side} tower is of no kind that is supported yet, or the file is not whole: "
            "`binderclip models ls` shows what is"
        )
    plain = image in (_OPENAI_VIT, _OPENAI_RESNET) and text is _TEXT_TABLES[0][1]
    return Layout("OpenAI" if plain else "open_clip", (*_SCALARS, *text, *image), _IGNORED)


HF_CLIP = Layout(
    "Hugging Face CLIP",
    (
        Rule("logit_scale", "logit_scale"),
        *_HF_TEXT,
        Rule("text_projection.weight", "text.proj.weight"),
        Rule("vision_model.embeddings.class_embedding", "image.class_token"),
        *both("vision_model.pre_layrnorm", "image.norm_pre"),
        *_HF_IMAGE,
        Rule("visual_projection.weight", "image.proj.weight"),
    ),
    (r"(text|vision)_model\.embeddings\.position_ids",),
)

_HF_MAP = "vision_model.head"
HF_SIGLIP = Layout(
    "Hugging Face SigLIP",
    (
        Rule("logit_scale", "logit_scale", "scalar"),
        Rule("logit_bias", "logit_bias", "scalar"),
        *_HF_TEXT,
        *both("text_model.head", "text.proj"),
        *_HF_IMAGE,
        Rule(f"{_HF_MAP}.probe", "image.head.probe", "vector"),
        Rule(f"{_HF_MAP}.attention.in_proj_weight", ("image.head.q.weight", "image.head.kv.weight"), parts=(1, 2)),
        Rule(f"{_HF_MAP}.attention.in_proj_bias", ("image.head.q.bias", "image.head.kv.bias"), parts=(1, 2)),
        *both(f"{_HF_MAP}.attention.out_proj", "image.head.out"),
        *both(f"{_HF_MAP}.layernorm", "image.head.norm"),
        *both(f"{_HF_MAP}.mlp.fc1", "image.head.mlp.up"),
        *both(f"{_HF_MAP}.mlp.fc2", "image.head.mlp.down"),
    ),
    (r"(text|vision)_model\.embeddings\.position_ids",),
)
