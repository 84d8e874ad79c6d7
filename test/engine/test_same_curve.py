"""One process with a batch of eight, and several that share it: what is equal, and what is not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from anybev.models.bevfusion.sparse_layers import SparseTensor
from anybev.testing import parallel_worker
from anybev.testing.parallel_worker import BOXES, Objective, global_batch, gradients, share
from anybev.testing.processes import Job
from anybev.testing.tolerances import tolerances

FLOAT = tolerances(torch.float32, "data_parallel")
ROUNDING = tolerances(torch.float32)


class Step:
    """Losses, gradients and counts of one process's part of a step."""

    def __init__(
        self,
        frozen: bool,
        rank: int = 0,
        ranks: int = 1,
        factors: Mapping[str, float] | None = None,
    ) -> None:
        objective = Objective(frozen)
        losses = objective(share(global_batch(), rank, ranks), factors)
        torch.stack(list(losses.values())).sum().backward()
        self.losses = {name: float(value.detach()) for name, value in losses.items()}
        self.gradients = gradients(objective)
        self.counts = objective.counts


def parts(frozen: bool, ranks: int) -> list[Step]:
    return [Step(frozen, rank, ranks) for rank in range(ranks)]


def mean(steps: list[Step]) -> dict[str, Tensor]:
    return {
        name: torch.stack([step.gradients[name] for step in steps]).mean(dim=0)
        for name in steps[0].gradients
    }


def by_counts(steps: list[Step]) -> dict[str, float]:
    """Losses of several processes as one would have them: weighted by what they divide by."""
    result = {}
    for name in steps[0].losses:
        kind = "peaks" if "heatmap" in name else "matched"
        total = sum(step.counts[kind] for step in steps)
        result[name] = sum(step.losses[name] * step.counts[kind] for step in steps) / total
    return result


