import pytest
import torch

from anybev.datasets.sampling import EpochSampler
from anybev.engine import global_batch


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"batch_size": 4}, "23 samples an epoch, 6 steps of 1 process x 4 = 4"),
        (
            {"batch_size": 2, "world_size": 2},
            "6 steps of 2 processes x 2 = 4; 1 taken twice, so that all processes take as many",
        ),
        (
            {"batch_size": 2, "world_size": 2, "drop_last": True},
            "5 steps of 2 processes x 2 = 4; 3 left out, others in each epoch",
        ),
    ],
)
def test_what_does_not_divide_is_said(options: dict, line: str) -> None:
    assert global_batch.split_line(EpochSampler(23, **options)).endswith(line)


def test_every_rate_of_the_optimizer_is_scaled() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    groups = [{"params": [w], "lr": lr} for w, lr in zip(weights, (0.1, 0.2, 0.1), strict=True)]
    optimizer = torch.optim.SGD(groups)
    assert global_batch.scale_optimizer(optimizer, 0.5) == ([0.1, 0.2], [0.05, 0.1])
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.1, 0.05]


def test_rates_that_schedulers_name_are_scaled_and_momenta_are_not() -> None:
    config = [
        {"type": "CosineAnnealingLR", "eta_min": 1e-3, "T_max": 8},
        {"type": "CosineAnnealingLR", "eta_min_ratio": 0.1, "T_max": 8},
        {"type": "CosineAnnealingMomentum", "eta_min": 0.85, "T_max": 8},
    ]
    scaled, changed = global_batch.scale_schedulers(config, 2)
    assert [entry.get("eta_min") for entry in scaled] == [2e-3, None, 0.85]
    assert config[0]["eta_min"] == 1e-3
    assert changed == ["CosineAnnealingLR eta_min 0.001 -> 0.002"]
    one, _ = global_batch.scale_schedulers({"type": "OneCycleLR", "eta_max": 1.0}, 3)
    assert one == {"type": "OneCycleLR", "eta_max": 3.0}
    assert global_batch.scale_schedulers(None, 2) == (None, [])
    by_optimizer = {"a": [{"type": "PolyLR", "eta_min": 1.0}]}
    assert global_batch.scale_schedulers(by_optimizer, 2) == (by_optimizer, [])


def test_base_batch_size_is_checked() -> None:
    assert global_batch.base_batch_size(None) is None
    assert global_batch.base_batch_size({"base_batch_size": 32}) == 32
    with pytest.raises(TypeError, match=r"base_batch_size must be a whole number, got 8\.0"):
        global_batch.base_batch_size({"base_batch_size": 8.0})
    with pytest.raises(ValueError, match="base_batch_size must be at least 1, got 0"):
        global_batch.base_batch_size({"base_batch_size": 0})
