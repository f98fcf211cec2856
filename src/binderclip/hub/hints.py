"""What published config files add to the weights: activation, heads, eps, preprocess and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from binderclip.errors import CheckpointError
from binderclip.model.preprocess import OPENAI_MEAN, OPENAI_STD

__all__ = ["Hints", "from_hf", "from_open_clip", "from_openai"]

Config = Mapping[str, Any]
_HALF = (0.5, 0.5, 0.5)
_HF_ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
# timm's SigLIP towers that were defined with the tanh approximation; the others are exact there.
_TIMM_TANH = ("vit_base_patch32_siglip", "vit_large_patch16_siglip_512", "vit_giantopt", "vit_so400m_patch16_siglip")
_ROBERTA = {"position_offset": 2, "pad_id": 1, "eps": 1e-5}
_ROBERTA_TOKENS = {"kind": "hf", "start": 0, "end": 2, "pad": 1, "clean": "whitespace"}
_BERT_TOKENS = {"kind": "hf", "start": 101, "end": 102, "pad": 0, "clean": "whitespace"}


@dataclass
class Hints:
    """What shapes do not tell.

    Attributes:
        towers: for ``image`` and ``text``, arguments of the towers.
        preprocess: fields of ``binderclip.model.preprocess.Preprocess`` but the size.
        tokenizer: as ``binderclip.model.tokenizer.Tokenizer.from_config`` takes it, but the context length.
    """

    towers: dict[str, dict[str, Any]] = field(default_factory=lambda: {"image": {}, "text": {}})
    preprocess: dict[str, Any] = field(default_factory=lambda: {"mean": list(OPENAI_MEAN), "std": list(OPENAI_STD)})
    tokenizer: dict[str, Any] = field(default_factory=lambda: {"kind": "clip_bpe"})


def from_openai(activation: str, image: str) -> Hints:
    """Of a bare OpenAI or open_clip state dict whose activation is known; ``image`` is the image tower's kind."""
    hints = Hints()
    hints.towers["text"]["activation"] = activation
    if image == "vit":
        hints.towers["image"]["activation"] = activation
    return hints


def from_open_clip(config: Config) -> Hints:
    """Of ``open_clip_config.json``: ``{"model_cfg": {...}, "preprocess_cfg": {...}}``.

    Raises:
        CheckpointError: a family that is not supported yet.
    """
    model = config.get("model_cfg", config)
    vision, text = model.get("vision_cfg"), model.get("text_cfg")
    if not isinstance(vision, Mapping) or not isinstance(text, Mapping):
        raise CheckpointError("open_clip_config.json states no 'vision_cfg' and 'text_cfg': fetch it again")
    if "multimodal_cfg" in model:
        raise CheckpointError("CoCa models are not supported yet: `binderclip models ls` shows what is")
    quick = "quick_gelu" if model.get("quick_gelu") else "gelu"
    hints = Hints()
    hints.towers = {"image": _open_clip_image(vision, quick), "text": _open_clip_text(text, quick)}
    hints.tokenizer = _open_clip_tokenizer(text)
    given = config.get("preprocess_cfg") or {}
    for name in ("mean", "std", "interpolation", "resize_mode"):
        if given.get(name) is not None:
            hints.preprocess[name] = given[name]
    return hints


def _open_clip_image(vision: Config, activation: str) -> dict[str, Any]:
    size = vision.get("image_size", 224)
    size = size[0] if isinstance(size, (list, tuple)) else size
    timm = str(vision.get("timm_model_name") or "")
    if timm.startswith("convnext"):
        return {"image_size": size, "eps": 1e-5 if "xxlarge" in timm else 1e-6}
    if timm.startswith("vit_") and "siglip" in timm:
        return {"image_size": size, "eps": 1e-6, "activation": "gelu_tanh" if timm.startswith(_TIMM_TANH) else "gelu"}
    odd = [k for k in ("attentional_pool", "final_ln_after_pool", "pos_embed_type", "block_type") if vision.get(k)]
    if timm or (odd and vision.get(odd[0]) != "learnable"):
        raise CheckpointError(
            f"the image tower {timm or odd[0]!r} is not supported yet: `binderclip models ls` shows what is"
        )
    if isinstance(vision.get("layers"), (list, tuple)):
        return {"image_size": size, "layers": list(vision["layers"])}
    width = vision.get("width", 768)
    hints = {
        "image_size": size,
        "activation": activation,
        "layers": vision.get("layers", 12),
        "heads": width // vision.get("head_width", 64),
    }
    return hints | ({"pool": "avg"} if vision.get("pool_type") == "avg" or vision.get("global_average_pool") else {})


