"""What a step of data-parallel training costs on many devices, from inputs that say their origin.

The model is small on purpose, so that each term can be measured:

* an all-reduce of ``S`` bytes over ``n`` devices takes
  ``latency * hops + 2 (n-1)/n * S / bandwidth`` (ring: ``2 (n-1)`` hops; halving and doubling:
  ``2 ceil(log2 n)``: Thakur, Rabenseifner and Gropp, "Optimization of collective communication
  operations in MPICH", 2005);
* gradients become ready evenly over the backward pass, in buckets of DDP's sizes, and buckets are
  exchanged one after another;
* a share ``overlap`` of that exchange runs beside the backward pass, the rest after it;
* devices wait for the slowest: with step times that spread normally by ``spread_s``, the slowest
  of ``n`` is ``spread_s`` times the expected largest of ``n`` normal numbers above the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

MIB = 1024 * 1024
DTYPE_BYTES = {"fp32": 4, "bf16": 2}
_DENSITY_POINTS = 4000
_DENSITY_RANGE = 9.0  # standard deviations; what lies beyond changes no printed digit


@dataclass(frozen=True)
class Input:
    """One number that goes into an estimate, and where it is from."""

    name: str
    value: float
    unit: str
    measured: bool
    source: str

    def cells(self) -> list[str]:
        """Name, value with unit, measured or assumed, source."""
        origin = "measured" if self.measured else "assumed"
        return [self.name, f"{self.value:.4g} {self.unit}".strip(), origin, self.source]


@dataclass(frozen=True)
class Link:
    """What connects devices.

    Attributes:
        latency_s: of one hop.
        bytes_per_s: in one direction, as a collective reaches it.
    """

    latency_s: float
    bytes_per_s: float

    def __post_init__(self) -> None:
        if self.latency_s < 0:
            raise ValueError(f"link: latency_s must be at least 0, got {self.latency_s}")
        if self.bytes_per_s <= 0:
            raise ValueError(f"link: bytes_per_s must be positive, got {self.bytes_per_s}")


@dataclass(frozen=True)
class Fabric:
    """Devices in nodes: ``local`` inside a node, ``network`` (None: one node) from node to node."""

    local: Link
    network: Link | None = None
    devices_per_node: int = 8

    def all_reduce_s(self, size: float, devices: int) -> float:
        """Seconds to sum ``size`` bytes over ``devices``.

        Over several nodes: reduce-scatter inside each, all-reduce of each share between nodes,
        all-gather inside each; every device uses its own network port.

        Raises:
            ValueError: more than one node without a network, or nodes that are not full.
        """
        _positive("devices", devices)
        inside = min(devices, self.devices_per_node)
        local = all_reduce_s(size, inside, self.local)
        if devices <= self.devices_per_node:
            return local
        nodes, rest = divmod(devices, inside)
        if self.network is None or rest:
            raise ValueError(
                f"fabric: devices must be at most {inside} or fill nodes that a network connects, "
                f"got {devices}"
            )
        return local + all_reduce_s(size / inside, nodes, self.network)


@dataclass(frozen=True)
class Step:
    """One training step on every device.

    Attributes:
        compute_s: forward, backward and optimizer on one device that waits for nobody.
        buckets: bytes of each exchange, in the order in which gradients become ready.
        overlap: share of the exchange, 0..1, that runs beside the backward pass.
        backward_share: part of ``compute_s`` that is the backward pass.
        spread_s: standard deviation of a device's compute, independent of the others.
    """

    compute_s: float
    buckets: Sequence[float]
    overlap: float = 1.0
    backward_share: float = 2 / 3
    spread_s: float = 0.0

    def __post_init__(self) -> None:
        if self.compute_s <= 0:
            raise ValueError(f"step: compute_s must be positive, got {self.compute_s}")
        if not self.buckets or min(self.buckets) <= 0:
            raise ValueError(f"step: buckets must be positive bytes, got {list(self.buckets)}")
        for name in ("overlap", "backward_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"step: {name} must be in 0..1, got {value}")
        if self.spread_s < 0:
            raise ValueError(f"step: spread_s must be at least 0, got {self.spread_s}")


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step: ``step_s = compute_s + waiting_s + exposed_s``.

    Attributes:
        compute_s: of the mean device.
        waiting_s: for the slowest device.
        exchange_s: all-reduces, one after another.
        exposed_s: the part of them that the backward pass does not hide.
    """

    devices: int
    compute_s: float
    waiting_s: float
    exchange_s: float
    exposed_s: float

    @property
    def step_s(self) -> float:
        """Seconds from step to step."""
        return self.compute_s + self.waiting_s + self.exposed_s

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "step_s": self.step_s}


