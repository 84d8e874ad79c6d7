"""NDS, mAP and true-positive errors of detections, as nuScenes' devkit scores them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anybev.datasets.sample import Detections
from anybev.datasets.synthetic.nuscenes import MARKER
from anybev.evaluation import judge
from anybev.evaluation.export import ATTRIBUTES, boxes_to_results, submission_meta
from anybev.files import write_json

SYNTHETIC_NOTE = "scored by the nuScenes devkit on synthetic scenes; not comparable with nuScenes"

TP_ERRORS = {
    "trans_err": "mATE",
    "scale_err": "mASE",
    "orient_err": "mAOE",
    "vel_err": "mAVE",
    "attr_err": "mAAE",
}


@dataclass(frozen=True)
class NuScenesMetrics:
    """One evaluation.

    Attributes:
        nds: nuScenes detection score, 0..1.
        mean_ap: mean over ten classes and four distances, 0..1.
        tp_errors: mATE (metres), mASE (1 - IoU), mAOE (radians), mAVE (metres a second), mAAE
            (1 - accuracy), each the mean over the classes that have it.
        per_class_ap: mean over the distances.
        per_class_ap_by_threshold: class -> match distance in metres -> AP.
        per_class_tp: class -> ATE, ASE, AOE, AVE, AAE; NaN where nuScenes defines none.
        num_objects: class -> annotated objects in range with a return; a class that has none gets
            AP 0 from the judge.
        num_frames: scored frames.
        split: the devkit's split.
        note: what has to be said beside the numbers; empty for nuScenes itself.
    """

    nds: float
    mean_ap: float
    tp_errors: dict[str, float]
    per_class_ap: dict[str, float]
    per_class_ap_by_threshold: dict[str, dict[float, float]]
    per_class_tp: dict[str, dict[str, float]]
    num_objects: dict[str, int]
    num_frames: int
    split: str
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: thresholds become text, NaN becomes None."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {str(key): plain(inner) for key, inner in value.items()}
            if isinstance(value, float) and not math.isfinite(value):
                return None
            return value

        return {key: plain(value) for key, value in asdict(self).items()}


def is_synthetic(data_root: Path, logs: Sequence[Mapping[str, Any]] = ()) -> bool:
    """Whether a data set was written by ``anybev synth``.

    Args:
        data_root: a marker file in it tells.
        logs: records of the log table; the name of a log file tells too.
    """
    marked = (data_root / MARKER).exists()
    return marked or any(str(log.get("logfile", "")).startswith("synthetic") for log in logs)


def _check_tokens(detections: Mapping[str, Detections], tokens: Sequence[str], split: str) -> None:
    """Every frame of the split must be there, and no other."""
    missing = [token for token in tokens if token not in detections]
    unknown = sorted(set(detections) - set(tokens))
    if not (missing or unknown):
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing (first {missing[0]})")
    if unknown:
        parts.append(f"{len(unknown)} that it does not have (first {unknown[0]})")
    raise ValueError(
        f"evaluate_nuscenes: detections must cover the {len(tokens)} frames of {split!r} exactly, "
        f"got {' and '.join(parts)}; try the info file and the split that belong together"
    )


def _check_classes(classes: Sequence[str]) -> None:
    """The model's classes must be nuScenes'."""
    unknown = [name for name in classes if name not in ATTRIBUTES]
    if unknown or not classes:
        raise ValueError(
            f"evaluate_nuscenes: classes must be among {', '.join(ATTRIBUTES)}, got "
            f"{', '.join(unknown) or 'none'}"
        )


def _by_token(
    infos: Sequence[Mapping[str, Any]], tokens: Sequence[str], split: str
) -> dict[str, Mapping[str, Any]]:
    """Info entries of the frames."""
    by_token = {info["token"]: info for info in infos}
    without = [token for token in tokens if token not in by_token]
    if without:
        raise ValueError(
            f"evaluate_nuscenes: infos must hold the {len(tokens)} frames of {split!r}, got "
            f"{len(without)} missing (first {without[0]})"
        )
    return by_token


def _metrics(
    summary: Mapping[str, Any], objects: dict[str, int], num_frames: int, split: str, note: str
) -> NuScenesMetrics:
    """The devkit's summary in our terms."""
    return NuScenesMetrics(
        nds=float(summary["nd_score"]),
        mean_ap=float(summary["mean_ap"]),
        tp_errors={TP_ERRORS[key]: float(value) for key, value in summary["tp_errors"].items()},
        per_class_ap={name: float(ap) for name, ap in summary["mean_dist_aps"].items()},
        per_class_ap_by_threshold={
            name: {float(distance): float(ap) for distance, ap in by_distance.items()}
            for name, by_distance in summary["label_aps"].items()
        },
        per_class_tp={
            name: {TP_ERRORS[key][1:]: float(value) for key, value in errors.items()}
            for name, errors in summary["label_tp_errors"].items()
        },
        num_objects=objects,
        num_frames=num_frames,
        split=split,
        note=note,
    )


