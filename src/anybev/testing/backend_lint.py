"""What only `device/` may know, names of backends and vendors' packages; and torch names in use.

Everything is read from the syntax tree, so a docstring or a comment that mentions cuda is no find.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

import anybev

ROOT = Path(anybev.__file__).resolve().parents[2]
#: Product code; `anybev.testing` simulates devices and may name them.
FOLDERS = (
    "benchmark",
    "configs",
    "datasets",
    "device",
    "engine",
    "evaluation",
    "models",
    "patches",
    "reporting",
    "tools",
)
VENDORS = ("torch_npu", "mx_driving")
_WORDS = ("cuda", "npu", "nccl", "hccl")
_ATTRIBUTES = ("is_cuda", "is_npu")
_METHODS = ("cuda", "npu")
_IMPORTERS = ("import_module", "find_spec", "__import__")
# Attributes of tensors that other objects of ours have too, and tensors of ours are not asked for.
_NOT_OF_TENSORS = ("index", "name", "names")
_UPSTREAM = "names upstream's own branch for this device"
#: Files outside of `device/` that may name a backend, and why.
ALLOWED = {
    "benchmark/ops/peers.py": "spconv asks torch.cuda for a stream, also on the CPU",
    "patches/ext/boxes_rotated.py": _UPSTREAM,
    "patches/host/patch_amp_wrapper.py": _UPSTREAM,
    "patches/host/patch_nms_rotated.py": _UPSTREAM,
    "patches/host/patch_points_in_boxes.py": _UPSTREAM,
    "patches/host/patch_spconv.py": "spconv's own kernels are for CUDA",
    "src/anybev/envs.py": "the words that a user may set",
    "tools/lower_triton.py": "triton's names of its targets",
}


@dataclass(frozen=True)
class Find:
    """A place and what is there.

    Attributes:
        file: below the repository's root.
        line: counted from 1.
        what: the word, ``.cuda()``, ``torch.cuda``, ``import torch_npu`` ...
    """

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


def product_files() -> list[Path]:
    """Python files of the product, without `anybev.testing`."""
    package = ROOT / "src" / "anybev"
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return sorted([*files, *package.glob("*.py")])


@cache
def _parse(path: Path) -> tuple[str, ast.Module]:
    file = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return str(file), ast.parse(path.read_text())


def _is_backend(text: object) -> bool:
    if not isinstance(text, str):
        return False
    word, _, index = text.partition(":")
    return word in _WORDS and (not index or index.isdigit())


def _dotted(node: ast.expr) -> str:
    """``a.b.c`` of an attribute chain over a name, else ""."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _backend_words(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and _is_backend(node.value):
        yield repr(node.value)
    elif isinstance(node, ast.Attribute):
        if _dotted(node) in ("torch.cuda", "torch.npu"):
            yield _dotted(node)
        elif node.attr in _ATTRIBUTES:
            yield f".{node.attr}"
    elif isinstance(node, ast.ImportFrom):
        names = [alias.name for alias in node.names]
        if node.module == "torch" and set(names) & set(_METHODS):
            yield f"from torch import {', '.join(names)}"
        elif f"{node.module}.".startswith(("torch.cuda.", "torch.npu.")):
            yield f"from {node.module} import"
    elif isinstance(node, ast.Import):
        for alias in node.names:
            if f"{alias.name}.".startswith(("torch.cuda.", "torch.npu.")):
                yield f"import {alias.name}"
    elif isinstance(node, ast.Call) and _last(node.func) in _METHODS:
        yield f".{_last(node.func)}()"


def backend_words(path: Path) -> list[Find]:
    """Places in a file that ask for a backend by name.

    Args:
        path: a Python file below the repository's root.
    """
    file, tree = _parse(path)
    return [
        Find(file, node.lineno, what)  # type: ignore[attr-defined] # statements and expressions
        for node in ast.walk(tree)
        for what in _backend_words(node)
    ]


def _last(node: ast.expr) -> str:
    """``c`` of ``a.b.c`` or of ``c``."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _vendor_in(node: ast.AST) -> str:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
    elif isinstance(node, ast.Call) and _last(node.func) in _IMPORTERS:
        names = [str(a.value) for a in node.args if isinstance(a, ast.Constant)]
    else:
        return ""
    return next((name for name in names if name.partition(".")[0] in VENDORS), "")


def vendor_imports(path: Path) -> list[Find]:
    """Places in a file that import a vendor's package, or name it as something to import.

    Those inside a function of `device/npu` are what is meant to be, and are left out.

    Args:
        path: a Python file below the repository's root.
    """
    file, tree = _parse(path)
    inside: set[ast.AST] = set()
    if file.startswith("device/npu/"):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        functions = (node for node in ast.walk(tree) if isinstance(node, kinds))
        inside = {child for function in functions for child in ast.walk(function)}
    return [
        Find(file, node.lineno, f"imports {name}")  # type: ignore[attr-defined]
        for node in ast.walk(tree)
        if node not in inside and (name := _vendor_in(node))
    ]


def _torch_aliases(tree: ast.Module) -> dict[str, str]:
    """Local name -> dotted torch name of every import in a file."""
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "torch":
                    aliases[alias.asname or "torch"] = alias.name if alias.asname else "torch"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return aliases


def _torch_name(node: ast.expr, aliases: Mapping[str, str]) -> str:
    head, _, rest = _dotted(node).partition(".")
    if head not in aliases:
        return ""
    name = f"{aliases[head]}.{rest}" if rest else aliases[head]
    # Operators of a namespace and devices of a plug-in are not torch's own.
    foreign = name.startswith(("torch.ops.", "torch.npu"))
    return "" if foreign or name == "torch" else name


def torch_names(path: Path) -> dict[str, int]:
    """Everything of torch's that a file uses, with a line.

    Dotted names (``torch.nn.functional.pad``), keyword arguments of calls (``torch.full dtype``)
    and attributes that the installed torch's tensors have (``Tensor.unflatten``): the last also
    where the object is something else.

    Args:
        path: a Python file below the repository's root.
    """
    tree = _parse(path)[1]
    aliases = _torch_aliases(tree)
    found = dict.fromkeys(aliases.values(), 1)
    found.pop("torch", None)
    inner: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := _torch_name(node.func, aliases)):
            for keyword in node.keywords:
                if keyword.arg:
                    found.setdefault(f"{name} {keyword.arg}", node.lineno)
        if not isinstance(node, ast.Attribute):
            continue
        inner.add(node.value)
        if node in inner:
            continue
        if name := _torch_name(node, aliases):
            found.setdefault(name, node.lineno)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not _torch_name(node, aliases):
            known = hasattr(torch.Tensor, node.attr) and node.attr not in _NOT_OF_TENSORS
            if known and not node.attr.startswith("__"):
                found.setdefault(f"Tensor.{node.attr}", node.lineno)
    return found
