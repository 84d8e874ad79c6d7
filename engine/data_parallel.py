"""Gradients averaged over the processes: what a config may choose, and torch's wrapper set so."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined] # no stub lists it
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from anybev.device import Capability, current_backend
from anybev.models.common.arguments import refuse_unknown

COMPRESSIONS = ("none", "bf16")
_MIB = 2**20
# torch is renaming both, and warns of the old names.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


@dataclass(frozen=True)
class DataParallelOptions:
    """The config's ``ddp = dict(...)``.

    Attributes:
        bucket_cap_mb: gradients travel in parts of this many MiB.
        gradient_compression: ``none``, or ``bf16``: half the bytes, 8 bits of each value.
        overlap: send a part while the backward pass computes the next; False sends all at its end.
        broadcast_buffers: before each step every process takes the first one's running statistics;
            None: where the backend repeats bit for bit. Without it each process keeps its own until
            ``SyncBuffersHook`` averages them, as upstream does.
    """

    bucket_cap_mb: float = 25
    gradient_compression: str = "none"
    overlap: bool = True
    broadcast_buffers: bool | None = None

    def __post_init__(self) -> None:
        size = self.bucket_cap_mb
        if isinstance(size, bool) or not isinstance(size, int | float):
            raise TypeError(f"ddp: bucket_cap_mb must be a number, got {size!r}")
        if not 0 < size < float("inf"):
            raise ValueError(f"ddp: bucket_cap_mb must be positive, got {size!r}")
        if self.gradient_compression not in COMPRESSIONS:
            raise ValueError(
                f"ddp: gradient_compression must be one of {', '.join(COMPRESSIONS)}, got "
                f"{self.gradient_compression!r}"
            )
        for name in ("overlap", "broadcast_buffers"):
            value = getattr(self, name)
            if not isinstance(value, bool) and not (value is None and name == "broadcast_buffers"):
                raise TypeError(f"ddp: {name} must be True or False, got {value!r}")

    @classmethod
    def from_config(cls, options: Mapping[str, Any] | None) -> Self:
        """The options of a config, which may leave out any.

        Raises:
            TypeError: a value of another type.
            ValueError: an unknown key, or a value out of range.
        """
        given = dict(options or {})
        refuse_unknown("ddp", given, {field.name for field in fields(cls)})
        return cls(**given)


def wrapper_arguments(
    model: nn.Module, options: DataParallelOptions, find_unused: bool
) -> dict[str, Any]:
    """What ``DistributedDataParallel`` is given beside the model and its device.

    Args:
        model: whose gradients travel.
        options: of the config.
        find_unused: some parameters get no gradient in some steps.
    """
    buffers = options.broadcast_buffers
    if buffers is None:
        buffers = Capability.DETERMINISTIC in current_backend().capabilities
    return {
        _BUFFERS: buffers,
        "find_unused_parameters": find_unused,
        "bucket_cap_mb": options.bucket_cap_mb if options.overlap else _whole_model_mb(model),
    }


def compress(wrapped: DistributedDataParallel, options: DataParallelOptions) -> None:
    """Have the wrapper send gradients as ``gradient_compression`` says."""
    if options.gradient_compression == "bf16":
        # gloo adds no bfloat16; NCCL and HCCL do.
        hook = average_bf16 if dist.get_backend() == "gloo" else bf16_compress_hook
        wrapped.register_comm_hook(None, hook)


def _whole_model_mb(model: nn.Module) -> int:
    """A bucket that every gradient fits into: it is full, and sent, when backward has ended."""
    size = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return size // _MIB + 1


def average_bf16(group: dist.ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
    """Mean of a bucket over the processes, every value on the wire in bfloat16.

    Each process gets its share of every other's gradients, adds it in float32 in the order of the
    ranks, and hands the mean round: as many bytes as bfloat16 in a ring, and the same bits on every
    process. For collectives that move bytes but do not add bfloat16. It waits for the network, so
    nothing overlaps.

    Args:
        group: the processes; None for all.
        bucket: gradients of one dtype, flat.

    Returns:
        A future that is done: the mean, of the bucket's dtype.
    """
    gradients = bucket.buffer()
    world_size = dist.get_world_size(group)
    share = -(-gradients.numel() // world_size)
    sent = gradients.new_zeros(world_size * share, dtype=torch.bfloat16)
    sent[: gradients.numel()] = gradients
    received = torch.empty_like(sent)
    dist.all_to_all_single(received.view(torch.uint8), sent.view(torch.uint8), group=group)
    mean = received.view(world_size, share).float().sum(dim=0).div_(world_size)
    _all_gather(sent.view(torch.uint8), mean.to(torch.bfloat16).view(torch.uint8), group=group)
    gradients.copy_(sent[: gradients.numel()])
    done: Future[Tensor] = Future()
    done.set_result(gradients)
    return done
