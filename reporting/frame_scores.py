"""How well each frame went, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from anybev.reporting.frames import Frames

MATCH_M = 2.0
HOW = (
    "Frames are ranked by average precision at 2 m: all boxes of a frame in the order of their "
    "score, each matched to the nearest free object of its class within 2 m on the ground, the "
    "precision averaged over the objects. Objects without a return, and whatever is beyond its "
    "class's range, do not count."
)


@dataclass(frozen=True)
class FrameScore:
    """One frame's result.

    Attributes:
        token: the frame.
        ap: average precision at 2 m over all classes together; None without objects.
        found, missed: objects with and without a box above the score threshold.
        ghosts: boxes above it without an object.
    """

    token: str
    ap: float | None
    found: int
    missed: int
    ghosts: int


@dataclass(frozen=True)
class Assessment:
    """All frames of a run.

    Attributes:
        frames: in the order of the info file.
        confusion: (C + 1, C + 1) counts: rows the object's class, columns the box's; the last row
            is boxes without an object, the last column objects without a box.
    """

    frames: Sequence[FrameScore]
    confusion: np.ndarray

    def best(self, count: int) -> list[FrameScore]:
        """Frames of the highest average precision, the best first."""
        return self._ranked(-1)[:count]

    def worst(self, count: int) -> list[FrameScore]:
        """Frames of the lowest average precision, the worst first."""
        return self._ranked(1)[:count]

    def _ranked(self, sign: int) -> list[FrameScore]:
        scored = [frame for frame in self.frames if frame.ap is not None]
        return sorted(scored, key=lambda frame: sign * (frame.ap or 0.0))


def match(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray | None,
    true_boxes: np.ndarray,
    true_labels: np.ndarray | None,
) -> np.ndarray:
    """The object that each box found, as the judge matches them at 2 m.

    Args:
        boxes: (N, >=2), x and y first.
        scores: (N,).
        labels: (N,); None lets a box match any class.
        true_boxes: (G, >=2).
        true_labels: (G,), None as ``labels``.

    Returns:
        (N,) index of an object, -1 for none. The box of the highest score chooses first.
    """
    matched = np.full(len(boxes), -1)
    if not len(boxes) or not len(true_boxes):
        return matched
    offsets = boxes[:, None, :2].astype(np.float64) - true_boxes[None, :, :2]
    distance = np.hypot(offsets[..., 0], offsets[..., 1])
    if labels is not None and true_labels is not None:
        distance[labels[:, None] != true_labels[None]] = np.inf
    for box in np.argsort(-scores, kind="stable"):
        nearest = int(np.argmin(distance[box]))
        if distance[box, nearest] < MATCH_M:
            matched[box] = nearest
            distance[:, nearest] = np.inf
    return matched


def average_precision(scores: np.ndarray, hits: np.ndarray, objects: int) -> float | None:
    """Mean over the objects of the precision at which each was found, 0 where it was not."""
    if not objects:
        return None
    hits = hits[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].sum() / objects)


def assess(
    frames: Frames, score_threshold: float, progress: Callable[[int, int], None] | None = None
) -> Assessment:
    """Score every frame of a run.

    Args:
        frames: of the run.
        score_threshold: boxes below it count neither as found nor as ghosts.
        progress: called with frames done and in all.
    """
    count = len(frames.classes)
    confusion = np.zeros((count + 1, count + 1), np.int64)
    scored = []
    tokens = frames.tokens
    for index, token in enumerate(tokens, 1):
        boxes, scores, labels = frames.predictions[token]
        kept = frames.in_range(token, boxes, labels)
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        truth, true_labels = frames.truth(token)
        kept = frames.in_range(token, truth, true_labels)
        truth, true_labels = truth[kept], true_labels[kept]
        hits = match(boxes, scores, labels, truth, true_labels) >= 0
        sure = scores >= score_threshold
        found = int((hits & sure).sum())
        ap = average_precision(scores, hits, len(truth))
        ghosts = int(sure.sum()) - found
        scored.append(FrameScore(token, ap, found, len(truth) - found, ghosts))
        anyhow = match(boxes[sure], scores[sure], None, truth, None)
        rows = np.where(anyhow >= 0, true_labels[anyhow] if len(truth) else count, count)
        np.add.at(confusion, (rows, labels[sure]), 1)
        missed = np.setdiff1d(np.arange(len(truth)), anyhow)
        np.add.at(confusion, (true_labels[missed], count), 1)
        if progress:
            progress(index, len(tokens))
    return Assessment(scored, confusion)
