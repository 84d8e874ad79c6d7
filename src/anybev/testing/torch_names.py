"""Verifies the torch names that AnyBEV uses against the sources of the oldest release on an npu.

    pip download --no-deps --only-binary=:all: --python-version 3.11 torch==2.7.1
    unzip torch-2.7.1*.whl 'torch/*.py' 'torch/*.pyi' 'torch/lib/libtorch_python.*' -d FOLDER
    python -m anybev.testing.torch_names FOLDER

Any platform's wheel does (macosx_11_0_arm64's is the smallest): what is read is its Python, the
stubs of what is compiled, and of the binding the few words that no stub lists. Writes
``torch_2_7_names.txt``, a name and its keyword arguments a line, which a test compares with what is
in use; ends with status 1 and the names that are missing there.
"""

import ast
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path

import torch

from anybev.testing.backend_lint import product_files, torch_names

NAMES_FILE = Path(__file__).with_name("torch_2_7_names.txt")
_TENSOR = "torch._tensor.Tensor"
#: Whose names are verified whether or not they are used: new code then seldom asks for a renewal.
NAMESPACES = (
    "torch",
    "torch.amp",
    "torch.autograd",
    "torch.cuda",
    "torch.distributed",
    "torch.library",
    "torch.linalg",
    "torch.nn",
    "torch.nn.functional",
    "torch.nn.init",
    "torch.optim",
    "torch.utils.data",
)
# Chains of assignments and imports longer than this go in a circle.
_DEPTH = 12

Definition = ast.FunctionDef | ast.ClassDef | None