def evaluate_nuscenes(
    detections: Mapping[str, Detections],
    infos: Sequence[Mapping[str, Any]],
    *,
    classes: Sequence[str],
    data_root: Path | str,
    version: str,
    split: str,
    output_dir: Path | str,
    eval_config: str = "detection_cvpr_2019",
    ann_file: Path | str | None = None,
    loading: Mapping[str, Any] | None = None,
    modality: Mapping[str, bool] | None = None,
) -> NuScenesMetrics:
    """Score detections with nuScenes' devkit.

    A split is scored on the scenes of it that are on disk, so synthetic sets and parts of nuScenes
    work. ``output_dir`` receives the submission (``results_nusc.json``), the metrics
    (``metrics_summary.json``), precision over recall (``pr_curves.json``) and what a report
    needs to find the frames again (``source.json``).

    Args:
        detections: frame token -> boxes in the lidar frame; empty boxes where nothing was found.
        infos: entries of the v2 info file that cover the frames.
        classes: name of each label, a subset of nuScenes' ten.
        data_root: folder with ``<version>/*.json``.
        version: ``v1.0-trainval``, ``v1.0-mini`` or ``v1.0-test``.
        split: ``val``, ``train``, ``mini_val`` ...
        output_dir: made when missing.
        eval_config: name of the devkit's settings.
        ann_file: where ``infos`` came from, for ``source.json``.
        loading: how the frames' files were read, for the same (``NuScenesDataset.metainfo``).
        modality: what the submission says of the sensors used: ``use_lidar``, ``use_camera`` ...;
            lidar alone when None.

    Returns:
        The devkit's numbers.

    Raises:
        ValueError: classes, modality, split, frames or boxes are out of their contract; says which.
        FileNotFoundError: ``data_root`` has no tables of that version.
    """
    _check_classes(classes)
    meta = submission_meta(modality)
    data_root, output_dir = Path(data_root), Path(output_dir)
    config = judge.load_config(eval_config)
    tables = judge.load_tables(data_root, version)
    tokens = judge.split_tokens(tables, split, detections)
    _check_tokens(detections, tokens, split)
    by_token = _by_token(infos, tokens, split)
    results = {
        token: boxes_to_results(
            detections[token],
            by_token[token],
            classes=classes,
            class_range_m=config.class_range,
            max_boxes=config.max_boxes_per_sample,
        )
        for token in tokens
    }
    submission = output_dir / "results_nusc.json"
    write_json(submission, {"meta": meta, "results": results})
    empty = not any(results.values())
    verdict = judge.judge(tables, config, submission, split, tokens, empty=empty)
    note = SYNTHETIC_NOTE if is_synthetic(data_root, tables.log) else ""
    metrics = _metrics(verdict.summary, verdict.objects, len(tokens), split, note)
    write_json(output_dir / "metrics_summary.json", metrics.to_dict())
    write_json(output_dir / "pr_curves.json", verdict.curves)
    source = {
        "data_root": str(data_root.resolve()),
        "ann_file": ann_file and str(Path(ann_file).resolve()),
        "version": version,
        "split": split,
        "eval_config": eval_config,
        "classes": list(classes),
        "class_range_m": dict(config.class_range),
        "loading": dict(loading or {}),
    }
    write_json(output_dir / "source.json", source)
    return metrics