def all_reduce_s(size: float, devices: int, link: Link, algorithm: str = "best") -> float:
    """Seconds to sum ``size`` bytes over ``devices`` that ``link`` connects.

    Args:
        size: bytes on every device.
        devices: how many; 1 costs nothing.
        link: latency and bandwidth.
        algorithm: ``ring``, ``halving``, or ``best`` of them, as NCCL and HCCL choose by size.

    Raises:
        ValueError: a number is out of range or the algorithm unknown.
    """
    _positive("devices", devices)
    if size < 0:
        raise ValueError(f"all_reduce: size must be at least 0 bytes, got {size}")
    hops = {"ring": 2 * (devices - 1), "halving": 2 * math.ceil(math.log2(devices))}
    hops["best"] = min(hops.values())
    if algorithm not in hops:
        raise ValueError(f"all_reduce: algorithm must be one of {', '.join(hops)}, got {algorithm}")
    moved = 2 * (devices - 1) / devices * size
    return hops[algorithm] * link.latency_s + moved / link.bytes_per_s


def bucket_bytes(gradient_bytes: Sequence[int], cap_mb: float, wire: str = "fp32") -> list[int]:
    """Bytes of each exchange: gradients, last first, gathered as DDP gathers them.

    Args:
        gradient_bytes: of each parameter in fp32, in the model's order.
        cap_mb: DDP's ``bucket_cap_mb``; a bucket is closed by the gradient that reaches it. (DDP
            makes its first bucket smaller only where no limit is given; configs give one.)
        wire: ``fp32``, or ``bf16`` for compressed gradients.

    Raises:
        ValueError: no gradients, a limit that is not positive, or an unknown ``wire``.
    """
    if not gradient_bytes:
        raise ValueError("buckets: gradient_bytes must not be empty, got none")
    if cap_mb <= 0:
        raise ValueError(f"buckets: cap_mb must be positive, got {cap_mb}")
    if wire not in DTYPE_BYTES:
        raise ValueError(f"buckets: wire must be one of {', '.join(DTYPE_BYTES)}, got {wire}")
    filled, found = 0, []
    for size in reversed(gradient_bytes):
        filled += size
        if filled >= cap_mb * MIB:
            found.append(filled)
            filled = 0
    found += [filled] if filled else []
    return [size * DTYPE_BYTES[wire] // DTYPE_BYTES["fp32"] for size in found]


def expected_largest(count: int) -> float:
    """Mean of the largest of ``count`` independent standard normal numbers."""
    _positive("devices", count)
    if count == 1:
        return 0.0
    normal, width = NormalDist(), 2 * _DENSITY_RANGE / _DENSITY_POINTS
    at = [-_DENSITY_RANGE + (i + 0.5) * width for i in range(_DENSITY_POINTS)]
    return sum(x * count * normal.pdf(x) * normal.cdf(x) ** (count - 1) for x in at) * width


def predict(step: Step, devices: int, exchange_s: Sequence[float]) -> Prediction:
    """A step of ``devices`` whose buckets take ``exchange_s`` (see ``exchange_times``).

    Raises:
        ValueError: not one time a bucket.
    """
    if len(exchange_s) != len(step.buckets):
        raise ValueError(
            f"predict: exchange_s must have {len(step.buckets)} times, got {len(exchange_s)}"
        )
    forward_s = step.compute_s * (1 - step.backward_share)
    backward_s = step.compute_s - forward_s
    ready, finished, total = 0.0, 0.0, sum(step.buckets)
    for size, seconds in zip(step.buckets, exchange_s, strict=True):
        ready += size
        finished = max(finished, forward_s + backward_s * ready / total) + seconds
    beside = finished - step.compute_s if devices > 1 else 0.0
    after = sum(exchange_s) if devices > 1 else 0.0
    return Prediction(
        devices=devices,
        compute_s=step.compute_s,
        waiting_s=step.spread_s * expected_largest(devices),
        exchange_s=after,
        exposed_s=step.overlap * beside + (1 - step.overlap) * after,
    )


def exchange_times(step: Step, devices: int, fabric: Fabric) -> list[float]:
    """Seconds that each bucket's all-reduce takes on ``fabric``."""
    return [fabric.all_reduce_s(size, devices) for size in step.buckets]


def estimate(step: Step, devices: int, fabric: Fabric) -> Prediction:
    """``predict`` with the all-reduces that ``fabric`` gives."""
    return predict(step, devices, exchange_times(step, devices, fabric))


def linearity(prediction: Prediction, base: Prediction) -> float:
    """Samples a second over those of ``base`` in proportion to its devices (same batch each)."""
    return base.step_s / prediction.step_s


def spread_for(stated: float, step: Step, devices: int, base_devices: int, fabric: Fabric) -> float:
    """The spread of step times, in seconds, that would explain a stated linearity.

    Args:
        stated: linearity of ``devices`` relative to ``base_devices``, 0..1.
        step: its ``compute_s`` holds at ``base_devices``, waiting included.
        devices: of the stated run.
        base_devices: of the run that it is relative to.
        fabric: what connects them.

    Returns:
        0 where communication alone explains as much or more.

    Raises:
        ValueError: ``stated`` is not in 0..1, or ``devices`` is not more than ``base_devices``.
    """
    if not 0 < stated <= 1:
        raise ValueError(f"spread: stated must be in 0..1, got {stated}")
    if devices <= base_devices:
        raise ValueError(f"spread: devices must be more than {base_devices}, got {devices}")
    still = replace(step, spread_s=0.0)
    base, more = estimate(still, base_devices, fabric), estimate(still, devices, fabric)
    missing_s = base.step_s / stated - more.step_s
    return max(missing_s, 0.0) / (expected_largest(devices) - expected_largest(base_devices))


def fit_link(sizes: Sequence[float], seconds: Sequence[float], devices: int) -> Link:
    """Latency and bandwidth of measured all-reduces, as a ring spends them.

    Least squares on relative errors, so that small sizes count as much as large ones.

    Args:
        sizes: bytes of each all-reduce.
        seconds: that it took.
        devices: that took part.

    Raises:
        ValueError: fewer than two sizes or devices, or times that do not grow with the size.
    """
    if len(sizes) != len(seconds) or len(set(sizes)) < 2:
        raise ValueError(f"fit: sizes must be at least two, each with a time, got {list(sizes)}")
    if devices < 2:
        raise ValueError(f"fit: devices must be at least 2, got {devices}")
    weights = [1 / taken**2 for taken in seconds]
    total = sum(weights)
    mean_x = sum(w * x for w, x in zip(weights, sizes, strict=True)) / total
    mean_y = sum(w * y for w, y in zip(weights, seconds, strict=True)) / total
    rows = list(zip(weights, sizes, seconds, strict=True))
    slope = sum(w * (x - mean_x) * (y - mean_y) for w, x, y in rows) / sum(
        w * (x - mean_x) ** 2 for w, x, _ in rows
    )
    if slope <= 0:
        raise ValueError(f"fit: seconds must grow with the size, got {list(seconds)}")
    latency = max(mean_y - slope * mean_x, 0.0)
    hops = 2 * (devices - 1)
    return Link(latency / hops, hops / devices / slope)


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"communication: {name} must be at least 1, got {value}")
