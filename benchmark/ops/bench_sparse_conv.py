"""Convolutions of the BEVFusion encoder over cached plans, beside spconv and the reference.

``backward`` is the gradient of features and weight together. spconv's values are compared with ours
on one thread before anything is timed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from anybev.benchmark.ops import peers
from anybev.benchmark.ops.harness import (
    OURS,
    REFERENCE,
    Context,
    Row,
    Side,
    on_reference,
    thread_count,
)
from anybev.benchmark.ops.scene import Scene
from anybev.device import cuda_spconv
from anybev.device.ops.sparse_conv import sparse_conv
from anybev.device.ops.sparse_neighbors import SparseNeighbors

NAME = "sparse_conv"
# Layer of the encoder: its plan, input and output channels.
LAYERS = {
    "conv_input": ("L1 subm", 5, 16),
    "L1 subm": ("L1 subm", 16, 16),
    "D1 strided": ("D1 strided", 16, 32),
    "L2 subm": ("L2 subm", 32, 32),
    "D2 strided": ("D2 strided", 32, 64),
    "L3 subm": ("L3 subm", 64, 64),
    "D3 strided": ("D3 strided", 64, 128),
    "L4 subm": ("L4 subm", 128, 128),
    "conv_out": ("out strided", 128, 128),
}
# Largest difference to spconv, relative to the largest value, that counts as the same convolution:
# sums of 100,000 float32 terms stray by 1e-5, a wrong pair by 1e-1.
SAME_VALUES = 1e-4


@dataclass(frozen=True)
class Layer:
    """One convolution and the tensors it runs on."""

    plan: SparseNeighbors
    features: Tensor
    weight: Tensor
    grad: Tensor

    @classmethod
    def draw(cls, plan: SparseNeighbors, cin: int, cout: int) -> "Layer":
        """Random float32 tensors that need gradients, where the plan is."""
        generator, device = torch.Generator().manual_seed(0), plan.in_coords.device
        shapes = (
            (len(plan.in_coords), cin),
            (cout, *plan.kernel_size, cin),
            (len(plan.out_coords), cout),
        )
        features, weight, grad = (
            torch.randn(shape, generator=generator).to(device) for shape in shapes
        )
        return cls(plan, features.requires_grad_(), weight.requires_grad_(), grad)

    def to(self, dtype: torch.dtype) -> "Layer":
        """The layer in another dtype, its tensors leaves."""
        features, weight, grad = (
            value.detach().to(dtype) for value in (self.features, self.weight, self.grad)
        )
        return Layer(self.plan, features.requires_grad_(), weight.requires_grad_(), grad)

    @property
    def gflop(self) -> float:
        """Useful work of one pass over all pairs."""
        return 2e-9 * len(self.plan.forward_pairs.pair_row) * self.weight[:, 0, 0, 0].numel()

    def forward(self) -> Tensor:
        """Our output, without recording gradients."""
        with torch.no_grad():
            return sparse_conv(self.features, self.weight, self.plan)

    def backward_run(self) -> Side:
        """Runs our gradients of features and weight for an output that is there already."""
        out = sparse_conv(self.features, self.weight, self.plan)
        leaves = self.features, self.weight
        return lambda: torch.autograd.grad(out, leaves, self.grad, retain_graph=True)


class SpconvOnDevice:
    """The same convolution by spconv's GPU kernels, over our plan in its layout."""

    def __init__(self, layer: Layer) -> None:
        self.order = torch.arange(len(layer.grad), device=layer.grad.device)
        self._layer, self._out = layer, self._convolve(layer)

    @staticmethod
    def _convolve(layer: Layer) -> Tensor:
        return cuda_spconv.convolve(layer.features, layer.weight, layer.plan, None)

    def forward(self) -> Tensor:
        """Spconv's output, in our row order."""
        with torch.no_grad():
            return self._convolve(self._layer)

    def backward(self) -> tuple[Tensor, Tensor]:
        """Spconv's gradients of features and weight."""
        leaves = self._layer.features, self._layer.weight
        features, weight = torch.autograd.grad(
            self._out, leaves, self._layer.grad, retain_graph=True
        )
        return features, weight


