"""Every way to cuda raises, with the caller's line."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from anybev.device import get_backend
from anybev.testing.simnpu import CudaTrapError, trap_cuda


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("Tensor.cuda", lambda: torch.ones(2).cuda()),
        ("Tensor.cuda", lambda: torch.ones(2, device="npu").cuda(0)),
        ("Module.cuda", lambda: nn.Linear(2, 2).cuda()),
        ("Storage.cuda", lambda: torch.ones(2).untyped_storage().cuda()),
        ("torch.cuda.synchronize", lambda: torch.cuda.synchronize()),
        ("torch.cuda.set_device", lambda: torch.cuda.set_device(0)),
        ("torch.cuda.Stream", lambda: torch.cuda.Stream()),
        ("torch.cuda.Event", lambda: torch.cuda.Event()),
        ("torch.cuda.current_device", lambda: torch.cuda.current_device()),
        ("torch.cuda.empty_cache", lambda: torch.cuda.empty_cache()),
        ("torch.cuda.max_memory_allocated", lambda: torch.cuda.max_memory_allocated()),
        ("torch.cuda.get_rng_state", lambda: torch.cuda.get_rng_state()),
        ("device cuda", lambda: torch.zeros(2, device="cuda")),
        ("device cuda", lambda: torch.ones(2).to("cuda:1")),
        ("device cuda", lambda: torch.ones(2, device="npu").to(torch.device("cuda"))),
        ("device cuda", lambda: nn.Linear(2, 2).to("cuda")),
        (r"torch.autocast\('cuda'\)", lambda: torch.autocast("cuda")),
        (r"torch.autocast\('cuda'\)", lambda: torch.autocast(device_type="cuda")),
        (r"torch.amp.GradScaler\('cuda'\)", lambda: torch.amp.GradScaler("cuda")),
        (r"torch.amp.GradScaler\('cuda'\)", lambda: torch.amp.GradScaler()),
    ],
)
def test_it_snaps(name: str, use: Callable[[], object]) -> None:
    message = rf"^{name} must not be used where the device is npu, got a call at .*{__file__}:"
    with pytest.raises(CudaTrapError, match=f"{message}{use.__code__.co_firstlineno}$"):
        use()


def test_questions_are_answered() -> None:
    assert not torch.cuda.is_available()
    assert torch.cuda.device_count() == 0
    torch.manual_seed(0)  # seeds whatever devices there are
    assert get_backend("cuda").probe().devices == 0
    with torch.autocast("npu"), torch.autocast(device_type="cpu"):
        assert torch.is_autocast_enabled("npu")
    assert torch.amp.GradScaler(device="npu").is_enabled()


def test_setting_it_again_changes_nothing() -> None:
    trapped = torch.cuda.synchronize
    trap_cuda()
    assert torch.cuda.synchronize is trapped
