"""Loops that mmengine lacks: resume inside an epoch, timed evaluation."""

import time
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from torch import nn

from anybev.device import current_backend
from anybev.engine.registry import LOOPS
from anybev.engine.worker_errors import batches, name_dead_workers


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """Epochs that a resumed run continues at the batch after the checkpoint's.

    The data loader's ``EpochSampler`` holds the position; this loop tells it what was trained on.
    """

    def run(self) -> nn.Module:
        """Train; a run that was resumed at an epoch's end evaluates that epoch first if it is due.

        Its checkpoint was written before the evaluation, so the run may have ended in it.
        """
        if self._epoch and self._epoch != self.dataloader.sampler.epoch and self._evaluates():
            self.runner.val_loop.run()
        model: nn.Module = super().run()
        return model

    def _evaluates(self) -> bool:
        """Whether an evaluation follows the epoch that has just ended."""
        self._decide_current_val_interval()
        due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        return self.runner.val_loop is not None and self._epoch >= self.val_begin and due

    def run_epoch(self) -> None:
        """Run the current epoch, or the rest of it."""
        sampler = self.dataloader.sampler
        sampler.set_epoch(self._epoch)
        first = sampler.done // self.dataloader.batch_size
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        with name_dead_workers():
            for index, data in enumerate(batches(self.dataloader), start=first):
                self.run_iter(index, data)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: dict[str, Any]) -> None:
        """Train on one batch; hooks that run after it see the sampler's new position."""
        self.runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
        outputs = self.runner.model.train_step(data_batch, optim_wrapper=self.runner.optim_wrapper)
        self.dataloader.sampler.advance(len(data_batch["batch"]))
        self.runner.call_hook(
            "after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1


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
        with name_dead_workers():
            for index, data in enumerate(batches(self.dataloader)):
                self.run_iter(index, data)
        metrics: dict[str, Any] = self.evaluator.evaluate(len(self.dataloader.dataset))
        shares = all_gather_object((self.frames, self.seconds))
        frames, seconds = sum(s[0] for s in shares), max(s[1] for s in shares)
        metrics["FPS"] = frames / seconds if seconds else float("nan")
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
