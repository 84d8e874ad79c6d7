"""Layers described by a config: ``dict(type="BN1d", eps=1e-3)`` becomes a module."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from anybev.models.common.arguments import call

CONVOLUTIONS: dict[str, type[nn.Module]] = {
    "Conv1d": nn.Conv1d,
    "Conv2d": nn.Conv2d,
    "Conv": nn.Conv2d,
    "deconv": nn.ConvTranspose2d,
}
NORMS: dict[str, type[nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "BN1d": nn.BatchNorm1d,
    "BN2d": nn.BatchNorm2d,
    "LN": nn.LayerNorm,
}


def _make(
    kind: str, table: Mapping[str, type[nn.Module]], cfg: Mapping[str, Any], *args: Any, **more: Any
) -> nn.Module:
    options = dict(cfg)
    name = options.pop("type", None)
    if name not in table:
        raise ValueError(f"{kind}: type must be one of {', '.join(sorted(table))}, got {name!r}")
    return call(kind, table[name], options, *args, **more)


def make_conv(cfg: Mapping[str, Any], *args: Any, **more: Any) -> nn.Module:
    """A convolution from ``cfg``; ``more`` overrides what ``cfg`` says."""
    return _make("conv_cfg", CONVOLUTIONS, cfg, *args, **more)


def make_norm(cfg: Mapping[str, Any], channels: int) -> nn.Module:
    """A normalisation layer over ``channels`` from ``cfg``; ``requires_grad=False`` freezes it."""
    options = dict(cfg)
    trained = bool(options.pop("requires_grad", True))
    return _make("norm_cfg", NORMS, options, channels).requires_grad_(trained)
