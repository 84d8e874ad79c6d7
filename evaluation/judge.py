"""The official judge: nuScenes' devkit, run quietly on one submission."""

import contextlib
import io
import json
import logging
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Verdict:
    """What the devkit found.

    Attributes:
        summary: its metrics summary.
        objects: class -> how many objects it scored against: those in the class's range with a
            return.
        curves: ``recall`` (101 values) and ``precision``: class -> match distance in metres, as
            text -> precision at each of them, before AP cuts off what is below 0.1.
    """

    summary: dict[str, Any]
    objects: dict[str, int]
    curves: dict[str, Any]


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


def load_config(name: str) -> Any:
    """The devkit's detection settings of that name.

    Raises:
        ValueError: the devkit has no detection settings of that name.
    """
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
    from nuscenes import NuScenes

    with _quiet():
        return NuScenes(version=version, dataroot=str(data_root), verbose=False)


def split_tokens(tables: Any, split: str, answered: Collection[str] = ()) -> list[str]:
    """Tokens of the split's samples that this data set holds, in the order of its table.

    A scene of which no sample is ``answered`` and whose first sweep is not on disk is left out: a
    part of nuScenes comes with the tables of the whole.

    Args:
        tables: from ``load_tables``.
        split: the devkit's name.
        answered: samples that there are results for.

    Raises:
        ValueError: the split is unknown, does not belong to these tables, or has no scene here.
    """
    from nuscenes.utils.splits import create_splits_scenes

    _check_split(tables.version, split)
    official, known = set(create_splits_scenes()[split]), set(answered)
    of_scene: dict[str, list[str]] = defaultdict(list)
    for sample in tables.sample:
        of_scene[sample["scene_token"]].append(sample["token"])
    kept: list[str] = []
    absent: list[str] = []
    for scene in tables.scene:
        tokens = of_scene[scene["token"]]
        if scene["name"] not in official or not tokens:
            continue
        here = not known.isdisjoint(tokens) or _on_disk(tables, tokens[0])
        (kept if here else absent).append(scene["token"])
    if absent:
        logger.warning("%d scenes of %r are not on disk and not scored", len(absent), split)
    if not kept:
        raise ValueError(
            f"evaluate_nuscenes: split must have scenes in the data set, got none of {split!r} "
            f"among the {len(tables.scene)} of {tables.dataroot}"
        )
    scenes = set(kept)
    return [sample["token"] for sample in tables.sample if sample["scene_token"] in scenes]


def _check_split(version: str, split: str) -> None:
    """The split must be one of the devkit's that belongs to the tables."""
    ending = _SPLIT_ENDINGS.get(split)
    if ending is None:
        raise ValueError(
            f"evaluate_nuscenes: split must be one of {', '.join(_SPLIT_ENDINGS)}, got {split!r}"
        )
    if not version.endswith(ending):
        fitting = [name for name, end in _SPLIT_ENDINGS.items() if version.endswith(end)]
        raise ValueError(
            f"evaluate_nuscenes: split must belong to the tables {version}, got {split!r}; "
            f"try {' or '.join(fitting) or f'tables whose name ends in {ending}'}"
        )


def _on_disk(tables: Any, token: str) -> bool:
    """Whether a sample's sweep is there."""
    lidar = tables.get("sample", token)["data"]["LIDAR_TOP"]
    return Path(tables.get_sample_data_path(lidar)).is_file()


def _count_annotations(tables: Any, tokens: Sequence[str]) -> int:
    """How many annotations of the detection classes the samples have."""
    from nuscenes.eval.detection.utils import category_to_detection_name

    wanted = set(tokens)
    return sum(
        record["sample_token"] in wanted
        and category_to_detection_name(record["category_name"]) is not None
        for record in tables.sample_annotation
    )


class _Part:
    """The devkit's tables with some of the samples, which is how the devkit sees a split."""

    def __init__(self, tables: Any, tokens: Collection[str]) -> None:
        kept = set(tokens)
        self._tables = tables
        self.sample = [record for record in tables.sample if record["token"] in kept]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tables, name)


def _with_a_box(submission: Path, folder: Path) -> Path:
    """A submission without boxes, with one that the devkit drops.

    The devkit finds out the kind of boxes by looking at the first and raises where there is none.
    """
    content = json.loads(submission.read_text(encoding="utf-8"))
    token = next(iter(content["results"]))
    beyond_every_range_m = 1e7
    content["results"][token] = [
        {
            "sample_token": token,
            "translation": [beyond_every_range_m, 0.0, 0.0],
            "size": [1.0, 1.0, 1.0],
            "rotation": [1.0, 0.0, 0.0, 0.0],
            "velocity": [0.0, 0.0],
            "detection_name": "car",
            "detection_score": 0.0,
            "attribute_name": "",
        }
    ]
    padded = folder / submission.name
    padded.write_text(json.dumps(content), encoding="utf-8")
    return padded


def judge(
    tables: Any,
    config: Any,
    submission: Path,
    split: str,
    tokens: Sequence[str],
    *,
    empty: bool = False,
) -> Verdict:
    """Score a submission with the devkit's ``DetectionEval``.

    Args:
        tables: from ``load_tables``.
        config: from ``load_config``.
        submission: JSON with the results of every one of the samples.
        split: the devkit's name.
        tokens: the samples to score, from ``split_tokens``.
        empty: the submission has no box at all.

    Raises:
        ValueError: the samples have no annotated object to score against.
    """
    from nuscenes.eval.detection.evaluate import DetectionEval

    if not _count_annotations(tables, tokens):
        raise ValueError(
            f"evaluate_nuscenes: split must have annotated objects, got none in the {len(tokens)} "
            f"samples of {split!r}"
        )
    if empty:
        logger.warning("no box was found in any of the %d frames", len(tokens))
    logger.info("scoring %d frames of %r with the nuScenes devkit", len(tokens), split)
    # The devkit makes a folder for plots, which are not drawn here.
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        path = _with_a_box(submission, Path(scratch)) if empty else submission
        evaluation = DetectionEval(
            _Part(tables, tokens),
            config=config,
            result_path=str(path),
            eval_set=split,
            output_dir=scratch,
            verbose=False,
        )
        metrics, matched = evaluation.evaluate()
    names = Counter(box.detection_name for box in evaluation.gt_boxes.all)
    return Verdict(
        dict(metrics.serialize()),
        {name: names[name] for name in config.class_names},
        _curves(config, matched),
    )


def _curves(config: Any, matched: Any) -> dict[str, Any]:
    """Precision over recall from the devkit's matches; six digits are enough to draw."""

    def rounded(values: Any) -> list[float]:
        return [round(float(value), 6) for value in values]

    precision = {
        name: {
            f"{distance}": rounded(matched[name, distance].precision)
            for distance in config.dist_ths
        }
        for name in config.class_names
    }
    first = matched[next(iter(config.class_names)), config.dist_ths[0]]
    return {"recall": rounded(first.recall), "precision": precision}
