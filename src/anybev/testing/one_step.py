"""As much of a training as a hook sees of a step: a toy detector, an optimizer, one batch."""

from types import SimpleNamespace
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from anybev.datasets.sample import Batch
from anybev.engine.detector_adapter import DetectorAdapter
from anybev.engine.hooks.finite import FiniteLossHook
from anybev.testing.tiny import tiny_batch


class ToyDetector(nn.Module):
    """Two layers over the mean point of each sample."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(5, 4)
        self.head = nn.Linear(4, 2)
        self.added: Tensor | None = None

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Two losses and a number that is none."""
        points = torch.stack([cloud.mean(dim=0) for cloud in batch.points_lidar_m])
        output = self.head(self.stem(points).sigmoid())
        losses = {"loss_box": output.square().mean(), "loss_class": output.abs().mean()}
        if self.added is not None:
            losses["loss_box"] = losses["loss_box"] + self.added
        return losses | {"matched_ious": output.detach().mean()}


class StepRunner(SimpleNamespace):
    """Stands for the Runner at epoch 2, step 4, iteration 12.

    Args:
        name: of its message hub, one a test.
        wrapper: optimizer wrapper's class.
        options: its arguments; clipping unless it says otherwise.
    """

    def __init__(self, name: str, wrapper: type = OptimWrapper, **options: Any) -> None:
        detector = ToyDetector()
        adapter = DetectorAdapter(detector)
        chosen = {"clip_grad": {"max_norm": 35}} | options
        super().__init__(
            detector=detector,
            model=adapter,
            message_hub=MessageHub.get_instance(name),
            optim_wrapper=wrapper(optimizer=torch.optim.SGD(adapter.parameters(), 0.1), **chosen),
            epoch=1,
            iter=11,
        )

    def step(self, hook: FiniteLossHook, batch: Batch | None = None) -> None:
        """One training step with the hook's calls around it."""
        data = {"batch": batch or tiny_batch((1, 1), points=8)}
        hook.before_train_iter(self, 3, data)
        outputs = self.model.train_step(data, optim_wrapper=self.optim_wrapper)
        hook.after_train_iter(self, 3, data, outputs)
