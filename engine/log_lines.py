"""What every process measured, beside mmengine's own numbers of a logged step."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_gather, get_world_size
from mmengine.runner import LogProcessor as MMEngineLogProcessor

from anybev.device import current_backend
from anybev.engine.registry import LOG_PROCESSORS

#: Beyond so many processes a row of scalars.json has the summary alone.
RANKS_LISTED = 64
QUANTITIES = ("time", "data_time", "memory")


def rank_scalars(quantity: str, values: Sequence[float]) -> dict[str, float]:
    """One quantity of all ranks as flat keys.

    Args:
        quantity: name before the slash.
        values: one a rank.

    Returns:
        ``<quantity>/min``, ``/mean``, ``/max``, ``/max_rank`` (the lowest rank that has the most),
        and ``/rank<r>`` of each rank when there are at most ``RANKS_LISTED``.
    """
    most = max(values)
    scalars: dict[str, float] = {
        "min": min(values),
        "mean": sum(values) / len(values),
        "max": most,
        "max_rank": values.index(most),
    }
    if len(values) <= RANKS_LISTED:
        scalars |= {f"rank{rank}": value for rank, value in enumerate(values)}
    return {f"{quantity}/{name}": value for name, value in scalars.items()}


@LOG_PROCESSORS.register_module()
class LogProcessor(MMEngineLogProcessor):
    """mmengine's, whose line in the log stays as it is; ``scalars.json`` gets more.

    A training row also has ``memory`` on every backend (MiB, the peak so far) and, of several
    processes, ``time``, ``data_time`` (s, means of the window) and ``memory`` of each rank: see
    ``rank_scalars``. Gathered when a line is due, which all ranks agree on.
    """

    def get_log_after_iter(
        self, runner: Any, batch_idx: int, mode: str
    ) -> tuple[dict[str, Any], str]:
        """Scalars for the files, text for the log."""
        tag: dict[str, Any]
        tag, line = super().get_log_after_iter(runner, batch_idx, mode)
        if mode != "train":  # ranks may evaluate different numbers of frames
            return tag, line
        prefix = "train/" if self.log_with_hierarchy else ""
        tag.setdefault("memory", round(current_backend().peak_memory_mib()))
        if get_world_size() > 1 and f"{prefix}time" in tag:
            own = [tag[f"{prefix}time"], tag[f"{prefix}data_time"], tag["memory"]]
            everywhere = all_gather(torch.tensor(own, dtype=torch.float32))
            for quantity, *values in zip(
                QUANTITIES, *torch.stack(everywhere).tolist(), strict=True
            ):
                tag.update(rank_scalars(quantity, values))
        return tag, line
