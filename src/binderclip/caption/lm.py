"""The language model that a captioner writes with: any causal model by name, or a tiny one trained on the spot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.errors import CheckpointError, InputError, NeedsExtraError, OfflineError

__all__ = ["LanguageModel"]

SPECIALS = ("<pad>", "<bos>", "<eos>")


class LanguageModel:
    """A causal language model of transformers behind few calls; methods never touch a class of its own.

    Args:
        model: a ``...ForCausalLM``.
        encode: text -> ids, without special tokens.
        decode: ids -> text.
        pad_id: of padding.
        bos_id: before a text.
        eos_id: behind one.
    """

    def __init__(
        self,
        model: Any,
        encode: Callable[[str], list[int]],
        decode: Callable[[list[int]], str],
        *,
        pad_id: int,
        bos_id: int,
        eos_id: int,
    ) -> None:
        self.model, self.encode, self.decode = model, encode, decode
        self.pad_id, self.bos_id, self.eos_id = pad_id, bos_id, eos_id
        self.dim = int(model.get_input_embeddings().weight.shape[1])
        self.vocab_size = int(model.get_input_embeddings().weight.shape[0])
        self.max_len = int(getattr(model.config, "max_position_embeddings", 1 << 30))

    # -- where it comes from -------------------------------------------------------------------------------------

    @classmethod
    def load(cls, name: str, *, freeze: bool = True) -> LanguageModel:
        """A model of Hugging Face, by name or folder (extra ``hf``), or a folder that `save` wrote.

        Raises:
            OfflineError: a name that is not on this machine, and no network.
            NeedsExtraError: transformers is not installed.
        """
        transformers = _transformers()
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(name)
            tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise OfflineError(f"no language model can be loaded from {name!r}: {first}") from None
        eos = tokenizer.eos_token_id
        if eos is None:
            raise CheckpointError(f"{name!r} has no end token: choose a causal language model")
        pad = eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        bos = eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        made = cls(
            model.eval(),
            lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]),
            lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
            pad_id=pad,
            bos_id=bos,
            eos_id=eos,
        )
        if freeze:
            model.requires_grad_(False)
        made._tokenizer = tokenizer
        return made

    @classmethod
    def tiny(
        cls,
        texts: Sequence[str],
        *,
        vocab_size: int = 2000,
        dim: int = 128,
        layers: int = 3,
        heads: int = 4,
        max_len: int = 128,
        seed: int = 0,
    ) -> LanguageModel:
        """A byte-level BPE learnt from texts and a small random GPT-2; `pretrain` makes something of it.

        Raises:
            InputError: no texts.
            NeedsExtraError: transformers is not installed.
        """
        if not texts:
            raise InputError("a language model learns from texts: give at least one")
        transformers = _transformers()
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        rust = Tokenizer(models.BPE())
        rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        rust.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        rust.train_from_iterator(
            texts,
            trainers.BpeTrainer(
                vocab_size=vocab_size, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
            ),
        )
        torch.manual_seed(seed)
        config = transformers.GPT2Config(
            vocab_size=rust.get_vocab_size(),
            n_positions=max_len,
            n_embd=dim,
            n_layer=layers,
            n_head=heads,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        model = transformers.GPT2LMHeadModel(config).eval()
        made = cls(
            model,
            lambda text: list(rust.encode(text).ids),
            lambda ids: str(rust.decode(ids, skip_special_tokens=True)),
            pad_id=0,
            bos_id=1,
            eos_id=2,
        )
        made._tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=rust, **dict(zip(("pad_token", "bos_token", "eos_token"), SPECIALS, strict=True))
        )
        return made

    def save(self, folder: Path) -> Path:
        """As safetensors and tokenizer.json, in the layout that `load` reads."""
        self.model.save_pretrained(folder, safe_serialization=True)
        self._tokenizer.save_pretrained(folder)
        return folder

    _tokenizer: Any = None

    # -- learning ------------------------------------------------------------------------------------------------

    def ids(self, texts: Sequence[str], *, bos: bool = True) -> Tensor:
        """Padded ids ``[B, L]``: begin, text, end.

        Raises:
            InputError: a text longer than the model's positions.
        """
        rows = [[*([self.bos_id] if bos else []), *self.encode(text), self.eos_id] for text in texts]
        longest = max((len(row) for row in rows), default=0)
        if longest > self.max_len:
            raise InputError(f"a text of {longest} tokens is longer than this model's {self.max_len}: cut it")
        out = torch.full((len(rows), longest), self.pad_id)
        for i, row in enumerate(rows):
            out[i, : len(row)] = torch.tensor(row)
        return out

    def pretrain(
        self,
        texts: Sequence[str],
        *,
        steps: int = 1500,
        batch: int = 64,
        lr: float = 1e-3,
        seed: int = 0,
        on_step: Callable[[int, float], None] = lambda step, loss: None,
    ) -> float:
        """Plain next-token cross-entropy; the last loss. Rows are drawn with `seed`."""
        generator = torch.Generator().manual_seed(seed)
        every = [self.ids([text])[0] for text in texts]
        optimiser = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=0.01)
        self.model.train()
        value = float("nan")
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = lr * min(1.0, (step + 1) / 50) * (1 - step / steps)
            rows = [every[int(i)] for i in torch.randint(len(every), (batch,), generator=generator)]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
            loss = self.loss(None, ids)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimiser.step()
            value = float(loss.detach())
            on_step(step, value)
        self.model.eval()
        return value

    # -- using ---------------------------------------------------------------------------------------------------

    def embed(self, ids: Tensor) -> Tensor:
        """``[B, L] -> [B, L, C]``."""
        out: Tensor = self.model.get_input_embeddings()(ids)
        return out

    def logits(self, prefix: Tensor | None, ids: Tensor) -> Tensor:
        """``[B, P + L, V]`` of a prefix ``[B, P, C]`` (or none) and ids ``[B, L]``; padding is hidden."""
        words = self.embed(ids)
        mask = (ids != self.pad_id).long()
        if prefix is not None:
            words = torch.cat([prefix, words], dim=1)
            mask = torch.cat([mask.new_ones(prefix.shape[:2]), mask], dim=1)
        if words.shape[1] > self.max_len:
            raise InputError(f"prefix and text are {words.shape[1]} long, and this model has {self.max_len} positions")
        out: Tensor = self.model(inputs_embeds=words, attention_mask=mask).logits
        return out

    def loss(self, prefix: Tensor | None, ids: Tensor) -> Tensor:
        """Mean cross-entropy of the next token over ids ``[B, L]``, padding left out; the end token counts."""
        logits = self.logits(prefix, ids)
        skip = 0 if prefix is None else prefix.shape[1]
        if skip:  # the last token of the prefix foretells the first of the text
            return _cross_entropy(logits[:, skip - 1 : -1], ids, self.pad_id)
        return _cross_entropy(logits[:, :-1], ids[:, 1:], self.pad_id)

    @torch.no_grad()
    def generate(
        self,
        prefix: Tensor | None = None,
        *,
        prompt_ids: Tensor | None = None,
        processors: Sequence[Any] = (),
        num_beams: int = 1,
        do_sample: bool = False,
        top_p: float = 1.0,
        max_new_tokens: int = 40,
        length_penalty: float = 1.0,
        num_return: int = 1,
        seed: int | None = None,
    ) -> list[list[str]]:
        """Texts, `num_return` for each row, by transformers' ``generate``: greedy, beams or sampling.

        Args:
            prefix: ``[B, P, C]``.
            prompt_ids: ``[B, L]`` behind the prefix; one begin token where there is neither.
            processors: `LogitsProcessor` objects; with a prefix their ``input_ids`` start empty.
            num_beams: 1 for greedy.
            do_sample: draw.
            top_p: share of the probability that is drawn from.
            max_new_tokens: at most.
            length_penalty: of beams.
            num_return: texts a row.
            seed: of the draws.
        """
        rows = self.generate_ids(
            prefix,
            prompt_ids=prompt_ids,
            processors=processors,
            num_beams=num_beams,
            do_sample=do_sample,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            length_penalty=length_penalty,
            num_return=num_return,
            seed=seed,
        )
        texts = [self.decode([t for t in row if t not in (self.pad_id, self.eos_id)]).strip() for row in rows]
        return [texts[i : i + num_return] for i in range(0, len(texts), num_return)]

    @torch.no_grad()
    def generate_ids(self, prefix: Tensor | None = None, **options: Any) -> list[list[int]]:
        """New ids alone, one list a text: what `generate` decodes."""
        from transformers import LogitsProcessorList

        prompt = options.pop("prompt_ids", None)
        processors, seed = options.pop("processors", ()), options.pop("seed", None)
        options["num_return_sequences"] = options.pop("num_return", 1)
        if not options.get("do_sample"):
            options.pop("top_p", None)
        if options.get("num_beams", 1) == 1:
            options.pop("length_penalty", None)
        inputs: dict[str, Any]
        if prefix is None:
            ids = torch.full((1, 1), self.bos_id) if prompt is None else prompt
            inputs, cut = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids.shape[1]
        else:
            words = prefix if prompt is None else torch.cat([prefix, self.embed(prompt)], dim=1)
            inputs, cut = {"inputs_embeds": words, "attention_mask": torch.ones(words.shape[:2]).long()}, 0
        if seed is not None:
            torch.manual_seed(seed)
        found = self.model.generate(
            **inputs,
            logits_processor=LogitsProcessorList(list(processors)),
            pad_token_id=self.pad_id,
            eos_token_id=self.eos_id,
            **options,
        )
        return [_until(row[cut:].tolist(), self.eos_id) for row in found]


def _until(ids: list[int], eos: int) -> list[int]:
    return ids[: ids.index(eos) + 1] if eos in ids else ids


def _cross_entropy(logits: Tensor, ids: Tensor, pad: int) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), ignore_index=pad)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise NeedsExtraError("writing captions", "hf") from None
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call] # ours are enough
    return transformers
