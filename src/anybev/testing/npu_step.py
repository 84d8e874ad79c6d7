"""One training step of a small BEVFusion on the simulated npu, and what it leaves to the CPU.

    python -m anybev.testing.npu_step test/npu/fallbacks.json

writes the list that a test compares with.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anybev.datasets.sample import Batch
from anybev.engine.builder import build_detector
from anybev.testing import simnpu
from anybev.testing.tiny import tiny_batch, tiny_model_cfg
from anybev.testing.tiny_cameras import tiny_camera_batch, tiny_camera_cfg

MODELS = ("lidar", "lidar-cam")


def model_and_batch(name: str) -> tuple[Any, Batch]:
    """A small detector in training mode and two samples, on the CPU, the same in every process."""
    cameras = name == "lidar-cam"
    torch.manual_seed(0)
    detector: Any = build_detector(tiny_camera_cfg() if cameras else tiny_model_cfg())
    return detector.train(), tiny_camera_batch() if cameras else tiny_batch()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW, one parameter at a time: on accelerators torch would round otherwise than on a CPU."""
    return torch.optim.AdamW(model.parameters(), 1e-3, foreach=False)


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """What is minimised."""
    return torch.stack([value for name, value in losses.items() if "loss" in name]).sum()


def step(model: Any, batch: Batch, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """One step of training; its losses."""
    optimizer.zero_grad()
    losses: dict[str, Tensor] = model.loss(batch)
    total(losses).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 35, foreach=False)
    optimizer.step()
    return losses


def strangers(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> list[str]:
    """Names of parameters, buffers, gradients and optimizer state that are not on npu."""
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    held |= {f"{n}.grad": p.grad for n, p in model.named_parameters() if p.grad is not None}
    for parameter, state in optimizer.state.items() if optimizer else ():
        # Adam counts its steps in a number, which stays on the host.
        kept = {key: v for key, v in state.items() if isinstance(v, Tensor) and v.dim()}
        held |= {f"{names[parameter]}.{key}": value for key, value in kept.items()}
    return sorted(name for name, value in held.items() if value.device.type != "npu")


def fallbacks(name: str) -> list[str]:
    """Operators of aten that one step of a model leaves to the CPU."""
    model, batch = model_and_batch(name)
    device = torch.device("npu")
    model, batch = model.to(device), batch.to(device)
    optimizer = optimizer_of(model)
    with simnpu.fallbacks() as counts:
        step(model, batch, optimizer)
    return sorted(counts)


def main(path: Path) -> None:
    """Write the lists of all models."""
    simnpu.activate()
    found = {"torch": torch.__version__.partition("+")[0]}
    path.write_text(json.dumps({**found, **{n: fallbacks(n) for n in MODELS}}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