def _open_clip_text(text: Config, activation: str) -> dict[str, Any]:
    name = text.get("hf_model_name")
    if name:
        pool = {"mean_pooler": "mean", None: "mean"}.get(text.get("hf_pooler_type"), "cls")
        family = _ROBERTA if "roberta" in name else {"eps": 1e-12, "pad_id": 0}
        if "roberta" not in name and "bert" not in name:
            raise CheckpointError(f"the text tower {name!r} is not supported yet: `binderclip models ls` shows what is")
        return {**family, "pool": pool}
    tanh = (text.get("act_kwargs") or {}).get("approximate") == "tanh"
    pools = {"argmax": "eos", "eos": "eos", "last": "last", "first": "first"}
    chosen = pools.get(text.get("pool_type", "argmax"))
    if chosen is None or text.get("embed_cls"):
        raise CheckpointError(
            "text towers with a class token are not supported yet: `binderclip models ls` shows what is"
        )
    return {
        "activation": "gelu_tanh" if tanh else activation,
        "layers": text.get("layers", 12),
        "heads": text.get("heads", 8),
        "causal": not text.get("no_causal_mask", False),
        "pool": chosen,
        "eps": (text.get("norm_kwargs") or {}).get("eps", 1e-5),
    }


def _open_clip_tokenizer(text: Config) -> dict[str, Any]:
    if text.get("hf_model_name"):
        return dict(_ROBERTA_TOKENS if "roberta" in text["hf_model_name"] else _BERT_TOKENS)
    if not text.get("hf_tokenizer_name"):
        return {"kind": "clip_bpe"}
    if (text.get("tokenizer_kwargs") or {}).get("clean") == "canonicalize":
        return _siglip_tokenizer(text.get("vocab_size", 32000))
    raise CheckpointError(f"the tokenizer {text['hf_tokenizer_name']!r} is not supported yet")


def _siglip_tokenizer(vocab: int) -> dict[str, Any]:
    """SentencePiece vocabularies: an end token, no start, and rows filled up to the longest text with padding."""
    gemma = vocab == 256_000  # SigLIP 2
    return {"kind": "hf", "start": None, "end": 1, "pad": 0 if gemma else 1, "pad_to": "max", "clean": "canonical"}


def from_hf(config: Config, preprocessor: Config | None = None) -> Hints:
    """Of Hugging Face's ``config.json`` of a CLIP or SigLIP, and ``preprocessor_config.json``.

    Raises:
        CheckpointError: a family that is not supported yet.
    """
    family = config.get("model_type")
    if family not in ("clip", "siglip"):
        raise CheckpointError(f"models of type {family!r} are not supported yet: `binderclip models ls` shows what is")
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    siglip = family == "siglip"
    hints = Hints()
    hints.towers["image"] = _hf_tower(vision, siglip, 768)
    hints.towers["text"] = _hf_tower(text, siglip, 768 if siglip else 512)
    if vision.get("image_size"):
        hints.towers["image"]["image_size"] = vision["image_size"]
    if siglip:
        hints.towers["text"] |= {"causal": False, "pool": "last"}
        hints.tokenizer = _siglip_tokenizer(text.get("vocab_size", 32000))
        hints.preprocess = {"mean": list(_HALF), "std": list(_HALF), "resize_mode": "squash"}
    elif text.get("vocab_size", 49408) != 49408:
        end = text.get("eos_token_id", text["vocab_size"] - 1)
        hints.towers["text"]["eos_id"] = text["vocab_size"] - 1 if end == 2 or end >= text["vocab_size"] else end
        hints.tokenizer = {"kind": "hf", "start": text.get("bos_token_id"), "end": hints.towers["text"]["eos_id"]}
    _hf_preprocess(hints, preprocessor or {})
    return hints


def _hf_tower(config: Config, siglip: bool, width: int) -> dict[str, Any]:
    stated = config.get("hidden_act", "gelu_pytorch_tanh" if siglip else "quick_gelu")
    if stated not in _HF_ACTIVATIONS:
        raise CheckpointError(f"the activation {stated!r} is not supported yet")
    return {
        "activation": _HF_ACTIVATIONS[stated],
        "eps": config.get("layer_norm_eps", 1e-6 if siglip else 1e-5),
        "layers": config.get("num_hidden_layers", 12),
        "heads": config.get("num_attention_heads", 8 if width == 512 else 12),
    }


def _hf_preprocess(hints: Hints, given: Config) -> None:
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if given.get(theirs):
            hints.preprocess[ours] = list(given[theirs])
    if given.get("resample") in _RESAMPLE:
        hints.preprocess["interpolation"] = _RESAMPLE[given["resample"]]
