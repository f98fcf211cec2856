"""The rules of the house, measured: sizes of files and functions, layers, documented public names.

Each function returns the places that break a rule, so that a test and `make check` say the same.
"""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "binderclip"

# Low to high. A file imports its own folder or a lower layer; the rooms are one layer and do not see each other.
LAYERS = [
    {"errors"},
    {"cards"},
    {"model"},
    {"data"},
    {"losses", "figures"},
    {"hub"},
    {"engine"},
    {
        "curate",
        "train",
        "continual",
        "adapt",
        "compress",
        "evaluate",
        "dense",
        "video",
        "audio",
        "caption",
        "generate",
        "search",
    },
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
ROOMS = LAYERS[-3]
#: Modules that must import without torch, scikit-learn, transformers, lancedb, onnx or pyarrow, by name or folder.
LIGHT = ("errors", "cards", "engine", "search", "cli", "data", "hub.embedded", "model.tokenizer", "model.preprocess")
HEAVY = {"torch", "sklearn", "transformers", "lancedb", "onnx", "pyarrow", "skimage", "openvino", "matplotlib"}

MEDIAN, P90, MOST, FUNCTION = 150, 320, 500, 100


def sources() -> list[Path]:
    """Every source file of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """Dotted name below the package: ``search.store``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def size_faults() -> list[str]:
    """Files and functions that are too long, and the package's median and 90th percentile."""
    lines = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources() if path.name != "__init__.py"
    }
    ordered = sorted(lines.values())
    p90 = ordered[int(0.9 * (len(ordered) - 1))]
    faults = [f"{path.relative_to(ROOT)}: {n} lines, over {MOST}" for path, n in lines.items() if n > MOST]
    if statistics.median(ordered) > MEDIAN:
        faults.append(f"median of {statistics.median(ordered)} lines a file, over {MEDIAN}")
    if p90 > P90:
        faults.append(f"90th percentile of {p90} lines a file, over {P90}")
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION:
                    faults.append(
                        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines, over {FUNCTION}"
                    )
    return faults


def imports_of(tree: ast.Module, *, top_only: bool = False) -> list[tuple[int, str]]:
    """Line and dotted name of each import; ``top_only`` leaves out those inside functions and TYPE_CHECKING."""
    nodes = tree.body if top_only else list(ast.walk(tree))
    found: list[tuple[int, str]] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, "." * node.level + (node.module or "")))
    return found


def layer_faults() -> list[str]:
    """Imports that go up, sideways between rooms, or are relative."""
    faults = []
    for path in sources():
        own = module_of(path).split(".")[0]
        if own == "":
            continue  # the package's front door names everything, lazily
        for line, name in imports_of(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.relative_to(ROOT)}:{line}"
            if name.startswith("."):
                faults.append(f"{where}: relative import; write it in full")
            if not name.startswith("binderclip."):
                continue
            other = name.split(".")[1]
            if other == own:
                continue
            if other not in RANK or own not in RANK:
                faults.append(f"{where}: {own} or {other} has no layer; add it to tools/house.py")
            elif RANK[other] >= RANK[own]:
                faults.append(f"{where}: {own} imports {other}, which is not below it")
    return faults


def heavy_faults() -> list[str]:
    """Light modules that import something heavy while they are imported."""
    faults = []
    for path in sources():
        module = module_of(path)
        if not any(module == light or module.startswith(light + ".") for light in LIGHT) or path.stem.startswith(
            "torch_"
        ):
            continue
        for line, name in imports_of(ast.parse(path.read_text(encoding="utf-8")), top_only=True):
            if name.split(".")[0] in HEAVY:
                faults.append(f"{path.relative_to(ROOT)}:{line}: imports {name} at the top")
    return faults


def documentation_faults() -> list[str]:
    """Names in ``__all__`` without a docstring of their own (constants need a ``#:`` comment or a docstring's mention)."""
    faults = []
    for path in sources():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        if not ast.get_docstring(tree):
            faults.append(f"{path.relative_to(ROOT)}: no docstring")
        defined = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)}
        faults += [
            f"{path.relative_to(ROOT)}:{defined[name].lineno}: {name} is public and has no docstring"
            for name in exported(tree)
            if name in defined and not ast.get_docstring(defined[name])
        ]
    return faults


def exported(tree: ast.Module) -> list[str]:
    """The names of ``__all__``."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return []


RULES = {
    "sizes": size_faults,
    "layers": layer_faults,
    "light imports": heavy_faults,
    "documentation": documentation_faults,
}
