"""No backend by name outside `device/`, no vendor at import, no torch API newer than 2.7."""

import subprocess
import sys
from pathlib import Path

import pytest

from anybev.testing.backend_lint import (
    ALLOWED,
    ROOT,
    backend_words,
    product_files,
    torch_names,
    vendor_imports,
)
from anybev.testing.torch_names import (
    Sources,
    read_names,
    unknown_names,
    used_names,
    verified,
)

_FILES = [(str(path.relative_to(ROOT)), path) for path in product_files()]


def _written(folder: Path, text: str) -> Path:
    path = folder / "sample.py"
    path.write_text(text)
    return path


def test_only_device_asks_for_a_backend_by_name() -> None:
    finds = [
        str(find)
        for file, path in _FILES
        if not file.startswith("device/") and file not in ALLOWED
        for find in backend_words(path)
    ]
    assert finds == [], "ask anybev.device.current_backend() and its capabilities"


@pytest.mark.parametrize("file", sorted(ALLOWED))
def test_what_is_allowed_is_still_needed(file: str) -> None:
    assert ALLOWED[file]
    assert backend_words(ROOT / file), f"{file} names no backend any more: take it off the list"


def test_vendors_are_imported_in_functions_of_device_npu_alone() -> None:
    assert [str(find) for _, path in _FILES for find in vendor_imports(path)] == []


@pytest.mark.parametrize(
    "text",
    [
        'device = "cuda"',
        'device = f"cuda:{rank}"',
        'x.to("npu:0")',
        'init_process_group("nccl")',
        'options = {"backend": "hccl"}',
        "model.cuda()",
        "model.npu()",
        "torch.cuda.synchronize()",
        "torch.npu.synchronize()",
        "if x.is_cuda: pass",
        "if x.is_npu: pass",
        "from torch import cuda",
        "from torch.cuda.amp import GradScaler",
        "import torch.cuda",
    ],
)
def test_a_backend_by_name_is_found(tmp_path: Path, text: str) -> None:
    assert len(backend_words(_written(tmp_path, text))) >= 1


@pytest.mark.parametrize(
    "text",
    [
        '"""Runs on cuda."""',
        "# model.cuda()",
        'raise ValueError("no cuda here")',
        "backend.cuda_library",
        "current_backend().synchronize()",
        'x = "cuda_kernels"',
    ],
)
def test_a_word_that_chooses_nothing_is_no_find(tmp_path: Path, text: str) -> None:
    assert backend_words(_written(tmp_path, text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import torch_npu",
        "import mx_driving.ops as ops",
        "from mx_driving import bev_pool_v3",
        "def f():\n    import torch_npu",
        'importlib.import_module("torch_npu")',
        'find_spec("mx_driving._C")',
    ],
)
def test_an_import_of_a_vendor_is_found(tmp_path: Path, text: str) -> None:
    assert len(vendor_imports(_written(tmp_path, text))) == 1


def test_importing_everything_imports_no_vendor() -> None:
    code = """
import importlib, pkgutil, sys, types

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch_npu", "mx_driving"):
            raise RuntimeError(f"{name} was imported")

sys.meta_path.insert(0, Refuse())
import anybev
SKIPPED = ("anybev.testing", "anybev.configs", "anybev.device.triton", "anybev._C")
for module in pkgutil.walk_packages(anybev.__path__, "anybev.", onerror=lambda name: None):
    if not module.name.startswith(SKIPPED) and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"torch_npu", "mx_driving"}, loaded
assert "anybev.device.npu.ops.bev_pool" in sys.modules
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_every_torch_name_in_use_was_found_in_torch_2_7() -> None:
    known = read_names()
    assert len(known) > 1000
    unknown = unknown_names(used_names(), known)
    assert unknown == {}, "not verified: see the head of src/anybev/testing/torch_names.py"


def test_names_keywords_and_methods_of_torch_are_read(tmp_path: Path) -> None:
    text = (
        "import torch\n"
        "import torch.distributed as dist\n"
        "from torch.nn import functional\n"
        "x = torch.zeros(3, dtype=torch.int8)\n"
        "y = functional.pad(x, (1, 1), value=2).unflatten(0, (1, 5))\n"
        "dist.all_reduce(y)\n"
        "torch.ops.anybev.bev_pool(y)\n"
    )
    assert set(torch_names(_written(tmp_path, text))) == {
        "torch.distributed",
        "torch.distributed.all_reduce",
        "torch.nn.functional",
        "torch.nn.functional.pad",
        "torch.nn.functional.pad value",
        "torch.zeros",
        "torch.zeros dtype",
        "torch.int8",
        "Tensor.unflatten",
    }


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """A torch of a few files."""
    init = "from math import inf\nfrom torch import nn\nfrom torch._tensor import Tensor\n"
    stub = "float8: int\nclass Base:\n    def norm(self, p: int) -> int: ...\n"
    files = {
        "torch/__init__.py": f"{init}if True:\n    from torch._C import *\n",
        "torch/_C/__init__.pyi": f"{stub}def add(a: int, *, alpha: int = 1) -> int: ...\n",
        "torch/_tensor.py": "import torch\nclass Tensor(torch._C.Base):\n"
        "    def backward(self): ...\n",
        "torch/nn/__init__.py": "from .modules import Linear as Linear\n",
        "torch/nn/modules.py": "class Linear:\n    def __init__(self, size, bias=True): ...\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Sources(tmp_path)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("torch.inf", True),
        ("torch.float8", True),
        ("torch.add", True),
        ("torch.nn", True),
        ("torch.nn.Linear", True),
        ("torch._tensor.Tensor.backward", True),
        ("torch._tensor.Tensor.norm", True),
        ("torch.accelerator", False),
        ("torch.nn.Quadratic", False),
        ("torch._tensor.Tensor.later", False),
    ],
)
def test_a_name_is_found_where_torch_defines_it(sources: Sources, name: str, known: bool) -> None:
    assert (sources.find(name) is not None) is known


def test_keywords_are_read_from_functions_and_constructors(sources: Sources) -> None:
    assert sources.keywords("torch.add") == "a alpha"
    assert sources.keywords("torch.nn.Linear") == "bias size"
    assert sources.keywords("torch._tensor.Tensor.norm") == "p"
    assert sources.keywords("torch.inf") == "*"


def test_names_that_are_not_known_keep_their_place(sources: Sources) -> None:
    used = {
        "torch.nn": "a.py:1",
        "torch.zeros": "a.py:2",
        "torch.add alpha": "b.py:1",
        "torch.add out": "b.py:2",
        "torch.float8 anything": "b.py:3",
        "Tensor.norm": "b.py:4",
        "Tensor.later": "b.py:5",
        "torch._C.Word": "c.py:1",
    }

    def unknown() -> dict[str, str]:
        names = {name.partition(" ")[0] for name in used}
        return unknown_names(used, verified(sources.folder, names))

    missing = {"torch.zeros": "a.py:2", "torch.add out": "b.py:2", "Tensor.later": "b.py:5"}
    assert unknown() == missing | {"torch._C.Word": "c.py:1"}
    binary = sources.folder / "torch" / "lib" / "libtorch_python.so"
    binary.parent.mkdir()
    binary.write_bytes(b"x\0Word\0zeros\0")
    assert unknown() == missing
