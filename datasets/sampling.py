"""Which sample comes when: order, split over ranks, and the generator each sample draws from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from anybev.datasets.sample import SampleKey

# Streams of one seed that must not repeat each other.
_ORDER_STREAM = 0x6F726472
# What decides which samples an epoch takes, and in which order.
_ORDER = ("length", "seed", "shuffle", "drop_last", "pad")


def sample_rng(seed: int, key: SampleKey, attempt: int = 0) -> np.random.Generator:
    """The generator of one sample: a function of seed, epoch and index alone.

    Args:
        seed: of the run.
        key: epoch and index.
        attempt: counts redraws of the same place.
    """
    return np.random.Generator(np.random.PCG64([seed, key.epoch, key.index, attempt]))


class EpochSampler(Sampler[SampleKey]):
    """Yields this rank's keys of one epoch; its state resumes in the middle of an epoch.

    The order is a function of (seed, epoch). The keys of all ranks together are every index once;
    without ``drop_last`` the shorter ranks repeat keys from the start so that all take as many
    steps, as distributed training needs; ``repeated`` and ``dropped`` count what does not divide.
    Step s of all ranks takes the same samples however many ranks share a global batch
    (``world_size * batch_size``), so a saved position carries over to another number of ranks;
    only in the last step, where ranks repeat keys, may how often a key is taken depend on it.

    Args:
        length: of the data set.
        seed: the same on every rank.
        shuffle: random order; else 0, 1, 2, ...
        rank: of this process.
        world_size: number of processes.
        batch_size: of one process; with ``drop_last`` epochs are whole batches of all ranks.
        drop_last: leave out the rest instead of repeating keys.
        pad: repeat keys to make ranks equal. False when every sample must come exactly once, as in
            evaluation.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 1,
        drop_last: bool = False,
        pad: bool = True,
    ) -> None:
        for name, value in (
            ("length", length),
            ("world_size", world_size),
            ("batch_size", batch_size),
        ):
            if value < 1:
                raise ValueError(f"EpochSampler: {name} must be at least 1, got {value}")
        if not 0 <= rank < world_size:
            raise ValueError(f"EpochSampler: rank must be in 0..{world_size - 1}, got {rank}")
        if seed < 0:
            raise ValueError(f"EpochSampler: seed must be 0 or more, got {seed}")
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.batch_size, self.drop_last, self.pad = batch_size, drop_last, pad
        self.epoch = 0
        self.done = 0
        if drop_last and not len(self):
            raise ValueError(
                f"EpochSampler: length must be at least one batch of all ranks "
                f"({world_size * batch_size}), got {length}; try drop_last=False"
            )

    def _per_rank(self) -> int:
        if self.drop_last:
            return self.length // (self.world_size * self.batch_size) * self.batch_size
        if self.pad:
            return -(-self.length // self.world_size)
        return len(range(self.rank, self.length, self.world_size))

    @property
    def repeated(self) -> int:
        """Keys that all ranks together take a second time in an epoch."""
        return max(self._total() - self.length, 0)

    @property
    def dropped(self) -> int:
        """Samples that no rank takes in an epoch."""
        return max(self.length - self._total(), 0)

    @property
    def steps(self) -> int:
        """Batches of an epoch on this rank."""
        return -(-len(self) // self.batch_size)

    def _total(self) -> int:
        exact = not self.drop_last and not self.pad
        return self.length if exact else self._per_rank() * self.world_size

    def __len__(self) -> int:
        """Samples of a whole epoch on this rank, resumed or not."""
        return self._per_rank()

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``; the epoch at hand keeps its position."""
        if epoch != self.epoch:
            self.epoch, self.done = epoch, 0

    def indices(self, epoch: int) -> np.ndarray:
        """This rank's indices of ``epoch``, in order."""
        if self.shuffle:
            order = np.random.Generator(
                np.random.PCG64([self.seed, epoch, _ORDER_STREAM])
            ).permutation(self.length)
        else:
            order = np.arange(self.length)
        if self.drop_last or self.pad:
            order = np.resize(order, self._per_rank() * self.world_size)
        return order[self.rank :: self.world_size]

    def __iter__(self) -> Iterator[SampleKey]:
        """Keys from the stored position to the end of the epoch.

        The position that ``state_dict`` saves is told by ``advance``: workers fetch ahead, so what
        was yielded is not what was trained on.
        """
        epoch = self.epoch
        for index in self.indices(epoch)[self.done :]:
            yield SampleKey(epoch, int(index))

    def advance(self, samples: int) -> None:
        """Count samples of this rank that were trained on.

        Raises:
            ValueError: more than the epoch has.
        """
        if not 0 <= self.done + samples <= len(self):
            raise ValueError(
                f"EpochSampler: samples must stay within the epoch's {len(self)}, got "
                f"{self.done} + {samples}"
            )
        self.done += samples

    def state_dict(self) -> dict[str, Any]:
        """Where the run is, and what the position depends on."""
        return {"epoch": self.epoch, "done": self.done} | {
            name: getattr(self, name) for name in (*_ORDER, "world_size", "batch_size")
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go where the saved run was, on as many ranks or on another number.

        Raises:
            ValueError: the run has another length, seed, order or global batch; the position would
                point at other samples, and steps of another size would follow.
        """
        for name in _ORDER:
            if state.get(name) != getattr(self, name):
                raise ValueError(
                    f"EpochSampler: {name} must be {state.get(name)} as in the saved run, got "
                    f"{getattr(self, name)}"
                )
        world_size, batch_size = int(state["world_size"]), int(state["batch_size"])
        wanted, got = world_size * batch_size, self.world_size * self.batch_size
        if wanted != got:
            share, rest = divmod(wanted, self.world_size)
            fix = f"batch_size={share}" if not rest else f"a number of ranks that divides {wanted}"
            raise ValueError(
                f"EpochSampler: world_size x batch_size must be {world_size} x {batch_size} = "
                f"{wanted} as in the saved run, got {self.world_size} x {self.batch_size} = {got}; "
                f"try {fix}"
            )
        # Whole steps of all ranks, but for the last of an epoch.
        position, short = divmod(int(state["done"]), batch_size)
        self.done = len(self) if short else min(position * self.batch_size, len(self))
        self.epoch = int(state["epoch"])