def apart(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Relative distance of two sets of gradients, all parameters as one vector."""
    difference = sum(float((a[name] - b[name]).square().sum()) for name in b)
    return float((difference / sum(float(g.square().sum()) for g in b.values())) ** 0.5)


@pytest.fixture(scope="module")
def whole() -> Step:
    return Step(frozen=True)


@pytest.fixture(scope="module")
def halves() -> list[Step]:
    return parts(frozen=True, ranks=2)


@pytest.mark.parametrize("ranks", [2, 8])
def test_frozen_statistics_give_the_same_losses(whole: Step, ranks: int) -> None:
    steps = parts(frozen=True, ranks=ranks)
    assert sum(step.counts["matched"] for step in steps) == sum(BOXES)
    assert by_counts(steps) == pytest.approx(whole.losses, rel=FLOAT["rtol"])


def test_normalisers_of_each_process_weigh_samples_differently(
    whole: Step, halves: list[Step]
) -> None:
    # loss_r = S_r / N_r. Averaging gives mean(S_r / N_r), one process sum(S_r) / sum(N_r): equal
    # only where every process has as many boxes. As upstream; nothing is reduced over processes.
    # Theory: the difference is -cov(loss_r, N_r) / mean(N_r), to float tolerance.
    for name, alone in whole.losses.items():
        kind = "peaks" if "heatmap" in name else "matched"
        losses = torch.tensor([step.losses[name] for step in halves], dtype=torch.float64)
        counts = torch.tensor([step.counts[kind] for step in halves], dtype=torch.float64)
        covariance = ((losses - losses.mean()) * (counts - counts.mean())).mean()
        expected = float(losses.mean() + covariance / counts.mean())
        assert alone == pytest.approx(expected, rel=FLOAT["rtol"]), name
    assert 0.001 < apart(mean(halves), whole.gradients) < 0.1


def _leaves(objective: Objective, ranks: int) -> list[tuple[str, nn.Module, Tensor]]:
    """Each module's output over all samples, in the order of the pass."""
    seen: dict[str, list[Tensor]] = {}
    modules = dict(objective.named_modules())

    def keep(name: str, output: Any) -> None:
        value = output.features if isinstance(output, SparseTensor) else output
        if isinstance(value, Tensor) and value.dim():
            seen.setdefault(name, []).append(value.detach())

    for name, module in modules.items():
        if not list(module.children()):
            module.register_forward_hook(lambda _m, _i, out, name=name: keep(name, out))
    with torch.no_grad():
        for rank in range(ranks):
            objective(share(global_batch(), rank, ranks))
    return [(name, modules[name], torch.cat(values)) for name, values in seen.items()]


def test_the_first_layer_that_differs_is_batch_normalisation() -> None:
    one, two = (_leaves(Objective(frozen=False), ranks) for ranks in (1, 2))
    differing = [
        (name, module)
        for (name, module, a), (_, _, b) in zip(one, two, strict=True)
        if a.shape == b.shape and not torch.allclose(a, b, **FLOAT)
    ]
    name, module = differing[0]
    assert name == "detector.pts_middle_encoder.conv_input.1"
    assert isinstance(module, _BatchNorm)
    before = [n for n, _, _ in one][: [n for n, _, _ in one].index(name)]
    assert before, "a layer before the first normalisation agrees"


def test_batch_statistics_are_of_the_rows_of_one_process() -> None:
    name = "detector.pts_middle_encoder.conv_input"
    seen, layers = [], []
    for rank in range(2):
        objective = Objective(frozen=False)
        modules = dict(objective.named_modules())
        modules[f"{name}.0"].register_forward_hook(
            lambda _m, _i, out: seen.append(out.features.detach().double())
        )
        with torch.no_grad():
            objective(share(global_batch(), rank, 2))
        layers.append(modules[f"{name}.1"])

    def after(rows: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
        """Running mean and variance that began at 0 and 1 and saw these rows once."""
        return momentum * rows.mean(0), 1 - momentum + momentum * rows.var(0)

    for rows, layer in zip(seen, layers, strict=True):
        assert isinstance(layer, _BatchNorm)
        running = (layer.running_mean.double(), layer.running_var.double())
        together = after(torch.cat(seen), layer.momentum)
        for found, own, whole in zip(running, after(rows, layer.momentum), together, strict=True):
            torch.testing.assert_close(found, own, **ROUNDING)
            assert not torch.allclose(found, whole, **ROUNDING)


@pytest.mark.parametrize(("ranks", "loss_bound", "gradient_bound"), [(2, 0.1, 0.5), (8, 0.15, 1.0)])
def test_batch_normalisation_in_training_moves_the_step_by_a_bounded_amount(
    ranks: int, loss_bound: float, gradient_bound: float
) -> None:
    one, several = Step(frozen=False), parts(frozen=False, ranks=ranks)
    for name, loss in by_counts(several).items():
        assert loss == pytest.approx(one.losses[name], rel=loss_bound), name
    assert 0.01 < apart(mean(several), one.gradients) < gradient_bound


def torchrun(folder: Path, ranks: int) -> dict[str, dict[str, Any]]:
    """What the worker wrote; its processes are gone afterwards, whatever happened."""
    worker = Path(parallel_worker.__file__)
    with Job([folder], folder / "out.txt", ranks=ranks, tool=worker) as job:
        assert job.finish(300) == 0, job.output()[-3000:]
    return {file.stem: torch.load(file) for file in folder.glob("*.pth")}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return torchrun(tmp_path_factory.mktemp("two"), 2)


def assert_gradients(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **FLOAT, msg=lambda m, n=name: f"{n}: {m}")


def test_gradients_are_averaged_once(
    two_processes: dict[str, dict[str, Any]], halves: list[Step]
) -> None:
    for case in ("frozen_plain", "frozen_whole", "frozen_parts"):
        found = two_processes[case]
        for losses, step in zip(found["losses"], halves, strict=True):
            assert losses == pytest.approx(step.losses, rel=FLOAT["rtol"])
        assert_gradients(found["gradients"], mean(halves))


def test_two_processes_with_common_normalisers_take_the_step_of_one(
    two_processes: dict[str, dict[str, Any]], whole: Step
) -> None:
    assert_gradients(two_processes["frozen_weighted"]["gradients"], whole.gradients)


def test_batch_normalisation_sees_the_samples_of_its_process_alone(
    two_processes: dict[str, dict[str, Any]],
) -> None:
    # As a whole and not element by element: batch statistics of few rows amplify the rounding that
    # differs with the number of threads. One process differs by 20 times as much.
    expected = mean(parts(frozen=False, ranks=2))
    assert apart(two_processes["train_plain"]["gradients"], expected) < 0.01


def test_bfloat16_on_the_wire_rounds_each_gradient_twice(
    two_processes: dict[str, dict[str, Any]], halves: list[Step]
) -> None:
    exact = mean(halves)
    for name, found in two_processes["frozen_bf16"]["gradients"].items():
        assert torch.equal(found, found.bfloat16().float()), name
        # Half a unit in the last place of 8 bits, of every process's value and of the mean.
        sizes = torch.stack([step.gradients[name].abs() for step in halves]).mean(dim=0)
        bound = (sizes + exact[name].abs() + 2**-8 * sizes) * 2**-8
        noise = FLOAT["rtol"] * sizes + FLOAT["atol"]
        assert bool(((found - exact[name]).abs() <= bound + noise).all()), name


@pytest.mark.slow
def test_eight_processes_of_one_sample_take_the_same_step(whole: Step, tmp_path: Path) -> None:
    found = torchrun(tmp_path, 8)
    assert_gradients(found["frozen_plain"]["gradients"], mean(parts(frozen=True, ranks=8)))
    assert_gradients(found["frozen_weighted"]["gradients"], whole.gradients)
