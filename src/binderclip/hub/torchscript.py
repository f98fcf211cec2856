"""Reading the weights of a TorchScript archive (OpenAI's files) without running anything in it.

Such a file is a zip: ``data.pkl`` describes a tree of modules, ``data/0``, ``data/1``, ... hold the numbers, and ``code/`` a
program. The program is never opened. The description is pickle opcodes: they are read one by one by the small machine
below, which knows how to make dicts, lists, tuples and tensors and nothing else. No name in it is ever imported or
called; a call of anything but torch's tensor rebuilding is an error.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from binderclip.errors import CheckpointError

__all__ = ["is_torchscript", "read_torchscript"]

_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_MOST_PICKLE = 64 << 20  # bytes of description; OpenAI's largest has under 1 MB


@dataclass(frozen=True)
class _Name:
    """A dotted name found in the description; it is never imported."""

    module: str
    name: str


@dataclass
class _Node:
    """A module of the tree: its attributes by name."""

    state: dict[str, Any] = field(default_factory=dict)


class _Mark:
    """Where a sequence on the stack begins."""


def is_torchscript(path: Path) -> bool:
    """Whether a file is a zip with a program in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name or name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Every tensor of the archive under its dotted name.

    Raises:
        CheckpointError: truncated, not such an archive, or a description that asks for more than tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            described = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
            if len(described) != 1:
                raise CheckpointError(f"{path.name} is a zip without weights: it is no TorchScript archive")
            if archive.getinfo(described[0]).file_size > _MOST_PICKLE:
                raise CheckpointError(f"{path.name}: its description is larger than any model's: it is not trusted")
            reader = _Reader(archive, described[0].rsplit("/", 1)[0])
            tree = reader.run(archive.read(described[0]))
            out: dict[str, Tensor] = {}
            _collect(tree, "", out, set())
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, OSError, KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path.name} is truncated or no TorchScript archive ({error}): fetch it again") from None
    if not out:
        raise CheckpointError(f"{path.name} holds no weights: it is no model's archive")
    return out


def _collect(value: Any, prefix: str, out: dict[str, Tensor], above: set[int]) -> None:
    """Tensors of a tree of modules, dicts among them."""
    if isinstance(value, Tensor):
        out[prefix] = value
    elif isinstance(value, (_Node, dict)):
        if id(value) in above:  # a module that holds itself
            return
        items = value.state if isinstance(value, _Node) else value
        for name, child in items.items():
            if isinstance(name, str):
                _collect(child, f"{prefix}.{name}" if prefix else name, out, above | {id(value)})


class _Reader:
    """A stack machine for the opcodes that describe modules and tensors."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive, self.root = archive, root
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Tensor] = {}

    def run(self, pickle: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(pickle):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _PUSHED:
                self.stack.append(argument if _PUSHED[name] is None else _PUSHED[name]())  # type: ignore[misc]
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            else:
                raise CheckpointError(f"the archive's description uses {name}, which no model needs: it is not trusted")
        raise ValueError("the description does not end")

    def above_mark(self) -> list[Any]:
        """Take everything down to the last mark off the stack."""
        at = max(i for i, value in enumerate(self.stack) if isinstance(value, _Mark))
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def tuple_of(self, count: int) -> None:
        """Make the topmost values one tuple."""
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)

    def setitems(self) -> None:
        pairs = self.above_mark()
        self.stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))

    def setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][key] = value

    def append(self) -> None:
        value = self.stack.pop()
        self.stack[-1].append(value)

    def new(self) -> None:
        """An object of any class becomes an empty node."""
        del self.stack[-2:]
        self.stack.append(_Node())

    def build(self) -> None:
        state = self.stack.pop()
        node = self.stack[-1]
        if not isinstance(node, _Node) or not isinstance(state, dict):
            raise CheckpointError("the archive's description gives a state to what is no module: it is not trusted")
        node.state.update(state)

    def reduce(self) -> None:
        """A call: of tensor rebuilding or list typing only."""
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise CheckpointError("the archive's description calls what is no name: it is not trusted")
        if (name.module, name.name) == ("torch._utils", "_rebuild_tensor_v2"):
            self.stack.append(self.tensor(*arguments[:4]))
        elif (name.module, name.name) == ("torch._utils", "_rebuild_parameter"):
            self.stack.append(arguments[0])
        elif (name.module, name.name) == ("collections", "OrderedDict"):
            self.stack.append({})
        elif name.module == "torch.jit._pickle" and name.name.startswith(("build_", "restore_")):
            self.stack.append(arguments[0])
        else:
            raise CheckpointError(f"the archive wants to call {name.module}.{name.name}: it is not trusted")

    def tensor(self, storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if all(size) else 0
        if min((offset, *size, *stride), default=0) < 0 or (all(size) and last >= len(storage)):
            raise CheckpointError("a tensor of the archive reaches outside its storage: the file is broken")
        return storage.as_strided(size, stride, offset)

    def persistent(self) -> None:
        """``("storage", type, key, device, count)`` to its numbers."""
        kind, name, key, _, count = self.stack.pop()
        if kind != "storage" or not isinstance(name, _Name) or name.name not in _DTYPES:
            raise CheckpointError("the archive refers to something that is no storage: it is not trusted")
        if key not in self.storages:
            info = self.archive.getinfo(f"{self.root}/data/{key}")
            dtype = _DTYPES[name.name]
            if info.compress_type != zipfile.ZIP_STORED or info.file_size < count * dtype.itemsize:
                raise CheckpointError(f"storage {key} of the archive is shorter than it says: fetch the file again")
            numbers = bytearray(self.archive.read(info))
            self.storages[key] = torch.frombuffer(numbers, dtype=dtype, count=count) if count else torch.empty(0)
        self.stack.append(self.storages[key])


_PUSHED: dict[str, Callable[[], Any] | None] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": _Mark,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE")),
}

_ACTIONS: dict[str, Callable[[_Reader, Any], Any]] = {
    "PROTO": lambda r, a: None,
    "GLOBAL": lambda r, a: r.stack.append(_Name(*a.rsplit(" ", 1))),
    "BINPUT": lambda r, a: r.memo.__setitem__(a, r.stack[-1]),
    "LONG_BINPUT": lambda r, a: r.memo.__setitem__(a, r.stack[-1]),
    "BINGET": lambda r, a: r.stack.append(r.memo[a]),
    "LONG_BINGET": lambda r, a: r.stack.append(r.memo[a]),
    "TUPLE": lambda r, a: r.stack.append(tuple(r.above_mark())),
    "TUPLE1": lambda r, a: r.tuple_of(1),
    "TUPLE2": lambda r, a: r.tuple_of(2),
    "TUPLE3": lambda r, a: r.tuple_of(3),
    "SETITEMS": lambda r, a: r.setitems(),
    "SETITEM": lambda r, a: r.setitem(),
    "APPENDS": lambda r, a: (items := r.above_mark(), r.stack[-1].extend(items)),
    "APPEND": lambda r, a: r.append(),
    "NEWOBJ": lambda r, a: r.new(),
    "BUILD": lambda r, a: r.build(),
    "REDUCE": lambda r, a: r.reduce(),
    "BINPERSID": lambda r, a: r.persistent(),
}
