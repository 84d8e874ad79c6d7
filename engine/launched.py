"""mmengine's Runner as AnyBEV starts it: on any backend, with failures that name their cause."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger
from mmengine.runner import Runner as MMEngineRunner
from torch import nn
from torch.distributed import ProcessGroup

from anybev import envs
from anybev.device import current_backend
from anybev.engine import checkpoint as checkpoints
from anybev.engine import data_parallel, distributed, optimizers
from anybev.engine.data_parallel import DataParallelOptions
from anybev.engine.lost_ranks import name_lost_ranks
from anybev.engine.numerics import apply_numerics
from anybev.engine.stopping import end_with_parent


def _is_for_the_user(record: logging.LogRecord) -> bool:
    """Whether a message is about the run: mmengine's hooks warn of mmengine's own old classes."""
    return not str(record.msg).startswith(('"FileClient" will be', '"HardDiskBackend" is the'))


class LaunchedRunner(MMEngineRunner):
    """What AnyBEV's own runner and the one of a host's models share; model and data are mmengine's.

    See ``mmengine.runner.Runner`` for the arguments.
    """

    #: While it runs, a group of all processes that needs no accelerator; None with one process.
    hosts: ProcessGroup | None = None

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """As mmengine's; several processes also without an accelerator."""
        if self.launcher == "pytorch":
            end_with_parent(envs.job_launcher())
        current_backend().prepare()
        if distributed.joins_by_itself(self.launcher):
            distributed.join(env_cfg.get("dist_cfg", {}))
        super().setup_env(env_cfg)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """As mmengine's, without its notices about its own deprecated classes."""
        logger: MMLogger = super().build_logger(*args, **kwargs)
        logger.addFilter(_is_for_the_user)
        return logger

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """As mmengine's; the config's ``ddp`` says how gradients travel, on any device."""
        apply_numerics(model, current_backend())
        if not self.distributed or model_wrapper_cfg is not None:
            whole: nn.Module = super().wrap_model(model_wrapper_cfg, model)
            return whole
        options = DataParallelOptions.from_config(self.cfg.get("ddp"))
        unused = bool(self.cfg.get("find_unused_parameters", False))
        arguments = data_parallel.wrapper_arguments(model, options, unused)
        if distributed.unnumbered():
            wrapped = distributed.wrap_unnumbered(model, arguments)
        else:
            wrapped = super().wrap_model({"type": "MMDistributedDataParallel", **arguments}, model)
        data_parallel.compress(wrapped, options)
        return wrapped

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """As mmengine's; AdamW is the device's own where it has one, unless ``fused=False``."""
        kind = optimizers.fused_class(optim_wrapper, self.model)
        if kind is None:
            return super().build_optim_wrapper(optim_wrapper)
        wrapper = super().build_optim_wrapper(optimizers.with_optimizer(optim_wrapper, kind))
        optimizers.watch(wrapper.optimizer)
        self.logger.info("optimizer: %s, with the mathematics of torch's AdamW", kind.__name__)
        return wrapper

    def train(self) -> nn.Module:
        """As mmengine's.

        Raises:
            LostRankError: another process went away, or did not answer in time.
            MachineError: the disk is full.
        """
        with self._named_failures():
            model: nn.Module = super().train()
        return model

    def test(self) -> dict[str, float]:
        """As mmengine's.

        Raises:
            LostRankError: another process went away, or did not answer in time.
            MachineError: the disk is full.
        """
        with self._named_failures():
            metrics: dict[str, float] = super().test()
        return metrics

    @contextmanager
    def _named_failures(self) -> Iterator[None]:
        timeout_s = self.cfg.get("env_cfg", {}).get("dist_cfg", {}).get("timeout")
        with (
            name_lost_ranks(timeout_s) as self.hosts,
            checkpoints.name_full_disk(Path(self.work_dir)),
        ):
            yield
