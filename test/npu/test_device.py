"""The simulated npu behaves as an accelerator: devices, memory, autograd, precision, files."""

import io
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from anybev.device import current_backend
from anybev.testing import simnpu
from anybev.testing.tolerances import tolerances

NPU = torch.device("npu", 0)


def on_npu(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape).to(NPU)


def test_anybev_chooses_it() -> None:
    backend = current_backend()
    assert (backend.name, backend.probe().devices) == ("npu", 2)
    assert "simulated" in backend.probe().detail
    assert torch.accelerator.current_accelerator() == torch.device("npu")


def test_devices_are_numbered() -> None:
    assert torch.ones(2, device="npu:1").device == torch.device("npu", 1)
    with torch.npu.device(1):
        assert torch.ones(2, device="npu").device.index == torch.npu.current_device() == 1
    assert torch.npu.current_device() == 0
    with pytest.raises(RuntimeError, match=r"index must be in 0\.\.1, got 5"):
        torch.ones(2, device="npu:5")
    with pytest.raises(RuntimeError, match=r"devices must stay 2 once active, got 3"):
        simnpu.activate(devices=3)


@pytest.mark.parametrize("other", ["cpu", "npu:1"])
@pytest.mark.parametrize(
    "mix",
    [
        lambda a, b: a + b,
        lambda a, b: a @ b,
        lambda a, b: torch.cat([a, b]),
        lambda a, b: a.lerp_(b, 0.5),
        lambda a, b: nn.functional.conv2d(a[None, None], b[None, None, :1, :1]),
        lambda a, b: nn.functional.batch_norm(a, b[0], b[1]),
        lambda a, b: a.index_select(0, b[0].long().abs()),
        lambda a, b: torch.where(a > 0, a, b),
    ],
)
def test_devices_do_not_mix(other: str, mix: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        mix(on_npu(3, 3), on_npu(3, 3).to(other))


def test_copies_cross_devices() -> None:
    x = on_npu(3, 3)
    there = torch.zeros(3, 3, device="npu:1").copy_(x)
    assert there.device.index == 1
    assert torch.equal(torch.zeros(3, 3).copy_(there), x.cpu())


def test_numbers_of_the_host_mix() -> None:
    assert torch.equal((on_npu(4) * torch.tensor(2.0)).cpu(), on_npu(4).cpu() * 2)


def test_indices_of_the_host_select_rows() -> None:
    x = on_npu(4, 2)
    assert torch.equal(x[torch.tensor([2, 0])].cpu(), x.cpu()[[2, 0]])


def test_memory_of_the_device_is_not_the_host_s() -> None:
    x = on_npu(4)
    with pytest.raises(TypeError, match="can't convert npu:0 device type tensor to numpy"):
        x.numpy()
    assert x[0].item() == -1
    assert x.tolist() == pytest.approx(x.cpu().tolist())
    assert "device='npu:0'" in repr(x)


def test_memory_is_counted() -> None:
    backend = current_backend()
    backend.reset_peak_memory()
    before, kept = backend.peak_memory_mib(), torch.npu.memory_allocated()
    x = torch.empty(3, 2**18, device=NPU)
    assert torch.npu.memory_allocated() - kept == x.nbytes == 3 * 2**20
    del x
    assert torch.npu.memory_allocated() == kept
    assert backend.peak_memory_mib() == pytest.approx(before + 3)


def test_views_share_memory() -> None:
    x = on_npu(6)
    x.view(2, 3)[1, :2] = 7
    x.unfold(0, 2, 2)[0, 1] = 9
    x.as_strided((2,), (5,))[0] = 8
    assert torch.equal(x.cpu()[:5], torch.tensor([8.0, 9.0, x[2].item(), 7.0, 7.0]))
    x.resize_(9)
    assert x.shape == (9,)
    assert x[3] == 7


def test_random_numbers_come_from_the_device_s_generator() -> None:
    torch.manual_seed(3)
    host = torch.get_rng_state()
    first = [torch.rand(4, device=NPU), torch.randperm(9, device=NPU), on_npu(99).bernoulli(0.5)]
    dropped = nn.functional.dropout(on_npu(50), 0.5)
    assert torch.equal(torch.get_rng_state(), host)
    torch.manual_seed(3)
    again = [torch.rand(4, device=NPU), torch.randperm(9, device=NPU), on_npu(99).bernoulli(0.5)]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.cpu(), other.cpu())
    assert torch.equal(nn.functional.dropout(on_npu(50), 0.5).cpu(), dropped.cpu())
    state = current_backend().rng_state()
    value = torch.randn(3, device=NPU)
    current_backend().set_rng_state(state)
    assert torch.equal(torch.randn(3, device=NPU).cpu(), value.cpu())
    own = [torch.Generator("npu").manual_seed(5) for _ in range(2)]
    drawn = [torch.randn(3, device=NPU, generator=generator).cpu() for generator in own]
    assert torch.equal(*drawn)
    assert not torch.equal(torch.randn(3, device=NPU, generator=own[0]).cpu(), drawn[0])
    with pytest.raises(RuntimeError, match="Expected a 'npu' device type for generator"):
        torch.randn(3, device=NPU, generator=torch.Generator())


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    layers += [nn.ConvTranspose2d(8, 4, 2, 2, groups=2), nn.LayerNorm([4, 16, 16]), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(4 * 16 * 16, 3))


