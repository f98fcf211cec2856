"""ONNX graphs without weights of their own, for running a checkpoint without torch.

Each initialiser is external data that points into ``model.safetensors``: file, offset, length, with a Cast to float32 behind
it where the file holds fp16, which ONNX Runtime folds away when a session is made. So there is one copy of the weights.
"""

from __future__ import annotations

import json
import struct
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.data.files import write_whole
from binderclip.errors import CheckpointError, NeedsExtraError, NeedsPartError
from binderclip.model.clip import CLIP

__all__ = ["export_onnx"]

WEIGHTS = "model.safetensors"
OPSET = 17


def export_onnx(clip: CLIP, folder: Path, *, tolerance: float = 1e-4) -> dict[str, float]:
    """Write ``image.onnx`` and ``text.onnx`` into a folder that ``binderclip.hub.native.save`` wrote.

    The graphs take any number of rows; the text graph any length up to the context. Each is run once and compared. A tower
    that the config says is another model's (``shares``) has no graph here.

    Args:
        clip: the model that is saved there.
        folder: with its ``model.safetensors``.
        tolerance: largest difference allowed between a unit vector of torch and of the graph.

    Returns:
        The largest difference of each tower.

    Raises:
        NeedsExtraError: the package ``onnx`` is missing.
        NeedsPartError: the checkpoint carries no preprocess or no tokenizer.
        CheckpointError: a graph does not give what torch gives.
    """
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise NeedsExtraError("exporting to ONNX", "export") from None
    if clip.preprocess is None or clip.tokenizer is None:
        raise NeedsPartError(
            f"{clip.name} has no {'tokenizer' if clip.preprocess else 'preprocess'}: it cannot be exported"
        )
    size = clip.preprocess.size
    numbers, eos = clip.tokenizer(["a photo of a dog", "dog", "a red dog"])
    ids, ends = torch.from_numpy(numbers), torch.from_numpy(eos)
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    worst = {}
    for name, module, inputs, axes in (
        ("image", _Image(clip), (pixels,), {"pixels": {0: "n"}}),
        ("text", _Text(clip), (ids, ends), {"ids": {0: "n", 1: "l"}, "eos": {0: "n"}}),
    ):
        if name in clip.config.get("shares", {}):  # its owner's graph serves
            continue
        graph = _trace(module, inputs, axes | {"embedding": {0: "n"}})
        fold_padding(graph, dict(zip(axes, inputs, strict=True)))
        point_into(graph, folder / WEIGHTS)
        write_whole(folder / f"{name}.onnx", graph.SerializeToString())
        worst[name] = _difference(folder / f"{name}.onnx", module, dict(zip(axes, inputs, strict=True)))
        if not worst[name] <= tolerance:
            (folder / f"{name}.onnx").unlink()
            raise CheckpointError(
                f"the exported {name} tower is off by {worst[name]:.2g}, over {tolerance:g}: run it in torch"
            )
    return worst


class _Image(nn.Module):
    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.image = clip.tower("image")

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.image(pixels).pooled, dim=-1)


class _Text(nn.Module):
    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.text = clip.tower("text")

    def forward(self, ids: Tensor, eos: Tensor) -> Tensor:
        return F.normalize(self.text(ids, eos=eos).pooled, dim=-1)


def _trace(module: nn.Module, inputs: tuple[Tensor, ...], axes: dict[str, dict[int, str]]) -> Any:
    import onnx

    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = Path(place) / "graph.onnx"
        torch.onnx.export(
            module.eval(),
            inputs,
            str(target),
            input_names=[name for name in axes if name != "embedding"],
            output_names=["embedding"],
            dynamic_axes=axes,
            dynamo=False,
            opset_version=OPSET,
            do_constant_folding=False,
            # Eval mode would melt batch norms into new weights, which are in no file; ONNX Runtime does that on opening.
            training=torch.onnx.TrainingMode.PRESERVE,
        )
        return onnx.load(str(target))


def fold_padding(graph: Any, inputs: dict[str, Tensor]) -> None:
    """Move each Pad into the Conv behind it, and drop the arithmetic of its amounts, which depend on the size alone.

    ONNX Runtime does not find this by itself behind the Casts, and convolutions are a third slower with Pads between.
    """
    import onnx
    import onnxruntime as ort

    users = {name: node for node in graph.graph.node for name in node.input}
    pads = [n for n in graph.graph.node if n.op_type == "Pad" and users[n.output[0]].op_type == "Conv"]
    if not pads:
        return
    asked = onnx.ModelProto()
    asked.CopyFrom(graph)
    asked.graph.output.extend(
        onnx.helper.make_tensor_value_info(n.input[1], onnx.TensorProto.INT64, None) for n in pads
    )
    session = ort.InferenceSession(asked.SerializeToString(), providers=["CPUExecutionProvider"])
    amounts = session.run([n.input[1] for n in pads], {name: tensor.numpy() for name, tensor in inputs.items()})
    for node, amount in zip(pads, amounts, strict=True):
        conv, (_, _, top, left, _, _, bottom, right) = users[node.output[0]], amount.tolist()
        kept = [a for a in conv.attribute if a.name not in ("pads", "auto_pad")]
        del conv.attribute[:]
        conv.attribute.extend([*kept, onnx.helper.make_attribute("pads", [top, left, bottom, right])])
        conv.input[0] = node.input[0]
    _drop_unused(graph)


def _drop_unused(graph: Any) -> None:
    """Remove nodes that no output needs."""
    needed, kept = {value.name for value in graph.graph.output}, []
    for node in reversed(graph.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    del graph.graph.node[:]
    graph.graph.node.extend(reversed(kept))


def point_into(graph: Any, weights: Path) -> int:
    """Replace every initialiser that a safetensors file holds by a reference into it; returns how many."""
    from onnx import TensorProto, helper

    kinds = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT, "I64": TensorProto.INT64}
    stored = safetensors_layout(weights)
    kept, casts, count = [], [], 0
    for tensor in graph.graph.initializer:
        if tensor.name not in stored or stored[tensor.name][0] not in kinds:
            kept.append(tensor)
            continue
        dtype, shape, offset, length = stored[tensor.name]
        outside = TensorProto(name=tensor.name, data_type=kinds[dtype], dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", weights.name), ("offset", str(offset)), ("length", str(length))):
            outside.external_data.add(key=key, value=value)
        if dtype == "F16":
            outside.name += ".stored"
            casts.append(
                helper.make_node(
                    "Cast", [outside.name], [tensor.name], name=f"{tensor.name}.cast", to=TensorProto.FLOAT
                )
            )
        kept.append(outside)
        count += 1
    nodes = [*casts, *graph.graph.node]
    for node in nodes:  # names of modules and files of the machine that built it
        node.doc_string = ""
        del node.metadata_props[:]
    del graph.graph.initializer[:], graph.graph.node[:]
    graph.graph.initializer.extend(kept)
    graph.graph.node.extend(nodes)
    return count


def safetensors_layout(path: Path) -> dict[str, tuple[str, list[int], int, int]]:
    """Tensor name -> dtype, shape, offset in the file, length in bytes."""
    with path.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(size))
    start = 8 + size
    return {
        name: (
            entry["dtype"],
            entry["shape"],
            start + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _difference(path: Path, module: nn.Module, inputs: dict[str, Tensor]) -> float:
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (got,) = session.run(["embedding"], {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.inference_mode():
        wanted = module(*inputs.values())
    return float((torch.from_numpy(got) - wanted).abs().max())
