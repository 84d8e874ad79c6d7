"""Inputs of the sparse convolutions: neighbour plans and what runs over them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from anybev.device.ops.sparse_conv import sparse_conv
from anybev.device.ops.sparse_neighbors import sparse_neighbors
from anybev.engine.check.case import WIDE, Case, Draw, cells

_SHAPE = (11, 9, 7)
_BATCH = 2
#: Every geometry of BEVFusion's encoder, and some that it lacks.
_GEOMETRIES: dict[str, Mapping[str, Any]] = {
    "subm 3": {"kernel_size": (3, 3, 3), "mode": "subm"},
    "subm 1": {"kernel_size": (1, 1, 1), "mode": "subm"},
    "subm along x": {"kernel_size": (3, 1, 1), "mode": "subm"},
    "stride 2": {
        "kernel_size": (3, 3, 3),
        "stride": (2, 2, 2),
        "padding": (1, 1, 1),
        "mode": "strided",
    },
    "stride 2, no padding along z": {
        "kernel_size": (3, 3, 3),
        "stride": (2, 2, 2),
        "padding": (1, 1, 0),
        "mode": "strided",
    },
    "along z": {"kernel_size": (1, 1, 3), "stride": (1, 1, 2), "mode": "strided"},
    "kernel 2": {"kernel_size": (2, 2, 2), "stride": (2, 2, 2), "mode": "strided"},
}


def _sites(draw: Draw, count: int) -> Tensor:
    """Distinct sites in no order; of few, one at each end of the grid."""
    drawn = cells(draw, count, _BATCH, _SHAPE)
    corners = [[0, 0, 0, 0], [_BATCH - 1, *(n - 1 for n in _SHAPE)]]
    return torch.tensor(corners, dtype=torch.int32) if count == 2 else drawn


def _plan(coords: Tensor, **geometry: Any) -> tuple[Tensor, ...]:
    plan = sparse_neighbors(coords, _SHAPE, _BATCH, **geometry)
    back = plan.inverse()
    return plan.out_coords, plan.table, back.out_coords, back.table


def _plan_cases() -> list[Case]:
    def make(draw: Draw, count: int) -> Mapping[str, Any]:
        return {"coords": _sites(draw, count)}

    names = {300: "300 sites", 2: "two corners", 1: "one site", 0: "no site"}
    return [
        Case(
            "sparse_neighbors",
            f"{geometry}, {name}",
            partial(_plan, **arguments),
            partial(make, count=count),
        )
        for geometry, arguments in _GEOMETRIES.items()
        for count, name in names.items()
    ]


def _convolve(
    features: Tensor,
    weight: Tensor,
    coords: Tensor,
    geometry: Mapping[str, Any],
    bias: Tensor | None = None,
    inverse: bool = False,
) -> Tensor:
    plan = sparse_neighbors(coords, _SHAPE, _BATCH, **geometry)
    if not inverse:
        return sparse_conv(features, weight, plan, bias)
    # Features live on the sites that the plan reaches: as many rows as it has, however many.
    rows = features.repeat(len(plan.out_coords), 1)
    scale = torch.arange(len(rows), device=rows.device) % 7 / 8 + 0.25
    return sparse_conv(rows * scale[:, None].to(rows.dtype), weight, plan.inverse(), bias)


def _layer(
    draw: Draw,
    geometry: str,
    sites: int,
    channels: tuple[int, int],
    *,
    bias: bool = False,
    inverse: bool = False,
) -> Mapping[str, Any]:
    arguments = _GEOMETRIES[geometry]
    features_in, features_out = channels
    # Sums of some 30 neighbours stay near 1.
    weight = draw.normal(features_out, *arguments["kernel_size"], features_in)
    weight /= (8 * features_in) ** 0.5
    return {
        "features": draw.normal(1 if inverse else sites, features_in),
        "weight": weight,
        "coords": _sites(draw, sites),
        "geometry": arguments,
        "inverse": inverse,
        "bias": draw.normal(features_out) if bias else None,
    }


def _case(name: str, geometry: str, sites: int, channels: tuple[int, int], **more: Any) -> Case:
    values = ("features", "weight", "bias") if more.get("bias") else ("features", "weight")
    make: Callable[[Draw], Mapping[str, Any]] = partial(
        _layer, geometry=geometry, sites=sites, channels=channels, **more
    )
    return Case(
        "sparse_conv",
        f"{geometry}, {name}",
        _convolve,
        make,
        dtypes=WIDE,
        values=values,
        gradients=values,
        products=True,
    )


CASES = (
    *_plan_cases(),
    *(_case("16 to 32", geometry, 300, (16, 32)) for geometry in _GEOMETRIES),
    _case("with bias", "subm 3", 200, (16, 16), bias=True),
    _case("5 to 16", "subm 3", 200, (5, 16)),
    _case("16 to 24", "stride 2", 200, (16, 24)),
    _case("7 to 3", "stride 2", 200, (7, 3)),
    _case("128 to 128", "subm 3", 150, (128, 128)),
    _case("inverse, 16 to 16", "stride 2", 200, (16, 16), inverse=True),
    _case("one site", "subm 3", 1, (16, 16)),
    _case("one site", "stride 2", 1, (16, 16)),
    _case("no site", "subm 3", 0, (16, 16)),
    _case("no site", "stride 2", 0, (16, 16)),
)
