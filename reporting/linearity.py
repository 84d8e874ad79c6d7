"""Training speed over the number of processes: DrivingSDK's table, of runs that are alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anybev.reporting.config_identity import config_entries
from anybev.reporting.run import Run, number, read_json, read_runs
from anybev.reporting.tables import markdown_table

HEADER = (
    "NAME",
    "Modality",
    "Voxel type (voxel size)",
    "precision",
    "Epoch",
    "global batch size",
    "NDS",
    "mAP",
    "FPS",
    "linearity",
)
_NEEDED = ("samples_per_s", "world_size", "global_batch", "precision", "device")
# How a run is watched, judged and goes on: nothing that a step costs.
_NOT_COMPARED = frozenset(
    (
        *("auto_scale_lr", "custom_hooks", "load_from", "load_from_may_lack", "train_cfg"),
        *("test_cfg", "test_dataloader", "test_evaluator"),
        *("val_cfg", "val_dataloader", "val_evaluator"),
    )
)
_LEARNING_RATE = re.compile(r"^(optim_wrapper\.optimizer\.lr|param_scheduler\b)")
_MAX_NAMED = 6


@dataclass(frozen=True)
class Speed:
    """How fast one run trained.

    Attributes:
        name: ``8p-<device>``, unique among the runs.
        path: the run's folder.
        samples_per_s: of all processes together, median step.
        world_size: processes.
        global_batch: samples a step of all processes together.
        precision: as it was really used.
        device: its name.
        modality, voxel_size_m, epochs: from the config; None where it does not say.
        nds, mean_ap: 0..1; None without an evaluation.
        config: the config flattened to ``{"model.type": ...}``; empty where it is not known.
        machine: what makes speeds comparable: processor, cores, threads, torch.
        note: what the evaluation says about its scores.
    """

    name: str
    path: Path
    samples_per_s: float
    world_size: int
    global_batch: int
    precision: str
    device: str
    modality: str | None
    voxel_size_m: float | None
    epochs: int | None
    nds: float | None
    mean_ap: float | None
    config: Mapping[str, Any]
    machine: Mapping[str, str]
    note: str = ""

    @property
    def batch_per_process(self) -> float:
        """Samples a step of one process."""
        return self.global_batch / self.world_size

    def linearity(self, base: Speed) -> float:
        """Speed over that of ``base`` in proportion to the processes."""
        return self.samples_per_s / (self.world_size / base.world_size * base.samples_per_s)


@dataclass(frozen=True)
class Linearity:
    """Runs with the one that they are measured against.

    Attributes:
        speeds: in the order given.
        base: the run with the fewest processes.
        differences: what else differs from the base, in words; empty for a fair comparison.
    """

    speeds: Sequence[Speed]
    base: Speed
    differences: Sequence[str]


def compare(paths: Sequence[Path], *, allow_differences: bool = False) -> Linearity:
    """Read runs and compare their speed.

    Args:
        paths: run folders, of one config and one kind of machine.
        allow_differences: compare runs that differ all the same, and say how.

    Raises:
        FileNotFoundError, NotADirectoryError: a folder is missing.
        ValueError: a run has no speed, or differs from the base in more than its processes.
    """
    speeds = [_speed(run) for run in read_runs(paths)]
    names = [speed.name for speed in speeds]
    unique = len(set(names)) == len(names)
    speeds = speeds if unique else [_renamed(speed) for speed in speeds]
    base = min(speeds, key=lambda speed: speed.world_size)
    differences = [text for speed in speeds for text in _differences(speed, base)]
    if differences and not allow_differences:
        raise ValueError(
            "linearity: RUN must differ in the number of processes alone, got "
            f"{'; '.join(differences)}; try --allow-differences to compare them all the same"
        )
    return Linearity(speeds, base, differences)


def linearity_markdown(found: Linearity) -> str:
    """The table, the base run, and what a reader must know beside the numbers."""
    rows = [_row(speed, found.base) for speed in found.speeds]
    base = found.base
    lines = [
        markdown_table(HEADER, rows),
        f"Linearity: FPS over {base.samples_per_s:.2f} x processes / {base.world_size}; base run: "
        f"{base.name} ({base.path}). FPS: samples a second of all processes, median step.",
        *(f"Not the same in all runs: {text}." for text in found.differences),
        *dict.fromkeys(f"NDS and mAP: {s.note}." for s in found.speeds if s.note),
    ]
    return "\n\n".join(lines)


def to_json(found: Linearity) -> dict[str, Any]:
    """The same for programs: scores 0..1, linearity 1 for the base."""
    left_out = ("config", "machine", "note")
    return {
        "base": found.base.name,
        "differences": list(found.differences),
        "runs": [
            {key: value for key, value in vars(speed).items() if key not in left_out}
            | {"linearity": speed.linearity(found.base)}
            for speed in found.speeds
        ],
    }


def _row(speed: Speed, base: Speed) -> list[str]:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f}"

    return [
        speed.name.replace("|", "/"),
        speed.modality or "-",
        "-" if speed.voxel_size_m is None else f"{speed.voxel_size_m:g}",
        speed.precision.upper(),
        "-" if speed.epochs is None else str(speed.epochs),
        str(speed.global_batch),
        percent(speed.nds),
        percent(speed.mean_ap),
        f"{speed.samples_per_s:.2f}",
        "base" if speed is base else f"{100 * speed.linearity(base):.2f}%",
    ]


def _speed(run: Run) -> Speed:
    path = run.path / "metrics.json"
    if not path.is_file():
        raise ValueError(
            f"linearity: RUN must hold metrics.json, which a training writes at its end, got "
            f"{run.path} without it; try the --work-dir of a training that finished"
        )
    content = read_json(path)
    train = content.get("train") if isinstance(content, dict) else None
    train = train if isinstance(train, dict) else {}
    lacking = [key for key in _NEEDED if key not in train]
    if lacking:
        raise ValueError(
            f"linearity: {path}: train must have {', '.join(lacking)}, got {sorted(train)}"
        )
    for key in ("samples_per_s", "world_size", "global_batch"):
        if (number(train[key]) or 0) <= 0:
            raise ValueError(f"linearity: {path}: {key} must be positive, got {train[key]!r}")
    config = _entries(run.config_text)
    epochs = number(config.get("train_cfg.max_epochs"))
    return Speed(
        name=f"{int(train['world_size'])}p-{train['device']}",
        path=run.path,
        samples_per_s=float(train["samples_per_s"]),
        world_size=int(train["world_size"]),
        global_batch=int(train["global_batch"]),
        precision=str(train["precision"]),
        device=str(train["device"]),
        modality=_modality(config),
        voxel_size_m=_voxel_size(config),
        epochs=None if epochs is None else int(epochs),
        nds=number(content.get("NDS")),
        mean_ap=number(content.get("mAP")),
        config=config,
        machine=_machine(run.facts),
        note=run.note,
    )


def _renamed(speed: Speed) -> Speed:
    """Two runs on as many devices of one kind: their folders tell them apart."""
    name = f"{speed.name} ({speed.path.resolve().name})"
    return Speed(**{**vars(speed), "name": name})


def _entries(text: str) -> dict[str, Any]:
    try:
        return config_entries(text)
    except ValueError:  # said among the differences
        return {}


def _modality(config: Mapping[str, Any]) -> str | None:
    if not any(key.startswith("model.") for key in config):
        return None
    return "lidar-cam" if "model.img_backbone.type" in config else "lidar"


def _voxel_size(config: Mapping[str, Any]) -> float | None:
    size = config.get("model.data_preprocessor.voxelize_cfg.voxel_size")
    return number(size[0]) if isinstance(size, (list, tuple)) and size else None


def _machine(facts: Mapping[str, Any]) -> dict[str, str]:
    kept = ("processor", "cores", "threads", "torch", "kernels")
    return {key: str(facts[key]) for key in kept if facts.get(key) is not None}


def _differences(speed: Speed, base: Speed) -> list[str]:
    """What besides the number of processes differs, each as one phrase."""
    if speed is base:
        return []
    pairs = {
        "batch a process": (speed.batch_per_process, base.batch_per_process),
        "precision": (speed.precision, base.precision),
        "device": (speed.device, base.device),
    }
    pairs |= {
        key: (speed.machine.get(key), base.machine.get(key))
        for key in sorted({*speed.machine, *base.machine})
    }
    found = [
        f"{what} {_short(ours)} in {speed.name}, {_short(theirs)} in {base.name}"
        for what, (ours, theirs) in pairs.items()
        if ours != theirs
    ]
    if not speed.config or not base.config:
        return [*found, f"no readable config of {speed.name if base.config else base.name}"]
    keys = [
        key
        for key in sorted({*speed.config, *base.config})
        if speed.config.get(key) != base.config.get(key)
        and key.partition(".")[0] not in _NOT_COMPARED
        and not _LEARNING_RATE.match(key)
    ]
    if keys:
        named = ", ".join(keys[:_MAX_NAMED])
        more = f" and {len(keys) - _MAX_NAMED} more" if len(keys) > _MAX_NAMED else ""
        found.append(f"config of {speed.name} and {base.name}: {named}{more}")
    return found


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
