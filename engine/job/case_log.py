"""What a finished case measured, in the lines that DrivingSDK's scripts print and keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anybev.engine.job.options import JobOptions
from anybev.evaluation.nuscenes import SYNTHETIC_NOTE
from anybev.files import whole_file
from anybev.reporting.run import number, read_json

TITLE = "------------------ Final result ------------------"
_NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Case:
    """Results of one case.

    Attributes:
        lines: of the result file, ``Key = value``.
        final: the last lines of the output.
        file: where the lines belong.
    """

    lines: tuple[str, ...]
    final: tuple[str, ...]
    file: Path

    def write(self) -> None:
        """Write the result file, whole."""
        with whole_file(self.file) as stream:
            stream.write("".join(f"{line}\n" for line in self.lines).encode())


def read_case(options: JobOptions, work_dir: Path, seconds: float) -> Case:
    """Results of a training that has just ended.

    Args:
        options: of the job.
        work_dir: with the training's ``metrics.json``.
        seconds: from the start of the launcher to the end of the training.

    Raises:
        ValueError: ``metrics.json`` is no JSON object.
        FileNotFoundError: there is none.
    """
    path = work_dir / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"case: {path} must be there after a training, got none")
    metrics = read_json(path)
    if not isinstance(metrics, Mapping):
        raise ValueError(f"case: {path} must hold an object, got {type(metrics).__name__}")
    train = metrics.get("train")
    if not isinstance(train, Mapping):  # a resume that had no step left to do
        train = {}
    ending = "acc" if options.kind == "full" else "performance"
    ranks = options.world_size
    case = f"{options.network}_bs{_batch(options, train)}_{ranks}p_{ending}"
    rate, loss = _text(train.get("samples_per_s")), _text(train.get("loss"))
    nds, mean_ap = _text(metrics.get("NDS")), _text(metrics.get("mAP"))
    lines = [
        f"Network = {options.network}",
        f"RankSize = {ranks}",
        f"BatchSize = {_batch(options, train)}",
        f"DeviceType = {train.get('device') or _NOT_MEASURED}",
        f"CaseName = {case}",
        f"ActualFPS = {rate}",
        f"TrainingTime = {_text(train.get('step_time_s'))}",
        f"ActualLoss = {loss}",
        f"NDS = {nds}",
        f"mAP = {mean_ap}",
        f"E2ETrainingTime = {round(seconds)}",
        f"Precision = {train.get('precision') or _NOT_MEASURED}",
    ]
    if options.demo:
        lines.append(f"Note = {SYNTHETIC_NOTE}")
    final = [
        TITLE,
        f"Final Performance images/sec : {rate}",
        f"Final Train Loss : {loss}",
        f"NDS : {nds}",
        f"mAP : {mean_ap}",
        f"E2E Training Duration sec : {round(seconds)}",
    ]
    return Case(tuple(lines), tuple(final), options.output_dir / f"{case}.log")


def _batch(options: JobOptions, train: Mapping[str, Any]) -> int:
    """Samples a process, as they were: a config's option may have won over the flag."""
    total = number(train.get("global_batch"))
    if total:
        return round(total / options.world_size)
    return options.batch_size or 1


def _text(value: Any) -> str:
    known = number(value)
    return _NOT_MEASURED if known is None else f"{known:.6g}"
