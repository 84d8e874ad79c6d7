"""mmengine's CheckpointHook in an order that survives a kill at any moment."""

from collections import deque
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook

from anybev.engine.newest import POINTER, STOPPED
from anybev.engine.registry import HOOKS
from anybev.files import remove_stale_parts, whole_file


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """As mmengine's; the old checkpoint goes when the new one is whole and named.

    mmengine removes the outdated file first, so that with ``max_keep_ckpts=1`` a kill during the
    write leaves none; and it rewrites ``last_checkpoint`` in place.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._saved: tuple[int, int] | None = None  # (epoch, iteration) of the newest file

    def before_train(self, runner: Any) -> None:
        """Called once; clears what a killed run left half-written."""
        super().before_train(runner)
        if is_main_process():
            for partial in remove_stale_parts(Path(self.out_dir)):
                runner.logger.info("removed %s, half-written by a run that was killed", partial)

    def save_now(self, runner: Any, meta: dict[str, int]) -> Path:
        """Save this step unless it is saved; called on every rank.

        Args:
            runner: of the training.
            meta: ``epoch`` and ``iter`` of the position.

        Returns:
            The file that a resumed run continues from.
        """
        if self._saved != (meta["epoch"], meta["iter"]):
            if self.by_epoch:  # no file of an epoch: one name, gone with the next checkpoint
                self._write(runner, STOPPED, meta, by_epoch=False)
            else:
                self._save_checkpoint_with_step(runner, meta["iter"], meta)
        return Path(str(self.last_ckpt))

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, int]) -> None:
        kept = [other for other in getattr(self, "keep_ckpt_ids", ()) if other != step] + [step]
        outdated: list[int] = []
        if self.max_keep_ckpts > 0:
            outdated = kept[: -self.max_keep_ckpts]
            self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
            # With those that go now: where this process is killed before, a resumed run removes
            # them.
            runner.message_hub.update_info("keep_ckpt_ids", kept)
        self._write(runner, self.filename_tmpl.format(step), meta, by_epoch=self.by_epoch)
        if is_main_process():
            names = [self.filename_tmpl.format(other) for other in outdated]
            for name in (*names, STOPPED):
                (Path(self.out_dir) / name).unlink(missing_ok=True)

    def _write(self, runner: Any, name: str, meta: dict[str, int], *, by_epoch: bool) -> None:
        self.last_ckpt = str(Path(self.out_dir) / name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=dict(meta),
            by_epoch=by_epoch,
        )
        self._saved = (meta["epoch"], meta["iter"])
        if is_main_process():
            with whole_file(Path(runner.work_dir) / POINTER, durable=True) as stream:
                stream.write(self.last_ckpt.encode())
