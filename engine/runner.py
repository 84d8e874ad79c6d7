"""mmengine's Runner with AnyBEV's checkpoints and data loaders."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, broadcast_object_list, get_rank
from mmengine.runner import Runner as MMEngineRunner
from torch import nn
from torch.utils.data import DataLoader

from anybev import envs
from anybev.datasets.sample import Batch, Sample, collate
from anybev.datasets.sampling import EpochSampler
from anybev.engine import checkpoint as checkpoints
from anybev.engine import global_batch, newest
from anybev.engine.builder import build_detector
from anybev.engine.detector_adapter import DetectorAdapter
from anybev.engine.launched import LaunchedRunner
from anybev.engine.loops import ResumableEpochLoop
from anybev.engine.pretrained import load_pretrained
from anybev.engine.registry import RUNNERS
from anybev.engine.seeding import rng_state, set_rng_state
from anybev.engine.stopping import ShieldedWorker
from anybev.engine.worker_errors import BATCH_TIMEOUT_S

# What CheckpointHook keeps between runs: the best checkpoint so far, and those to delete later.
_HOOK_FACTS = ("best_", "keep_ckpt_ids")
_LR_RATIO = "lr_ratio"  # in a checkpoint's meta: its learning rates over the config's


def collate_batch(samples: Sequence[Sample]) -> dict[str, Batch]:
    """Samples to what the detector adapter takes."""
    return {"batch": collate(samples)}


def seeded(dataset: Any, seed: int) -> Any:
    """A data set's config whose innermost data set augments by ``seed``, unless it names one."""
    if not isinstance(dataset, Mapping):
        return dataset
    if "dataset" in dataset:
        return {**dataset, "dataset": seeded(dataset["dataset"], seed)}
    return {"seed": seed, **dataset}


def _everywhere(act: Callable[[], Any]) -> Any:
    """What ``act`` returns on the first process, on every process; or the error it raises.

    One process reads and writes files: the others need not see its disk, and none goes on alone.

    Raises:
        Exception: of ``act``, on every process.
    """
    outcome: list[Any] = [None, None]
    if get_rank() == 0:
        try:
            outcome[0] = act()
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            outcome[1] = error
    broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