class SpconvLayer:
    """The same convolution through spconv's CPU operators, its map built beforehand."""

    def __init__(self, spconv: ModuleType, layer: Layer) -> None:
        plan, self.ops = layer.plan, spconv.ops
        self.subm, self.rows = plan.is_symmetric, len(plan.out_coords)
        geometry = (plan.kernel_size, plan.stride, plan.padding, (1, 1, 1), (0, 0, 0))
        sites, self.pairs, self.counts = self.ops.get_indice_pairs(
            plan.in_coords,
            plan.batch_size,
            list(plan.in_shape),
            self.ops.ConvAlgo.Native,
            *map(list, geometry),
            self.subm,
        )
        x, y, z = plan.out_shape
        b, i, j, k = sites.long().unbind(1)
        # Row of spconv's output that holds our row m.
        self.order = torch.arange(self.rows)
        if not self.subm:
            self.order = (((b * x + i) * y + j) * z + k).argsort()
        self.features, self.weight = layer.features.detach(), layer.weight.detach()
        self.grad = torch.empty_like(layer.grad)
        self.grad[self.order] = layer.grad

    def forward(self) -> Tensor:
        """Spconv's output, in its own row order."""
        out: Tensor = self.ops.indice_conv(
            self.features, self.weight, self.pairs, self.counts, self.rows, False, self.subm
        )
        return out

    def backward(self) -> tuple[Tensor, Tensor]:
        """Spconv's gradients of features and weight."""
        features, weight = self.ops.indice_conv_backward(
            self.features, self.weight, self.grad, self.pairs, self.counts, False, self.subm
        )
        return features, weight


def value_difference(layer: Layer, peer: SpconvLayer | SpconvOnDevice) -> float:
    """Largest relative difference of output and gradients on one thread.

    Raises:
        RuntimeError: it is larger than rounding explains, so times would not be comparable.
    """
    with thread_count(1):
        theirs = peer.forward()[peer.order], *peer.backward()
        ours = layer.forward(), *layer.backward_run()()  # type: ignore[misc]
        worst = max(
            float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True)
        )
    if worst > SAME_VALUES:
        raise RuntimeError(
            f"bench sparse_conv: spconv must give our values to {SAME_VALUES}, got {worst:.1e}"
        )
    return worst


def _peer(ctx: Context, layer: Layer) -> SpconvLayer | SpconvOnDevice | None:
    spconv = peers.spconv(ctx.device.type)
    if spconv is None:
        return None
    return SpconvLayer(spconv, layer) if ctx.on_cpu else SpconvOnDevice(layer)


def _layer_rows(ctx: Context, case: str, layer: Layer) -> Iterator[Row]:
    cout, cin = layer.weight.shape[0], layer.weight.shape[-1]
    peer = _peer(ctx, layer)
    same = f"values differ by at most {value_difference(layer, peer):.0e}" if peer else ""
    shape: dict[str, int | list[int]] = {
        "sites": len(layer.grad),
        "pairs": len(layer.plan.forward_pairs.pair_row),
        "channels": [cin, cout],
    }
    for threads in ctx.threads:
        notes = {peers.spconv_name(): same if threads == 1 else peers.SPCONV_THREADS_NOTE}
        ceiling = ctx.ceiling_gflops(cin, cout, torch.float32, threads)
        for direction in ("forward", "backward"):
            forward = direction == "forward"
            ours = layer.forward if forward else layer.backward_run()
            sides: dict[str, Side] = {OURS: ours, REFERENCE: on_reference(NAME, ours)}
            if peer is not None:
                sides[peers.spconv_name()] = peer.forward if forward else peer.backward
            yield from ctx.compare(
                NAME,
                case,
                sides,
                shape=shape,
                direction=direction,
                threads=threads,
                gflop=layer.gflop * (1 if forward else 2),
                ceiling_gflops=ceiling,
                notes=notes if peer else None,
            )
        yield from _half_rows(ctx, case, layer, shape, threads)


def _half_rows(
    ctx: Context,
    case: str,
    layer: Layer,
    shape: dict[str, int | list[int]],
    threads: int,
) -> Iterator[Row]:
    """bfloat16, and on a device float16 too, which spconv has."""
    for dtype in (torch.bfloat16,) if ctx.on_cpu else (torch.bfloat16, torch.float16):
        half = layer.to(dtype)
        sides: dict[str, Side] = {OURS: half.forward}
        peer = _peer(ctx, half) if dtype == torch.float16 else None
        if peer is not None:
            sides[peers.spconv_name()] = peer.forward
        yield from ctx.compare(
            NAME,
            case,
            sides,
            shape=shape,
            threads=threads,
            dtype=str(dtype).removeprefix("torch."),
            gflop=layer.gflop,
            ceiling_gflops=ctx.ceiling_gflops(
                layer.weight.shape[-1], layer.weight.shape[0], dtype, threads
            ),
        )


def _scene_rows(ctx: Context, scene: Scene) -> Iterator[Row]:
    for name, (plan, cin, cout) in LAYERS.items():
        layer = Layer.draw(scene.plans[plan], cin, cout)
        yield from _layer_rows(ctx, f"{scene.name} {name} {cin}->{cout}", layer)


def rows(ctx: Context) -> Iterator[Row]:
    """Every kind of layer of the encoder, one sweep and ten, forward and backward."""
    for scene in ctx.scenes.values():
        yield from _scene_rows(ctx, scene)
