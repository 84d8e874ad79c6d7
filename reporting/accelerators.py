"""Inputs of the communication model for accelerators nobody measured here: each with its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anybev.reporting.communication import Fabric, Input, Link

DRIVINGSDK = "DrivingSDK model_examples/BEVFusion/README.md, results of 2026-01-31"
#: DrivingSDK's line of 16 devices: samples a second, linearity, devices it is relative to.
STATED_FPS, STATED_LINEARITY, STATED_DEVICES, STATED_BASE = 45.86, 0.9707, 16, 8
#: Samples a second that DrivingSDK prints for those 8 devices.
PRINTED_BASE_FPS = 26.46
BATCH_PER_DEVICE = 4

_H100 = "NVIDIA H100 data sheet: NVLink 900 GB/s, half of it a direction"
_CX7 = "NVIDIA DGX H100 user guide: a ConnectX-7 port of 400 Gbit/s a GPU"
_HCCS = "reported for the full mesh of 8 (7 links x 56 GB/s), half of it a direction; no data sheet"
_ROCE = "reported by hccn_tool on these servers: a RoCE port of 200 Gbit/s an NPU"
_USUAL = "usual for large all-reduces; not measured"


@dataclass(frozen=True)
class Accelerator:
    """A node of 8 devices and the network between nodes.

    Attributes:
        name: in tables.
        step: seconds of a step on 8 devices, exchange included.
        local, network: GB/s in one direction, as sold.
        local_share, network_share: what a collective reaches of that.
        local_latency, network_latency: microseconds a hop.
    """

    name: str
    step: Input
    local: Input
    network: Input
    local_share: Input
    network_share: Input
    local_latency: Input
    network_latency: Input
    devices_per_node: int = 8

    def inputs(self) -> Sequence[Input]:
        """Everything that the estimate depends on beside the model's own."""
        return [value for value in vars(self).values() if isinstance(value, Input)]

    def fabric(self) -> Fabric:
        """The links as the communication model takes them."""
        return Fabric(
            _link(self.local_latency, self.local, self.local_share),
            _link(self.network_latency, self.network, self.network_share),
            self.devices_per_node,
        )


def _link(latency_us: Input, gigabytes_per_s: Input, share: Input) -> Link:
    return Link(1e-6 * latency_us.value, 1e9 * gigabytes_per_s.value * share.value)


def _assumed(name: str, value: float, unit: str, source: str) -> Input:
    return Input(name, value, unit, measured=False, source=source)


def _step(fps: float, source: str) -> Input:
    return _assumed("step of 8 devices", 8 * BATCH_PER_DEVICE / fps, "s", source)


def _atlas(precision: str, fps: float) -> Accelerator:
    return Accelerator(
        name=f"Atlas 800T A2 {precision}",
        step=_step(fps, f"32 samples / {fps} samples/s; {DRIVINGSDK}"),
        local=_assumed("HCCS", 196, "GB/s", _HCCS),
        network=_assumed("RoCE", 25, "GB/s", _ROCE),
        local_share=_assumed("share of HCCS reached", 0.6, "", _USUAL),
        network_share=_assumed("share of RoCE reached", 0.8, "", _USUAL),
        local_latency=_assumed("HCCS latency a hop", 10, "us", _USUAL),
        network_latency=_assumed("RoCE latency a hop", 20, "us", _USUAL),
    )


def _h100(name: str, fps: float, source: str) -> Accelerator:
    return Accelerator(
        name=f"H100, {name}",
        step=_step(fps, source),
        local=_assumed("NVLink", 450, "GB/s", _H100),
        network=_assumed("InfiniBand", 50, "GB/s", _CX7),
        local_share=_assumed("share of NVLink reached", 0.8, "", _USUAL),
        network_share=_assumed("share of InfiniBand reached", 0.8, "", _USUAL),
        local_latency=_assumed("NVLink latency a hop", 5, "us", _USUAL),
        network_latency=_assumed("InfiniBand latency a hop", 10, "us", _USUAL),
    )


ACCELERATORS = (
    _atlas("fp32", PRINTED_BASE_FPS),
    _atlas("fp16", 32.78),
    _h100(
        "competitor's steps",
        22.54,
        f"32 samples / 22.54 samples/s in fp32, of an accelerator without a name; {DRIVINGSDK}",
    ),
    _h100(
        "40 ms a step",
        800.0,
        "10 ms a sample: 30 to 40 % of what 1.9 TFLOP a sample need at 800 TFLOP/s and 3.35 TB/s",
    ),
)
