"""Scoring inside mmengine's evaluation loops."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger

from anybev.datasets.infos import load_infos
from anybev.datasets.predictions import save_predictions
from anybev.datasets.sample import Detections
from anybev.engine.registry import METRICS
from anybev.evaluation.export import submission_meta
from anybev.evaluation.nuscenes import evaluate_nuscenes
from anybev.files import whole_file
from anybev.reporting.tables import metrics_markdown, metrics_table


@METRICS.register_module()
class NuScenesMetric(BaseMetric):
    """NDS, mAP, the five true-positive errors and per-class AP, by the nuScenes devkit.

    Args:
        data_root: folder of the data set.
        ann_file: v2 info file of the evaluated frames.
        classes: names in the order of the model's labels.
        version: folder of the devkit's tables.
        split: devkit's split that holds the frames.
        output_dir: where the submission file and the judge's output go; the work directory when
            None.
        modality: what the submission says of the sensors used, as ``dict(use_lidar=True,
            use_camera=True)``; lidar alone when None.
    """

    default_prefix = ""  # None makes mmengine warn

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        classes: Sequence[str],
        version: str = "v1.0-trainval",
        split: str = "val",
        output_dir: str | None = None,
        modality: Mapping[str, bool] | None = None,
    ) -> None:
        # Through the process group, on any device: "cpu" means files on a disk that nodes share.
        super().__init__(collect_device="gpu")
        self.data_root = Path(data_root)
        self.ann_file = Path(ann_file)
        self.classes = tuple(classes)
        self.version = version
        self.split = split
        self.output_dir = output_dir
        submission_meta(modality)  # refused now, not after the evaluation
        self.modality = modality
        #: Where the newest evaluation's files are.
        self.folder: Path | None = None

    def process(self, data_batch: dict[str, Any], data_samples: Sequence[Detections]) -> None:
        """Keep one batch's detections on the host."""
        for token, found in zip(data_batch["batch"].tokens, data_samples, strict=True):
            kept = Detections(found.boxes_lidar.cpu(), found.scores.cpu(), found.labels.cpu())
            self.results.append((token, kept))

    def compute_metrics(self, results: list[tuple[str, Detections]]) -> dict[str, float]:
        """Score all frames; the table goes to the log."""
        logger = MMLogger.get_current_instance()
        folder = Path(self.output_dir or Path(logger.log_file or ".").parent) / "nuscenes"
        self.folder = folder
        found = dict(results)
        metrics = evaluate_nuscenes(
            found,
            load_infos(self.ann_file)["data_list"],
            classes=self.classes,
            data_root=self.data_root,
            version=self.version,
            split=self.split,
            output_dir=folder,
            ann_file=self.ann_file,
            modality=self.modality,
            loading=(self.dataset_meta or {}).get("loading"),
        )
        save_predictions(folder / "predictions.npz", found)
        logger.info("\n%s", metrics_table(metrics))
        with whole_file(folder / "metrics.md") as stream:
            stream.write(metrics_markdown(metrics).encode())
        flat = {"NDS": metrics.nds, "mAP": metrics.mean_ap, **metrics.tp_errors}
        flat.update({f"AP/{name}": ap for name, ap in metrics.per_class_ap.items()})
        return flat
