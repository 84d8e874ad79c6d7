import pytest
import torch


def test_devices_are_numbered_and_found() -> None:
    assert torch.accelerator.current_accelerator() == torch.device("npu")
    assert torch.accelerator.device_count() == 2
    assert torch.ones(2, device="npu:1").device == torch.device("npu", 1)
    with pytest.raises(RuntimeError, match=r"index must be in 0\.\.1, got 5"):
        torch.ones(2, device="npu:5")
