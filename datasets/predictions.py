"""What a model found in every frame of an evaluation, as one file of arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from anybev.datasets.sample import Detections
from anybev.files import whole_file

_ARRAYS = ("tokens", "counts", "boxes_lidar", "scores", "labels")


def save_predictions(path: Path, found: Mapping[str, Detections]) -> None:
    """Write detections so that ``load_predictions`` reads them, without pickles.

    Args:
        path: ``.npz`` to write.
        found: frame token -> boxes in the lidar frame.
    """
    frames = [
        (
            frame.boxes_lidar.detach().float().cpu().numpy(),
            frame.scores.detach().float().cpu().numpy(),
            frame.labels.detach().cpu().numpy(),
        )
        for frame in found.values()
    ]
    columns = {len(boxes[0]) for boxes, _, _ in frames if len(boxes)} or {9}
    none = np.zeros((0, columns.pop()), np.float32)
    arrays = {
        "tokens": np.array(list(found), np.str_),
        "counts": np.array([len(boxes) for boxes, _, _ in frames], np.int64),
        "boxes_lidar": np.concatenate([none, *(boxes for boxes, _, _ in frames if len(boxes))]),
        "scores": np.concatenate([none[:, 0], *(scores for _, scores, _ in frames)]),
        "labels": np.concatenate([np.zeros(0, np.int64), *(labels for _, _, labels in frames)]),
    }
    with whole_file(path) as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def load_predictions(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Boxes (N, 7 or 9), scores (N,) and labels (N,) of every frame of a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file does not hold what ``save_predictions`` writes.
    """
    with path.open("rb") as stream:
        try:
            zipfile.ZipFile(stream).close()  # numpy takes what is no archive for a pickle
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as content:
                arrays = {name: content[name] for name in _ARRAYS}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"predictions: {path} must be a whole .npz file, got: {error}"
            ) from error
    tokens, counts, boxes, scores, labels = (arrays[name] for name in _ARRAYS)
    total = int(counts.sum()) if counts.ndim == 1 and counts.dtype.kind == "i" else -1
    fits = (
        tokens.shape == counts.shape
        and (counts >= 0).all()
        and boxes.ndim == 2
        and boxes.shape[1] >= 7
        and len(boxes) == total
        and scores.shape == labels.shape == (total,)
        and labels.dtype.kind == "i"
    )
    if not fits:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"predictions: {path} must hold arrays that fit together, got {shapes}")
    ends = np.cumsum(counts)
    return {
        str(token): (boxes[end - count : end], scores[end - count : end], labels[end - count : end])
        for token, count, end in zip(tokens, counts, ends, strict=True)
    }
