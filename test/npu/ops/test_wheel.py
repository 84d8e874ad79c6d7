"""The contract of mx_driving's calls against the wheel that it was read from."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from anybev import envs
from anybev.testing.fake_mx_driving import Binding, contract

ROOT = Path(__file__).parents[3]


@pytest.fixture
def reader() -> ModuleType:
    """tools/mx_driving_contract.py."""
    spec = importlib.util.spec_from_file_location("r", ROOT / "tools/mx_driving_contract.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_contract_is_what_the_wheel_says(reader: ModuleType, wheel: Path | None) -> None:
    if wheel is None:
        pytest.skip("ANYBEV_MX_DRIVING_WHEEL names no wheel of mx_driving")
    assert reader.functions(wheel / "mx_driving") == contract()["functions"]
    if envs.mx_driving_wheel() == wheel:  # kernel tables are not unpacked for the other tests
        assert reader.dtypes(wheel / "mx_driving") == contract()["dtypes"]


def test_signatures_are_read_as_pybind_writes_them(reader: ModuleType) -> None:
    lines = (
        "_private(arg0: str) -> None\n"
        "pool(arg0: Optional[torch.Tensor], arg1: Tuple[int, ...], arg2: list[float]) -> tuple[int,"
        " torch.Tensor]\n"
        "named(index: torch.Tensor, scattered: bool = False) -> torch.Tensor\n"
    )
    assert reader.bindings(lines) == {
        "pool": {
            "arguments": ["Optional[Tensor]", "Tuple[int, ...]", "list[float]"],
            "returns": "tuple[int, Tensor]",
        },
        "named": {"arguments": ["Tensor", "bool"], "returns": "Tensor"},
    }


def test_functions_bound_to_apply_take_no_keywords() -> None:
    functions = contract()["functions"]
    assert not functions["voxelization"]["keywords"]
    assert not functions["ops.sparse_functional.indice_subm_conv"]["keywords"]
    assert functions["bev_pool_v3"]["keywords"]
    assert functions["box_iou_rotated"]["parameters"][-1] == ["clockwise", "True"]


def test_every_name_that_adapters_use_is_the_wheels(mx: Binding) -> None:
    found = set()
    for path in (ROOT / "device/npu/ops").glob("*.py"):
        text = path.read_text()
        for name in re.findall(r"vendor\(\)\.(\w+)", text):
            assert name in contract()["functions"]
            found.add(name)
        for name in re.findall(r"vendor_functional\(\)\.(\w+)", text):
            assert f"ops.sparse_functional.{name}" in contract()["functions"]
        for name in re.findall(r"\bnpu_\w+", text):
            assert name in contract()["bindings"] or name in contract()["functions"]
    assert len(found) == 9
    with pytest.raises(AttributeError, match=r"mx_driving\._C has no npu_bev_pool_v9"):
        mx.npu_bev_pool_v9  # noqa: B018 - looking it up is the test
