"""Says at the end of training and evaluation which frames were left out."""

from collections.abc import Mapping
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook

from anybev.engine.registry import HOOKS

_NAMED = 10


@HOOKS.register_module()
class BadSamplesHook(Hook):
    """Counts unreadable frames and unusable points of every process, and logs them.

    Silent when there were none. ``on_bad_sample="skip"`` lets a run go on past unreadable frames;
    ``runner.bad_samples`` keeps their tokens by phase (``train``, ``val``, ``test``).
    """

    def after_train(self, runner: Any) -> None:
        """Called once, after the last epoch."""
        self._report(runner, "train", runner.train_loop)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Called by the validation loop."""
        self._report(runner, "val", runner.val_loop)

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Called by the test loop."""
        self._report(runner, "test", runner.test_loop)

    def _report(self, runner: Any, phase: str, loop: Any) -> None:
        dataset = loop.dataloader.dataset
        if not hasattr(dataset, "bad_samples"):
            return
        everywhere = all_gather_object((dataset.bad_samples(), dataset.dropped_points()))
        bad = sorted({token for tokens, _ in everywhere for token in tokens})
        dropped: Mapping[str, int] = {t: n for _, points in everywhere for t, n in points.items()}
        if bad:
            more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
            named = ", ".join(bad[:_NAMED]) + more
            _warn(runner, f"{phase}: {len(bad)} unreadable frame(s) left out: {named}")
        if dropped:
            _warn(
                runner,
                f"{phase}: {sum(dropped.values())} unusable point(s) (not finite, or far out) left "
                f"out of {len(dropped)} frame(s)",
            )
        runner.bad_samples = getattr(runner, "bad_samples", {}) | {phase: bad}


def _warn(runner: Any, text: str) -> None:
    # As one finished text: mmengine shows warnings of the same format once.
    runner.logger.warning(text)