class Sources:
    """Python and stub files of an unpacked torch.

    Args:
        folder: that holds ``torch/__init__.py``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cache  # noqa: B019 - one object a run
    def trees(self, module: str) -> tuple[ast.Module, ...]:
        """Syntax trees of a module: source, stub or both; empty where there is no such module."""
        base = self.folder / module.replace(".", "/")
        names = (f"{base}.py", f"{base}.pyi", f"{base}/__init__.py", f"{base}/__init__.pyi")
        return tuple(ast.parse(Path(n).read_text()) for n in names if Path(n).is_file())

    def is_module(self, name: str) -> bool:
        """Whether there is a file or a package of that name."""
        return bool(self.trees(name)) or (self.folder / name.replace(".", "/")).is_dir()

    def find(self, name: str, depth: int = 0) -> list[Definition] | None:
        """What a dotted name is.

        Returns:
            Its functions (every overload) or classes; ``[None]`` for a module or a value that says
            no more about itself; None when there is no such name.
        """
        if depth > _DEPTH:
            return None
        if self.is_module(name):
            return [None]
        owner, _, attribute = name.rpartition(".")
        if not owner:
            return None
        if self.is_module(owner):
            return self._in_module(owner, attribute, depth)
        holders = self.find(owner, depth + 1)
        if holders is None:
            return None
        classes = [holder for holder in holders if isinstance(holder, ast.ClassDef)]
        if not classes:
            return [None]  # a value: nothing more is known about it
        return self._in_classes(owner, classes, attribute, depth)

    def _in_module(self, module: str, name: str, depth: int) -> list[Definition] | None:
        found: list[Definition] = []
        stars = []
        for tree in self.trees(module):
            for node in _statements(tree.body):
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
                    found.append(node)
                elif name in _assigned(node):
                    found.append(None)
                elif isinstance(node, ast.ImportFrom):
                    source = _absolute(module, node, self)
                    for alias in node.names:
                        if alias.name == "*":
                            stars.append(source)
                        elif (alias.asname or alias.name) == name:
                            found += self._imported(source, alias.name, depth)
        for source in stars:
            if not found and source != module and depth < _DEPTH:
                found += self._in_module(source, name, depth + 1) or []
        return found or None

    def _imported(self, source: str, name: str, depth: int) -> list[Definition]:
        if source.partition(".")[0] != "torch":
            return [None]  # another package's: ``from math import inf``
        return self.find(f"{source}.{name}", depth + 1) or []

    def _in_classes(
        self, owner: str, classes: list[ast.ClassDef], name: str, depth: int
    ) -> list[Definition] | None:
        found: list[Definition] = []
        for holder in classes:
            for node in _statements(holder.body):
                if isinstance(node, ast.FunctionDef) and node.name == name:
                    found.append(node)
                elif name in _assigned(node):
                    found.append(None)
            if found:
                continue
            for base in holder.bases:
                text = ast.unparse(base).partition("[")[0]
                module = owner.rpartition(".")[0]
                full = text if text.startswith("torch.") else f"{module}.{text}"
                found += self.find(f"{full}.{name}", depth + 1) or []
        return found or None

    @cached_property
    def _binary(self) -> bytes:
        files = sorted((self.folder / "torch" / "lib").glob("libtorch_python.*"))
        return files[0].read_bytes() if files else b""

    def compiled(self, name: str) -> bool:
        """Whether torch's binding, where it was unpacked, holds the last part of a name."""
        inside = name.startswith("torch._C.")
        return inside and f"\0{name.rpartition('.')[2]}\0".encode() in self._binary

    def keywords(self, name: str) -> str:
        """Keyword arguments of a function or of a class's constructor, ``*`` where any may be."""
        signatures: list[Definition] = []
        for definition in self.find(name) or []:
            if isinstance(definition, ast.ClassDef):
                signatures += self.find(f"{name}.__init__") or [None]
                signatures += self.find(f"{name}.__new__") or []
            else:
                signatures.append(definition)
        words: set[str] = set()
        for signature in signatures:
            if not isinstance(signature, ast.FunctionDef) or signature.args.kwarg:
                return "*"  # a value, compiled without a stub, or a function that takes all
            words |= {a.arg for a in (*signature.args.args, *signature.args.kwonlyargs)}
        return " ".join(sorted(words - {"self"}))


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a body, those below `if`, `try` and `with` included."""
    for node in body:
        yield node
        for field in ("body", "orelse", "finalbody"):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                yield from _statements(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            yield from _statements(handler.body)


def _assigned(node: ast.stmt) -> set[str]:
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    names = set()
    for target in targets:
        parts = target.elts if isinstance(target, ast.Tuple) else [target]
        names |= {part.id for part in parts if isinstance(part, ast.Name)}
    if isinstance(node, ast.Import):
        names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return names


def _absolute(module: str, node: ast.ImportFrom, sources: Sources) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".")
    is_package = (sources.folder / module.replace(".", "/")).is_dir()
    kept = package[: len(package) - node.level + int(is_package)]
    return ".".join([*kept, *filter(None, [node.module])])


def used_names() -> dict[str, str]:
    """Names that the product uses, each with a place."""
    used: dict[str, str] = {}
    for path in product_files():
        for name, line in torch_names(path).items():
            used.setdefault(name, f"{path.name}:{line}")
    return used


def common_names() -> list[str]:
    """Public names of the installed torch in the namespaces that product code draws from."""
    found = [f"Tensor.{name}" for name in dir(torch.Tensor)]
    for namespace in NAMESPACES:
        module = importlib.import_module(namespace)
        found += [f"{namespace}.{name}" for name in dir(module)]
    return [name for name in found if not name.rpartition(".")[2].startswith("_")]


def _full(dotted: str) -> str:
    return dotted.replace("Tensor.", f"{_TENSOR}.", 1) if dotted[0] == "T" else dotted


def verified(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Those of ``names`` that the torch unpacked in ``folder`` has, with their keywords."""
    sources = Sources(folder)
    known = {}
    for name in names:
        full = _full(name)
        if sources.find(full) is not None:
            known[name] = sources.keywords(full)
        elif sources.compiled(full):
            known[name] = "*"
    return known


def unknown_names(used: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Those of ``used``, names and keywords, that ``known`` lacks, each with its place."""
    unknown = {}
    for name, place in used.items():
        dotted, _, keyword = name.partition(" ")
        words = known[dotted].split() if dotted in known else None
        if words is None or (keyword and keyword not in words and "*" not in words):
            unknown[name] = place
    return unknown


def read_names() -> dict[str, str]:
    """Name -> keywords, of the file."""
    lines = (line.partition(":") for line in NAMES_FILE.read_text().splitlines())
    return {name: words.strip() for name, _, words in lines}


def main(folder: Path) -> int:
    """Verify and write the file; the process's exit status."""
    if not (folder / "torch" / "__init__.py").is_file():
        raise SystemExit(f"torch_names: folder must hold torch/__init__.py, got {folder}")
    used = used_names()
    wanted = {name.partition(" ")[0] for name in used} | set(common_names())
    known = verified(folder, sorted(wanted))
    unknown = unknown_names(used, known)
    for name, place in sorted(unknown.items()):
        print(f"{place}: {name} is not in this torch")
    lines = (f"{name}: {words}" if words else name for name, words in sorted(known.items()))
    NAMES_FILE.write_text("".join(f"{line}\n" for line in lines))
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
