"""Write what calls into mx_driving must look like, read from a wheel of it.

    python tools/mx_driving_contract.py WHEEL --signatures FILE [--out FILE]

WHEEL is a wheel file or the folder it was unpacked into. Nothing of it is imported: signatures of
its Python layer come from the syntax tree, dtypes from the kernel tables that it carries. Those of
its binding exist only at run time; FILE has one a line, as pybind11 writes them into ``__doc__``,
printed where the binding loads (an Ascend machine, or one with a stub of CANN's libraries):

    python -c "import mx_driving._C as c; print(*(getattr(c, n).__doc__.splitlines()[0]
               for n in dir(c) if not n.startswith('__')), sep=chr(10))"

The default output is the contract that ``anybev.testing.fake_mx_driving`` checks calls against.
"""

import argparse
import ast
import hashlib
import json
import re
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "src/anybev/testing/fake_mx_driving/contract.json"
SOC = "ascend910b"
TABLES = "packages/vendors/customize/op_impl/ai_core/tbe/config"

# Binding -> kernel and, in the kernel's order of inputs, the binding's arguments. The wheel does
# not carry this; it is read off the sources of the binding.
KERNELS = {
    "dynamic_voxelization": ("DynamicVoxelization", [0]),
    "hard_voxelize": ("HardVoxelize", [0]),
    "nms3d": ("Nms3d", [0]),
    "npu_bev_pool_v3": ("BEVPoolV3", [0, 1, 2, 3, 4]),
    "npu_bev_pool_v3_backward": ("BEVPoolV3Grad", [0, 1, 2, 3, 4, 5]),
    "npu_box_iou_rotated": ("BoxIou", [0, 1]),
    "npu_draw_gaussian_to_heatmap": ("DrawGaussianToHeatmap", [0, 1, 2, 3]),
    "npu_dynamic_scatter": ("DynamicScatter", [0, 2, 3]),
    "npu_dynamic_scatter_grad": ("DynamicScatterGrad", [1, 2, 3, 4]),
    "npu_gaussian": ("Gaussian", [0]),
    "npu_points_in_box_all": ("PointsInBoxAll", [0, 1]),
    "npu_sparse_conv3d": ("SparseConv3d", [0]),
    "npu_sparse_conv3d_grad": ("SparseConv3dGrad", [2, 3, 4, 0, 1]),
    "npu_sparse_inverse_conv3d": ("SparseInverseConv3d", [0, 1, 2, 3]),
    "npu_sparse_matmul": ("SparseMatmul", [0, 1, 2, 3, 4]),
    "npu_subm_sparse_conv3d_grad_v2": ("SubmSparseConv3dGradV2", [0, 1, 2, 3]),
    "npu_subm_sparse_conv3d_v3": ("SubmSparseConv3dV3", [0, 1, 2, 3, 4, 5]),
    "point_to_voxel": ("PointToVoxel", [0]),
    "voxel_to_point": ("VoxelToPoint", [0]),
}


def bindings(text: str) -> dict[str, dict[str, list[str] | str]]:
    """Argument and return types of every function of the binding, from pybind11's lines."""
    found: dict[str, dict[str, list[str] | str]] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(\w+)\((.*)\) -> (.*)", line.strip())
        if not match or match[1].startswith("_"):
            continue
        kinds = re.findall(r"\w+: ((?:[^,\[]|\[[^\]]*\])+)", match[2])
        types = [kind.split(" = ")[0].strip().replace("torch.Tensor", "Tensor") for kind in kinds]
        found[match[1]] = {"arguments": types, "returns": match[3].replace("torch.", "")}
    return found


def _parameters(function: ast.FunctionDef, skip: int) -> list[list[str]]:
    names = [a.arg for a in function.args.args][skip:]
    defaults = [ast.unparse(d) for d in function.args.defaults]
    required = len(names) - len(defaults)
    return [[n] if i < required else [n, defaults[i - required]] for i, n in enumerate(names)]


def _module_functions(path: Path) -> dict[str, dict[str, Any]]:
    """Functions of one module, and names bound to ``Function.apply``, which takes no keywords."""
    tree = ast.parse(path.read_text())
    found: dict[str, dict[str, Any]] = {}
    forwards: dict[str, ast.FunctionDef] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = {"parameters": _parameters(node, 0), "keywords": True}
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name == "forward":
                    forwards[node.name] = part
        applied = isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute)
        if applied and node.value.attr == "apply" and isinstance(node.value.value, ast.Name):
            parameters = _parameters(forwards[node.value.value.id], 1)
            for target in node.targets:
                found[target.id] = {"parameters": parameters, "keywords": False}
    return found


def functions(package: Path) -> dict[str, dict[str, Any]]:
    """``module.function`` of the Python layer, with what ``mx_driving`` itself offers by name."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((package / "ops").glob("*.py")):
        if path.stem != "__init__":
            for name, what in _module_functions(path).items():
                found[f"ops.{path.stem}.{name}"] = what
    for node in ast.parse((package / "__init__.py").read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ops."):
            for alias in node.names:
                if what := found.get(f"{node.module}.{alias.name}"):
                    found[alias.name] = {**what, "module": node.module}
    return found


def dtypes(package: Path) -> dict[str, list[list[str]]]:
    """Of every kernel, input by input, the dtypes it takes; the i-th of each belong together."""
    file = package / TABLES / SOC / f"aic-{SOC}-ops-info.json"
    table = json.loads(file.read_text())
    found = {}
    for kernel, _ in KERNELS.values():
        inputs = sorted((k, v) for k, v in table[kernel].items() if k.startswith("input"))
        found[kernel] = [v["dtype"].split(",") for _, v in inputs]
    return dict(sorted(found.items()))


def contract(package: Path, wheel: dict[str, str], signatures: str) -> dict[str, Any]:
    """Everything, as it is written."""
    return {
        "wheel": wheel,
        "source": {
            "bindings": "pybind11 docstrings of mx_driving._C, printed where it loads",
            "functions": "syntax trees of mx_driving/ops/*.py",
            "dtypes": f"{TABLES}/{SOC}/aic-{SOC}-ops-info.json",
            "kernels": "sources of the binding, DrivingSDK e667017 (April 2026)",
        },
        "bindings": bindings(signatures),
        "functions": functions(package),
        "kernels": {name: list(what) for name, what in KERNELS.items()},
        "dtypes": dtypes(package),
    }


def layout(found: dict[str, Any]) -> str:
    """JSON with one entry of a section a line, so that a change of the wheel reads as a diff."""
    sections = []
    for name, section in found.items():
        rows = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in section.items()]
        sections.append(f"{json.dumps(name)}: {{\n" + ",\n".join(rows) + "\n}")
    return "{" + ",\n".join(sections) + "}\n"


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="write the contract of mx_driving's calls")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--signatures", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, about = args.wheel, {"file": args.wheel.name}
        if args.wheel.is_file():
            about["sha256"] = hashlib.sha256(args.wheel.read_bytes()).hexdigest()
            folder = Path(scratch)
            with zipfile.ZipFile(args.wheel) as archive:
                archive.extractall(folder)
        text = args.signatures.read_text()
        found = contract(folder / "mx_driving", about, text)
    args.out.write_text(layout(found))
    print(f"{len(found['bindings'])} bindings, {len(found['functions'])} functions -> {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
