"""Loops that mmengine lacks: resume inside an epoch, timed evaluation."""

import time
from typing import Any

import torch
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop

from anybev.device import current_backend
from anybev.engine.registry import LOOPS


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """Epochs that a resumed run continues at the batch after the checkpoint's.

    The data loader's sampler holds the position; ``first_batch`` is where the next epoch starts.
    """

    first_batch = 0

    def run_epoch(self) -> None:
        """Run the rest of the current epoch."""
        self.dataloader.sampler.load_state_dict(self.sampler_state())
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for index, data in enumerate(self.dataloader, start=self.first_batch):
            self.run_iter(index, data)
        self.first_batch = 0
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def sampler_state(self) -> dict[str, int]:
        """Epoch and number of this rank's samples that the epoch has used already."""
        return {"epoch": self._epoch, "position": self.first_batch * self.dataloader.batch_size}

    def position(self, epoch_done: bool) -> dict[str, int]:
        """Where a run resumed from a checkpoint written now has to continue."""
        if epoch_done:
            return {"epoch": self._epoch + 1, "batch": 0}
        return {"epoch": self._epoch, "batch": self._iter + 1 - self._epoch * len(self.dataloader)}


class _TimedLoop:
    """Evaluation that measures its forward passes, without loading and scoring."""

    runner: Any
    dataloader: Any
    evaluator: Any
    step: str

    def run(self) -> dict[str, Any]:
        """Evaluate; the metrics carry ``FPS``, frames a second through model and decoding."""
        self.seconds, self.frames = 0.0, 0
        self.runner.call_hook(f"before_{self.step}")
        self.runner.call_hook(f"before_{self.step}_epoch")
        self.runner.model.eval()
        for index, data in enumerate(self.dataloader):
            self.run_iter(index, data)
        metrics: dict[str, Any] = self.evaluator.evaluate(len(self.dataloader.dataset))
        metrics["FPS"] = self.frames / self.seconds if self.seconds else float("nan")
        self.runner.call_hook(f"after_{self.step}_epoch", metrics=metrics)
        self.runner.call_hook(f"after_{self.step}")
        return metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict[str, Any]) -> None:
        """Evaluate one batch and time its forward pass."""
        self.runner.call_hook(f"before_{self.step}_iter", batch_idx=idx, data_batch=data_batch)
        backend = current_backend()
        backend.synchronize()
        start = time.perf_counter()
        outputs = self.runner.model.val_step(data_batch)
        backend.synchronize()
        if idx > 0:  # the first batch pays for lazy initialisation: it is scored, not timed
            self.seconds += time.perf_counter() - start
            self.frames += len(outputs)
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        self.runner.call_hook(
            f"after_{self.step}_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs
        )


@LOOPS.register_module()
class TimedValLoop(_TimedLoop, ValLoop):
    """Validation in training."""

    step = "val"


@LOOPS.register_module()
class TimedTestLoop(_TimedLoop, TestLoop):
    """Evaluation of a checkpoint."""

    step = "test"
