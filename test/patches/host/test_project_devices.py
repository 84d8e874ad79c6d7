"""Devices of projects in a user's checkout."""

import ast
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anybev import envs
from anybev.patches.host import patch_project_devices
from anybev.patches.host.patch_project_devices import grid_mask, reference_points


@pytest.fixture(scope="module")
def projects() -> Path:
    folder = envs.mmdet3d_source()
    if folder is None:
        pytest.skip("no checkout of mmdetection3d: set ANYBEV_MMDET3D_SRC to one")
    return folder / "projects"


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize(
    "options",
    [{}, {"rotate": 40}, {"mode": 1, "offset": True}, {"use_h": False}, {"training": False}],
)
def test_grid_mask_is_petrs(
    projects: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    file = projects / "PETR/petr/grid_mask.py"
    spec = importlib.util.spec_from_file_location("petr_grid_mask", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    original = module.GridMask.forward
    options = {"use_h": True, "use_w": True, "rotate": 1, "ratio": 0.5, "mode": 0} | options
    made = module.GridMask(**{k: v for k, v in options.items() if k != "training"})
    made.train(options.get("training", True))
    pictures = torch.rand(2, 3, 20, 30, requires_grad=True)

    np.random.seed(4)
    actual = grid_mask(original)(made, pictures)
    assert type(actual) is Tensor
    actual.sum().backward()
    monkeypatch.setattr(Tensor, "cuda", lambda self: self)
    np.random.seed(4)
    assert torch.equal(original(made, pictures), actual)
    if options.get("training", True):
        assert (actual == 0).any() or options["mode"] == 1


def test_reference_points_are_made_on_the_cpu_unless_asked() -> None:
    def original(H, W, Z=8, n=4, dim="3d", bs=1, device="cuda", dtype=torch.float) -> Tensor:
        return torch.zeros(H, W, device=device, dtype=dtype)

    made = reference_points(original)
    assert made(2, 3).device.type == "cpu"
    assert made(2, 3, 8, 4, "3d", 1, "meta").device.type == "meta"
    assert made(2, 3, device="meta", dtype=torch.half).device.type == "meta"


def test_position_of_the_device_is_tpvformers(projects: Path) -> None:
    tree = ast.parse((projects / "TPVFormer/tpvformer/tpvformer_encoder.py").read_text())
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    found = SimpleNamespace(**{f.name: [a.arg for a in f.args.args] for f in functions})
    assert found.get_reference_points[patch_project_devices._DEVICE] == "device"