def train(model: nn.Module, device: torch.device, steps: int = 3) -> list[float]:
    model.to(device)
    # On npu torch updates all parameters in one call, which rounds differently.
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, foreach=False)
    x = torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8).to(device)
    y = torch.tensor([1, 2], device=device)
    torch.manual_seed(1)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_layers_train_as_on_the_cpu() -> None:
    one, other = network(), network()
    assert train(one, NPU) == train(other, torch.device("cpu"))
    for (key, mine), theirs in zip(
        one.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert mine.device == NPU
        assert torch.equal(mine.cpu(), theirs), key


def test_autocast_casts_by_torch_s_lists() -> None:
    a = on_npu(4, 4)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("npu", dtype=dtype):
            y = a @ a
            assert y.dtype == nn.functional.conv1d(a[None], a[:, :, None]).dtype == dtype
            assert y.softmax(-1).dtype == y.sum().dtype == torch.float32
    with torch.autocast("npu"), pytest.raises(RuntimeError, match="unsafe to autocast"):
        nn.functional.binary_cross_entropy(a.sigmoid(), a.sigmoid())


def test_grad_scaler_skips_steps_that_overflow() -> None:
    layer = nn.Linear(4, 1, bias=False).to(NPU)
    optimizer, scaler = torch.optim.SGD(layer.parameters(), 0.1), torch.amp.GradScaler("npu")
    weights = [layer.weight.detach().clone()]
    for value in (float("inf"), 1.0):
        optimizer.zero_grad()
        with torch.autocast("npu", dtype=torch.float16):
            loss = layer(on_npu(2, 4)).sum() * value
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        weights.append(layer.weight.detach().clone())
    assert torch.equal(weights[0].cpu(), weights[1].cpu())
    assert not torch.equal(weights[1].cpu(), weights[2].cpu())
    assert scaler.get_scale() == 2.0**15


def test_streams_and_events() -> None:
    stream = torch.Stream("npu")
    events = [torch.Event("npu", enable_timing=True) for _ in range(2)]
    before = torch.accelerator.current_stream()
    with stream:
        assert torch.accelerator.current_stream() == stream != before
        events[0].record()
        on_npu(100).sum()
        events[1].record()
    assert torch.accelerator.current_stream() == before
    stream.synchronize()
    assert events[1].query()
    assert events[0].elapsed_time(events[1]) > 0
    on_npu(2).record_stream(stream)


@pytest.mark.parametrize("place", ["cpu", "npu:0", "npu:1"])
def test_files_keep_and_change_the_device(place: str) -> None:
    x, file = on_npu(6), io.BytesIO()
    torch.save({"x": x, "view": x.view(2, 3)}, file)
    file.seek(0)
    found = torch.load(file, weights_only=True, map_location=place)
    assert found["x"].device == torch.device(place)
    assert found["x"].untyped_storage().data_ptr() == found["view"].untyped_storage().data_ptr()
    assert torch.equal(found["x"].cpu(), x.cpu())


def test_pinned_memory() -> None:
    x = torch.ones(3).pin_memory()
    assert x.is_pinned()
    assert not torch.ones(3).is_pinned()
    assert torch.equal(x.to(NPU, non_blocking=True).cpu(), x)
    loader = DataLoader(TensorDataset(torch.arange(8.0)), batch_size=4, pin_memory=True)
    assert [batch.is_pinned() for (batch,) in loader] == [True, True]
    with pytest.raises(RuntimeError, match="can be pinned"):
        torch.empty(3, device=NPU, pin_memory=True)


def test_threads_have_their_own_device() -> None:
    seen = []
    torch.npu.set_device(1)
    thread = threading.Thread(target=lambda: seen.append(torch.npu.current_device()))
    thread.start()
    thread.join()
    torch.npu.set_device(0)
    assert seen == [0]


def test_float64_is_refused_but_for_single_numbers() -> None:
    with pytest.raises(TypeError, match=r"another dtype than float64.*got float64 of shape \[3\]"):
        on_npu(3).double()
    assert on_npu(1).double().dtype == torch.float64
    with simnpu.allow_float64():
        assert torch.ones(3, dtype=torch.float64, device=NPU).sum() == 3
    with pytest.raises(TypeError, match="another dtype than float64"):
        torch.ones(3, dtype=torch.float64, device=NPU)


def test_an_operator_without_a_kernel_for_npu_is_refused() -> None:
    library = torch.library.Library("simnpu_test", "FRAGMENT")
    library.define("plus_one(Tensor x) -> Tensor")
    library.impl("plus_one", lambda x: x + 1, "CPU")
    with pytest.raises(NotImplementedError, match="simnpu_test::plus_one must have a kernel"):
        torch.ops.simnpu_test.plus_one(on_npu(2))
    library.impl("plus_one", lambda x: x + 1, "CompositeExplicitAutograd")
    result = torch.ops.simnpu_test.plus_one(on_npu(2))
    assert torch.equal(result.cpu(), on_npu(2).cpu() + 1)


def test_fallbacks_are_counted_and_can_be_forbidden() -> None:
    x = on_npu(3)
    with simnpu.fallbacks() as counts:
        x.cumsum(0)
        x.cumsum(0)
        x.view(3, 1)
    assert counts == {"aten::cumsum.out": 2}
    with (
        simnpu.forbid(["aten::cumsum.out"]),
        pytest.raises(NotImplementedError, match=r"aten::cumsum\.out must not fall back"),
    ):
        x.cumsum(0)
    assert torch.equal(x.cumsum(0).cpu(), x.cpu().cumsum(0))


@pytest.mark.parametrize("size", [(3, 5), (2, 3, 4, 6)])
def test_attention_is_torch_s(size: tuple[int, ...]) -> None:
    q = on_npu(*size)
    found = nn.functional.scaled_dot_product_attention(q, q, q).cpu()
    wanted = nn.functional.scaled_dot_product_attention(q.cpu(), q.cpu(), q.cpu())
    torch.testing.assert_close(found, wanted, **tolerances(torch.float32))
