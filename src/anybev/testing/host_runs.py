"""Runs one of mmdetection3d's installed configs on a random scene, and records what it calls."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import nn

from anybev import patches
from anybev.engine.config import load
from anybev.patches.ext._names import NAMES
from anybev.testing.host_families import Family
from anybev.testing.host_scenes import batch

_SPARSE = ("anybev.patches.spconv", "mmcv.ops.sparse_")


@dataclass
class Run:
    """What a family did.

    Attributes:
        loss: the sum of its losses.
        parameters: how many are trainable.
        silent: names of those that get no gradient, or one that is 0.
        finite: loss and every gradient that exists are.
        results: what it predicts, for each of the two samples.
        calls: names of ``mmcv._ext`` that it called.
        sparse: classes of its sparse layers.
        seconds: of building, loss, backward and predict.
    """

    loss: float
    parameters: int
    silent: list[str]
    finite: bool
    results: list[Any]
    calls: tuple[str, ...]
    sparse: tuple[str, ...]
    seconds: dict[str, float]

    @property
    def trained(self) -> float:
        """Share of the trainable parameters that get a gradient that is not 0."""
        return 1 - len(self.silent) / self.parameters


@contextmanager
def recorded() -> Iterator[set[str]]:
    """Names of ``mmcv._ext`` that are called inside the block."""
    import mmcv._ext as ext

    seen: set[str] = set()
    before = {name: getattr(ext, name) for name in NAMES if hasattr(ext, name)}

    def watched(name: str) -> Any:
        @functools.wraps(before[name])
        def call(*arguments: Any, **named: Any) -> Any:
            seen.add(name)
            return before[name](*arguments, **named)

        return call

    try:
        for name in before:
            setattr(ext, name, watched(name))
        yield seen
    finally:
        for name, function in before.items():
            setattr(ext, name, function)


def _without_downloads(node: Any) -> None:
    """Take weights that a config would fetch from a server out of it."""
    if isinstance(node, dict):
        if "checkpoint" in (node.get("init_cfg") or {}):
            node["init_cfg"] = None
        for value in node.values():
            _without_downloads(value)
    elif isinstance(node, list | tuple):
        for value in node:
            _without_downloads(value)


def build(name: str, family: Family) -> nn.Module:
    """The model of the family's config with fresh weights."""
    from mmdet3d.registry import MODELS
    from mmengine.registry import init_default_scope

    config = load(f"mmdet3d::{name}/{family.config}", dict(family.options), patches.apply)
    init_default_scope(config.default_scope)
    for key in family.removed:
        del config.model[key]
    _without_downloads(config.model)
    torch.manual_seed(0)
    model: nn.Module = MODELS.build(config.model)
    model.init_weights()  # type: ignore[operator]
    return model


def run(name: str, family: Family) -> Run:
    """Loss, backward and predict of two samples."""
    if family.scene is None:
        raise ValueError(f"family: must have a scene, got none for {name}")
    laps = [perf_counter()]
    with recorded() as calls:
        model: Any = build(name, family)
        model.train()
        laps.append(perf_counter())
        data = model.data_preprocessor(batch(family.scene), True)
        loss, _ = model.parse_losses(model(**data, mode="loss"))
        laps.append(perf_counter())
        loss.backward()
        laps.append(perf_counter())
        trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
        gradients = {key: p.grad for key, p in trained.items() if p.grad is not None}
        model.eval()
        with torch.no_grad():
            data = model.data_preprocessor(batch(family.scene, **family.predicted), False)
            results = model(**data, mode="predict")
        laps.append(perf_counter())
    sparse = {type(m).__name__ for m in model.modules() if type(m).__module__.startswith(_SPARSE)}
    steps = ("build", "loss", "backward", "predict")
    return Run(
        loss=float(loss.detach()),
        parameters=len(trained),
        silent=[key for key in trained if key not in gradients or not gradients[key].any()],
        finite=all(bool(value.isfinite().all()) for value in (loss, *gradients.values())),
        results=list(results),
        calls=tuple(sorted(calls)),
        sparse=tuple(sorted(sparse - {"SparseSequential"})),
        seconds={step: laps[i + 1] - laps[i] for i, step in enumerate(steps)},
    )