@RUNNERS.register_module()
class Runner(LaunchedRunner):
    """Drives training and evaluation; see ``mmengine.runner.Runner`` for the arguments.

    What differs: checkpoints are written atomically, read without running code they carry, and hold
    the random state and the sampler's position; shuffling of workers' seeds does not draw from the
    global generator, so a resumed run repeats an unbroken one bit for bit on CPU.
    """

    optim_wrapper: Any
    param_schedulers: Any
    _lr_ratio = 1.0  # learning rates over the config's, as --auto-scale-lr has it
    _may_lack: tuple[str, ...] = ()  # parts that a checkpoint may lack: in training alone

    def scale_lr(self, optim_wrapper: Any, auto_scale_lr: dict[str, Any] | None = None) -> None:
        """Scale every learning rate to the global batch on request; without one, warn of another.

        Raises:
            TypeError: ``base_batch_size`` is no whole number.
            ValueError: it is not positive.
        """
        sampler = self.train_loop.dataloader.sampler
        base = global_batch.base_batch_size(auto_scale_lr)
        if not isinstance(sampler, EpochSampler):
            super().scale_lr(optim_wrapper, auto_scale_lr)
            return
        self.logger.info(global_batch.split_line(sampler))
        batch = sampler.world_size * sampler.batch_size
        if base is None:
            return
        if (auto_scale_lr or {}).get("enable"):
            self._lr_ratio = ratio = batch / base
            before, after = global_batch.scale_optimizer(optim_wrapper.optimizer, ratio)
            self.param_schedulers, changed = global_batch.scale_schedulers(
                self.param_schedulers, ratio
            )
            rates = [f"{a:g} -> {b:g}" for a, b in zip(before, after, strict=True)]
            self.logger.info(
                "learning rate: %s (x %g): the global batch is %d, the config's rate is for %d",
                ", ".join([*rates, *changed]),
                ratio,
                batch,
                base,
            )
        elif batch != base:
            self.logger.warning(
                "the global batch is %d, the config's learning rate is for %d; try --auto-scale-lr",
                batch,
                base,
            )

    def build_model(self, model: nn.Module | dict[str, Any]) -> nn.Module:
        """Build the detector and wrap it for the loops."""
        detector = build_detector(model) if isinstance(model, dict) else model
        if isinstance(detector, DetectorAdapter):
            return detector
        return DetectorAdapter(detector)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict[str, Any],
        seed: int | None = None,
        diff_rank_seed: bool = False,
    ) -> DataLoader:
        """As mmengine's, collating to ``{"batch": Batch}``, with its own generator of seeds."""
        if isinstance(dataloader, dict):
            dataset = seeded(dataloader["dataset"], seed or 0)
            dataloader = {"collate_fn": collate_batch, **dataloader, "dataset": dataset}
            sampler = dataloader.get("sampler")
            if isinstance(sampler, Mapping) and sampler.get("type") == "EpochSampler":
                size = dataloader["batch_size"]  # the loader's decides, wherever it was set
                dataloader["sampler"] = {**sampler, "batch_size": size}
            if dataloader.get("num_workers"):
                dataloader.setdefault("timeout", BATCH_TIMEOUT_S)
        loader: DataLoader = MMEngineRunner.build_dataloader(dataloader, seed, diff_rank_seed)
        loader.generator = torch.Generator().manual_seed(seed or 0)
        loader.worker_init_fn = ShieldedWorker(loader.worker_init_fn)
        return loader

    @property
    def detector(self) -> nn.Module:
        """The bare detector, out of every wrapper."""
        model: Any = getattr(self.model, "module", self.model)
        detector: nn.Module = model.detector
        return detector

    @cached_property
    def _config_text(self) -> str:
        """The config as Python; formatting it takes longer than writing a checkpoint."""
        text: str = self.cfg.pretty_text
        return text

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict[str, Any] | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict[str, Any] | None = None,
        by_epoch: bool = True,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        """Write one checkpoint atomically (called by mmengine's CheckpointHook on every rank)."""
        generators = all_gather_object(rng_state())  # of every rank: each draws its own dropout
        _everywhere(
            lambda: self._save(
                Path(out_dir) / filename,
                generators,
                meta or {},
                save_optimizer=save_optimizer,
                save_param_scheduler=save_param_scheduler,
                by_epoch=by_epoch,
            )
        )

    def _save(
        self,
        path: Path,
        generators: list[dict[str, Any]],
        meta: Mapping[str, Any],
        *,
        save_optimizer: bool,
        save_param_scheduler: bool,
        by_epoch: bool,
    ) -> None:
        loop = self.train_loop
        record = dict(meta)
        record.setdefault("epoch", self.epoch + 1 if by_epoch else self.epoch)
        record.setdefault("iter", self.iter if by_epoch else self.iter + 1)
        record.update(seed=self.seed, experiment_name=self.experiment_name)
        record[_LR_RATIO] = self._lr_ratio
        if (started_s := envs.job_started_s()) is not None:
            record[newest.JOB_STARTED] = started_s
        facts = self.message_hub.runtime_info
        state: dict[str, Any] = {
            "rng": generators,
            "hooks": {key: facts[key] for key in facts if key.startswith(_HOOK_FACTS)},
        }
        if isinstance(loop, ResumableEpochLoop):
            state["sampler"] = loop.dataloader.sampler.state_dict()
        if save_optimizer:
            state["optimizer"] = self.optim_wrapper.state_dict()
        if save_param_scheduler and self.param_schedulers:
            # Functions among a scheduler's attributes are rebuilt from the config.
            state["param_schedulers"] = [
                {key: value for key, value in s.state_dict().items() if not callable(value)}
                for s in self.param_schedulers
            ]
        checkpoints.save(path, self.detector, meta=record, config=self._config_text, state=state)

    def train(self) -> nn.Module:
        """As mmengine's; ``load_from`` may lack the parts that ``load_from_may_lack`` names.

        Raises:
            LostRankError: another process went away, or did not answer in time.
            MachineError: the disk is full.
        """
        self._may_lack = tuple(self.cfg.get("load_from_may_lack") or ())
        model: nn.Module = super().train()
        return model

    def _init_model_weights(self) -> None:
        """Fill the parts that start from pretrained weights; a resumed run needs no such file."""
        folder = Path(self.work_dir)
        if not self._resume or not _everywhere(
            lambda: bool(self._load_from or newest.candidates(folder))
        ):
            for part, report in load_pretrained(self.detector).items():
                self.logger.info("pretrained %s: %s", part, report)
        super()._init_model_weights()

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Fill the detector, or fail with the list of keys."""
        report = checkpoints.load_into(self.detector, Path(filename), may_lack=self._may_lack)
        self._has_loaded = True
        self.logger.info("loaded %s: %s", filename, report)
        return {}

    def load_or_resume(self) -> None:
        """As mmengine's; of a work directory's checkpoints the newest whole one is taken.

        After a restart by torchrun it is this job's newest one, whatever the job began with.
        """
        if self._has_loaded:
            return
        if envs.job_round() > 1 and self._continue_newest(envs.job_started_s()):
            return
        if not self._resume or self._load_from is not None:
            super().load_or_resume()
        elif not self._continue_newest():
            self.logger.info("no checkpoint in %s to resume from: training begins", self.work_dir)

    def _continue_newest(self, job_started_s: float | None = None) -> bool:
        """Continue from the newest whole checkpoint of node 0's work directory, if there is one."""
        found = _everywhere(lambda: newest.newest_good(Path(self.work_dir), job_started_s))
        if found is None:
            return False
        for reason in found.refused:
            text = f"passed over a checkpoint: {reason}"
            self.logger.warning(text)  # as one text: mmengine shows those of one format once
        self._continue(found.path, found.content)
        return True

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Continue from a checkpoint of this run, at the very next batch.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is damaged, or has no training state.
        """
        path = Path(filename)
        self._continue(path, _everywhere(lambda: newest.read_resumable(path)))

    def _tell_rates(self, saved: float | None) -> None:
        """Say which learning rates hold after a resume: the checkpoint's, whatever was asked for.

        Args:
            saved: of the checkpoint, over the config's; None where it does not tell.
        """
        rates = sorted({float(group["lr"]) for group in self.optim_wrapper.optimizer.param_groups})
        listed = ", ".join(f"{rate:g}" for rate in rates)
        self.logger.info("learning rate: %s, of the checkpoint", listed)
        if saved is not None and saved != self._lr_ratio:
            self.logger.warning(
                "the checkpoint's learning rates are the config's x %g and stay so; the flags say "
                "x %g: --auto-scale-lr counts where a training begins",
                saved,
                self._lr_ratio,
            )
            self._lr_ratio = saved

    def _continue(self, filename: Path, loaded: Mapping[str, Any]) -> None:
        state = loaded["state"]
        checkpoints.fill(self.detector, loaded["state_dict"], filename)
        loop = self.train_loop
        loop._epoch, loop._iter = loaded["meta"]["epoch"], loaded["meta"]["iter"]
        loop.dataloader.sampler.load_state_dict(state["sampler"])
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        self.optim_wrapper.load_state_dict(state["optimizer"])
        self._tell_rates(loaded["meta"].get(_LR_RATIO))
        if "param_schedulers" in state:
            self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
            for scheduler, saved in zip(
                self.param_schedulers, state["param_schedulers"], strict=True
            ):
                scheduler.load_state_dict(saved)
        for name, value in state.get("hooks", {}).items():
            self.message_hub.update_info(name, value)
        if self.rank < len(state["rng"]):
            set_rng_state(state["rng"][self.rank])
        else:  # more processes than the run had: the new ones draw from their seed
            self.logger.info("rank %d is new: its random state begins anew", self.rank)
        self._has_loaded = True
        self.logger.info(
            "resumed %s: epoch %d, iteration %d", filename, loop._epoch + 1, loop._iter
        )
