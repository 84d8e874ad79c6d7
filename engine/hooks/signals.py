"""Ends training on a signal: all ranks finish the same step, save it and exit."""

from typing import Any

import torch
import torch.distributed as dist
from mmengine.hooks import Hook

from anybev.engine import distributed
from anybev.engine.hooks.checkpoint import CheckpointHook
from anybev.engine.registry import HOOKS
from anybev.engine.stopping import Stopped, StopRequest


@HOOKS.register_module()
class StopOnSignalHook(Hook):
    """On SIGTERM, SIGINT or SIGHUP to any rank: a checkpoint after the step, then exit.

    The ranks agree after every step by one small reduction between their hosts, never on an
    accelerator. The exit status is 128 + the signal's number (SIGTERM 143, SIGINT 130). Outside of
    the steps, in evaluation say, the signals do what they do without this hook: ``JobEvents`` tells
    of the end of a process by itself, torchrun ends its own.
    """

    priority = "LOWEST"  # after CheckpointHook, which may have saved this very step

    def __init__(self) -> None:
        self._request = StopRequest()

    def before_train_epoch(self, runner: Any) -> None:
        """Called before the first step of an epoch, or of what is left of it."""
        self._request.listen()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Called after each step."""
        number = self._agreed(runner)
        if number:
            self._stop(runner, number, {"epoch": runner.epoch, "iter": runner.iter + 1})

    def after_train_epoch(self, runner: Any) -> None:
        """Called after the last step of an epoch, when its checkpoint is written."""
        number = self._agreed(runner)
        if number:
            self._stop(runner, number, {"epoch": runner.epoch + 1, "iter": runner.iter})
        self._request.release()
        if self._request.number:  # came since: the other ranks go on, torchrun ends them
            raise Stopped(self._request.number, "between training and evaluation")

    def _agreed(self, runner: Any) -> int:
        """The highest number of a signal that any rank got; 0 for none."""
        if runner.hosts is None:
            return self._request.number
        number = torch.tensor(self._request.number)
        dist.all_reduce(number, dist.ReduceOp.MAX, group=runner.hosts)
        return int(number)

    def _stop(self, runner: Any, number: int, meta: dict[str, int]) -> None:
        hook = next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None)
        if hook is None:
            text = f"step {meta['iter']} is done, the config has no CheckpointHook: nothing saved"
        else:
            path = hook.save_now(runner, meta)
            text = f"step {meta['iter']} is saved in {path}, --resume goes on from there"
        stopped = Stopped(number, text)
        runner.logger.info("%s: %s", stopped.signal_name, text)
        distributed.leave()
        raise stopped
