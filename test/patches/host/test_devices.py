"""The host on the device in use: where upstream insists on CUDA."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anybev import patches
from anybev.device import get_backend
from anybev.patches.host import patch_amp_wrapper, patch_get_device, patch_init_model

Function = Callable[..., Any]
Pair = Callable[[str], tuple[Function, Function]]

# What torch raises for a CUDA call, by how it was built.
_NO_CUDA = (AssertionError, AttributeError, RuntimeError)

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="what upstream does without CUDA")


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_BACKEND", "cpu")


@on_cpu
def test_device_is_upstreams_where_the_user_chooses_none(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANYBEV_BACKEND", raising=False)
    original, replacement = pair("mmengine-get-device")
    assert replacement() == original()


def test_user_chooses_the_device_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_get_device, "current_backend", lambda: get_backend("cpu"))
    assert patch_get_device.replace(lambda: "cuda")() == "cpu"
    monkeypatch.setattr(patch_get_device, "current_backend", lambda: get_backend("npu"))
    assert patch_get_device.replace(lambda: "cpu")() == "npu"
    assert patch_get_device.replace(lambda: "mps")() == "mps"


def test_modules_that_imported_get_device_have_the_patched_one(
    host: list[patches.Outcome],
) -> None:
    import mmengine.device
    import mmengine.runner.amp
    import mmengine.runner.runner

    assert mmengine.runner.runner.get_device is mmengine.device.get_device
    assert mmengine.runner.amp.get_device is mmengine.device.get_device


def test_autocast_of_the_host_switches_off_that_of_the_device(
    host: list[patches.Outcome], cpu: None
) -> None:
    from mmengine.runner import amp

    @amp.autocast(enabled=False)
    def product(a: Tensor) -> Tensor:
        return a @ a

    with torch.autocast("cpu", dtype=torch.bfloat16):
        a = torch.rand(3, 3)
        assert (a @ a).dtype == torch.bfloat16
        assert product(a).dtype == torch.float32
        with amp.autocast(enabled=False):
            assert (a @ a).dtype == torch.float32


def _optim_wrapper(init: Function, **options: Any) -> Any:
    from mmengine.optim import AmpOptimWrapper

    model = nn.Linear(4, 2)
    wrapper = AmpOptimWrapper.__new__(AmpOptimWrapper)
    init(wrapper, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **options)
    return wrapper, model


@on_cpu
def test_mixed_precision_trains_on_the_cpu(pair: Pair, cpu: None) -> None:
    original, replacement = pair("mmengine-amp-wrapper")
    with pytest.raises(AssertionError, match="only available training"):
        _optim_wrapper(original)
    wrapper, model = _optim_wrapper(
        replacement, dtype="bfloat16", clip_grad={"max_norm": 1.0}, accumulative_counts=1
    )
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        out = model(torch.ones(3, 4))
    assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().pow(2).sum())
    assert not torch.equal(model.weight, before)
    assert not wrapper.loss_scaler.is_enabled()
    state = wrapper.state_dict()
    wrapper.load_state_dict(state)
    assert wrapper.cast_dtype is torch.bfloat16


def test_mixed_precision_is_upstreams_where_upstream_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patch_amp_wrapper, "current_backend", lambda: get_backend("cuda"))
    asked: list[Any] = []
    patch_amp_wrapper.replace(lambda self, **kwargs: asked.append(kwargs))(None, dtype="float16")
    assert asked == [{"dtype": "float16"}]


@pytest.fixture
def one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What torchrun sets, for one process; the group is ended afterwards."""
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    yield {"init_method": f"file://{tmp_path}/group", "rank": 0, "world_size": 1}
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@on_cpu
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's DistributedDataParallel
def test_processes_start_and_train_on_the_cpu(
    pair: Pair, cpu: None, one_process: dict[str, Any]
) -> None:
    from mmengine.model import MMDistributedDataParallel

    original, replacement = pair("mmengine-init-dist")
    with pytest.raises(_NO_CUDA, match=r"(?i)cuda"):
        original("nccl", **one_process)
    replacement("nccl", **one_process)
    assert torch.distributed.get_backend() == "gloo"

    original, replacement = pair("mmengine-ddp-on-cpu")

    def wrapped(init: Function, **options: Any) -> Any:
        class Wrapper(MMDistributedDataParallel):
            __init__ = init

        return Wrapper(nn.Linear(2, 1), **options)

    with pytest.raises(ValueError, match="device_ids"):
        wrapped(original, device_ids=[0])
    model = wrapped(replacement, device_ids=[0], broadcast_buffers=False)
    model(torch.ones(3, 2)).sum().backward()
    assert torch.equal(model.module.weight.grad, torch.full((1, 2), 3.0))
    assert wrapped(replacement).device_ids is None


class Tiny(nn.Module):
    def __init__(self, train_cfg: Any = None) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


@on_cpu
def test_model_for_inference_goes_to_the_device_in_use(pair: Pair, cpu: None) -> None:
    from mmdet3d.registry import MODELS
    from mmengine.config import Config

    original, replacement = pair("mmdet3d-init-model")
    MODELS.register_module(module=Tiny, name="TinyOfTheTest", force=True)
    config = {"model": {"type": "TinyOfTheTest"}, "default_scope": "mmdet3d"}
    with pytest.raises(_NO_CUDA, match=r"(?i)cuda"):
        original(Config(config))
    for make in (replacement, lambda c: original(c, device="cpu")):
        with pytest.warns(UserWarning, match="CPU"):
            model = make(Config(config))
        assert model.layer.weight.device.type == "cpu"
        assert not model.training
    MODELS.module_dict.pop("TinyOfTheTest")


def test_a_device_with_an_index_is_set_on_its_own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    module = SimpleNamespace(set_device=asked.append)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    for device in ("cpu", "cuda", "cuda:1"):
        patch_init_model._set_device(device)
    assert asked == [torch.device("cuda:1")]
