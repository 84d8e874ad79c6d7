"""The official judge: nuScenes' devkit, run quietly on one submission."""

import contextlib
import importlib.util
import io
import json
import logging
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

# The devkit fixes which splits belong to which kind of tables.
_SPLIT_ENDINGS = {
    "train": "trainval",
    "val": "trainval",
    "train_detect": "trainval",
    "train_track": "trainval",
    "mini_train": "mini",
    "mini_val": "mini",
    "test": "test",
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send what the devkit prints, its progress bars included, to the log."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield
    finally:
        for line in printed.getvalue().replace("\r", "\n").splitlines():
            if line.strip():
                logger.debug("nuscenes-devkit: %s", line.strip())


@contextlib.contextmanager
def _without_scikit_learn() -> Iterator[None]:
    """Let the devkit be imported where scikit-learn is not installed.

    The devkit imports it on load and needs it for one map drawing only. The placeholder is taken
    away again, so that no other package takes it for the real one.
    """
    if "sklearn" in sys.modules or importlib.util.find_spec("sklearn") is not None:
        yield
        return
    package, metrics = types.ModuleType("sklearn"), types.ModuleType("sklearn.metrics")
    package.metrics = metrics  # type: ignore[attr-defined]
    sys.modules.update({"sklearn": package, "sklearn.metrics": metrics})
    try:
        yield
    finally:
        del sys.modules["sklearn"], sys.modules["sklearn.metrics"]


def load_config(name: str) -> Any:
    """The devkit's detection settings of that name.

    Raises:
        ValueError: the devkit has no detection settings of that name.
    """
    with _without_scikit_learn():
        import nuscenes.eval.detection as detection
        from nuscenes.eval.common import config as devkit_config

    folder = Path(str(detection.__file__)).parent / "configs"
    known = sorted(path.stem for path in folder.glob("*.json"))
    if name not in known:
        raise ValueError(f"eval_config must be one of {', '.join(known)}, got {name!r}")
    return devkit_config.config_factory(name)


def load_tables(data_root: Path, version: str) -> Any:
    """The devkit's view of a data set on disk.

    Raises:
        FileNotFoundError: there are no tables of that version.
    """
    folder = data_root / version
    if not (folder / "sample.json").is_file():
        raise FileNotFoundError(
            f"evaluate_nuscenes: data_root must hold the tables {version}/*.json, got {data_root} "
            "without them; try the folder that has samples/, sweeps/ and "
            f"{version}/ side by side, or another version"
        )
    with _without_scikit_learn():
        from nuscenes import NuScenes

    with _quiet():
        return NuScenes(version=version, dataroot=str(data_root), verbose=False)


def split_tokens(tables: Any, split: str) -> list[str]:
    """Tokens of the split's samples that this data set holds, in the order of its table.

    A split restricted to the scenes on disk is what the devkit itself scores.

    Raises:
        ValueError: the split is unknown, does not belong to these tables, or has no scene here.
    """
    from nuscenes.utils.splits import create_splits_scenes

    ending = _SPLIT_ENDINGS.get(split)
    if ending is None:
        raise ValueError(
            f"evaluate_nuscenes: split must be one of {', '.join(_SPLIT_ENDINGS)}, got {split!r}"
        )
    if not tables.version.endswith(ending):
        fitting = [name for name, end in _SPLIT_ENDINGS.items() if tables.version.endswith(end)]
        raise ValueError(
            f"evaluate_nuscenes: split must belong to the tables {tables.version}, got {split!r}; "
            f"try {' or '.join(fitting) or f'tables whose name ends in {ending}'}"
        )
    wanted = set(create_splits_scenes()[split])
    scenes = {scene["token"] for scene in tables.scene if scene["name"] in wanted}
    tokens = [sample["token"] for sample in tables.sample if sample["scene_token"] in scenes]
    if not tokens:
        raise ValueError(
            f"evaluate_nuscenes: split must have scenes in the data set, got none of {split!r} "
            f"among the {len(tables.scene)} of {tables.dataroot}"
        )
    return tokens


def _count_annotations(tables: Any, tokens: list[str]) -> int:
    """How many annotations of the detection classes the samples have."""
    from nuscenes.eval.detection.utils import category_to_detection_name

    wanted = set(tokens)
    return sum(
        record["sample_token"] in wanted
        and category_to_detection_name(record["category_name"]) is not None
        for record in tables.sample_annotation
    )


def _metrics_without_predictions(config: Any) -> Any:
    """What the devkit gives a submission whose boxes are all dropped.

    A submission without a single box makes it raise, because it finds out the kind of boxes by
    looking at the first.
    """
    from nuscenes.eval.detection.constants import TP_METRICS
    from nuscenes.eval.detection.data_classes import DetectionMetrics

    undefined = {
        "traffic_cone": ("attr_err", "vel_err", "orient_err"),
        "barrier": ("attr_err", "vel_err"),
    }
    metrics = DetectionMetrics(config)
    for name in config.class_names:
        for distance in config.dist_ths:
            metrics.add_label_ap(name, distance, 0.0)
        for error in TP_METRICS:
            missing = error in undefined.get(name, ())
            metrics.add_label_tp(name, error, float("nan") if missing else 1.0)
    return metrics


def judge(tables: Any, config: Any, submission: Path, split: str) -> dict[str, Any]:
    """Score a submission with the devkit's ``DetectionEval``.

    Args:
        tables: from ``load_tables``.
        config: from ``load_config``.
        submission: JSON with the results of every sample of the split.
        split: the devkit's name.

    Returns:
        The devkit's metrics summary.

    Raises:
        ValueError: the split has no annotated object to score against.
    """
    from nuscenes.eval.detection.evaluate import DetectionEval

    tokens = split_tokens(tables, split)
    if not _count_annotations(tables, tokens):
        raise ValueError(
            f"evaluate_nuscenes: split must have annotated objects, got none in the {len(tokens)} "
            f"samples of {split!r}"
        )
    results = json.loads(submission.read_text(encoding="utf-8"))["results"]
    if not any(results.values()):
        logger.warning("no box was found in any of the %d frames", len(tokens))
        return dict(_metrics_without_predictions(config).serialize())
    # The devkit makes a folder for plots, which are not drawn here.
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        evaluation = DetectionEval(
            tables,
            config=config,
            result_path=str(submission),
            eval_set=split,
            output_dir=scratch,
            verbose=False,
        )
        metrics, _ = evaluation.evaluate()
    return dict(metrics.serialize())
