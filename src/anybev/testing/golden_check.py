"""Judging a model's outputs against a golden pack, stage by stage.

Three kinds of stage. Sampled: values at recorded positions and statistics of the whole. Full:
every value. Matched: voxels, queries, boxes, an assignment or gradients, where rows may come in
another order and are paired first. A stage passes when at most ``outlier_frac`` of its values
differ by more than ``atol`` and none by more than ``atol_max``; ``strict`` allows no outliers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from anybev.testing.golden import GoldenPack

Shape = Sequence[int] | np.ndarray

# Queries that the reference ranks last may trade places with those it just left out.
_MISSING_QUERIES = 4
_QUERY_STAGES = ("center", "height", "dim", "rot", "vel", "cls", "query_score")
_ROW_STAGES = ("train.cost", "train.labels", "train.bbox_targets", "train.bbox_weights")
_MATCHED_STAGES = (
    "head.top_class",
    "head.top_index",
    "lidar.levels",
    "train.gt_inds",
    "train.heatmap_peaks",
    "train.grad_norms",
    *(f"head.{name}" for name in _QUERY_STAGES),
    *_ROW_STAGES,
)
_MATCHED_PREFIXES = ("lidar.vox", "pred.")
_ASSIGN_TOLERANCE = (1e-4, 0.0, 1e-4)


@dataclass(frozen=True)
class Verdict:
    """The judgement of one stage.

    Attributes:
        stage: its name.
        ok: passed.
        max_abs: largest error.
        max_rel: that error over the largest recorded magnitude.
        over: share of values beyond ``atol``.
        atol, outlier_frac, atol_max: the tolerance.
        note: what else there is to know.
    """

    stage: str
    ok: bool
    max_abs: float
    max_rel: float
    over: float
    atol: float
    outlier_frac: float
    atol_max: float
    note: str = ""


def judge(
    stage: str,
    error: np.ndarray | Sequence[float],
    scale: float,
    tolerance: Sequence[float] | np.ndarray,
    *,
    strict: bool = False,
    note: str = "",
    failed: bool = False,
) -> Verdict:
    """Hold errors of any shape against (atol, outlier_frac, atol_max); NaN counts as infinite."""
    size = np.abs(np.asarray(error, np.float64)).ravel()
    size[~np.isfinite(size)] = np.inf
    atol, fraction, top = (float(value) for value in tolerance)
    if strict:
        fraction, top = 0.0, atol
    worst = float(size.max(initial=0.0))
    over = float((size > atol).mean()) if size.size else 0.0
    ok = not failed and over <= fraction and worst <= top
    relative = worst / max(float(scale), 1e-30)
    return Verdict(stage, ok, worst, relative, over, atol, fraction, top, note)


def _wrong_shape(stage: str, wanted: Shape, got: Shape) -> Verdict:
    note = f"shape must be {tuple(int(n) for n in wanted)}, got {tuple(got)}"
    return judge(stage, [np.inf], 1.0, (0, 0, 0), note=note)


def _fit(values: np.ndarray, shape: Shape) -> np.ndarray | None:
    """``values`` with leading axes of length 1 added or dropped to have ``shape``."""

    def core(lengths: Shape) -> tuple[int, ...]:
        kept = [int(n) for n in lengths]
        while kept and kept[0] == 1:
            kept.pop(0)
        return tuple(kept)

    wanted = tuple(int(n) for n in shape)
    return values.reshape(wanted) if core(values.shape) == core(wanted) else None


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0.0))


class Checker:
    """Judges the outputs of one model.

    Args:
        pack: what was recorded.
        model: ``lidar_only`` or ``lidar_cam``.
        outputs: stage (without the model's name) to array; any subset.
        strict: allow no outliers.
    """

    def __init__(
        self,
        pack: GoldenPack,
        model: str,
        outputs: Mapping[str, np.ndarray],
        *,
        strict: bool = False,
    ) -> None:
        self.pack, self.model, self.strict = pack, model, strict
        self.outputs = {name: np.asarray(value) for name, value in outputs.items()}

    def run(self) -> list[Verdict]:
        """Every judgement, in the order of the data's way through the model."""
        verdicts = [
            *self._voxels(),
            *self._levels(),
            *self._dense(),
            *self._queries(),
            *self._boxes(),
            *self._training(),
            *self._gradients(),
        ]
        names = list(self.outputs)

        def place(verdict: Verdict) -> int:
            stage = verdict.stage.split(" ")[0]
            return next((i for i, n in enumerate(names) if n.startswith(stage)), len(names))

        return sorted(verdicts, key=place)

    def _has(self, *stages: str) -> bool:
        return all(stage in self.outputs for stage in stages)

    def _recorded(self, stage: str, field: str = "full") -> np.ndarray:
        return self.pack.get(f"{self.model}/{stage}", field)

    def _judge(self, stage: str, error: np.ndarray, scale: float, note: str = "") -> Verdict:
        tolerance = self._recorded(stage, "tol")
        return judge(stage, error, scale, tolerance, strict=self.strict, note=note)

    def _dense(self) -> Iterator[Verdict]:
        """Stages compared position by position."""
        for stage in self.outputs:
            if stage in _MATCHED_STAGES or stage.startswith(_MATCHED_PREFIXES):
                continue
            name = f"{self.model}/{stage}"
            if self.pack.has(name, "shape"):
                yield from self._sampled(stage)
            elif self.pack.has(name):
                recorded = self._recorded(stage)
                values = _fit(self.outputs[stage], recorded.shape)
                if values is None:
                    yield _wrong_shape(stage, recorded.shape, self.outputs[stage].shape)
                else:
                    error = values.astype(np.float64) - recorded
                    yield self._judge(stage, error, _largest(recorded))

    def _sampled(self, stage: str) -> Iterator[Verdict]:
        shape, statistics = self._recorded(stage, "shape"), self._recorded(stage, "stats")
        values = _fit(self.outputs[stage], shape)
        if values is None:
            yield _wrong_shape(stage, shape, self.outputs[stage].shape)
            return
        flat = values.astype(np.float64).ravel()
        error = flat[self._recorded(stage, "pos")] - self._recorded(stage, "val")
        yield self._judge(stage, error, statistics[2])
        atol, fraction, top = self._recorded(stage, "tol")
        # A mean moves at most by the mean error that is allowed, a maximum by an outlier's.
        mean = atol if self.strict else atol + fraction * top
        top = atol if self.strict else top
        moved = np.array([flat.mean(), flat.std()]) - statistics[:2]
        yield judge(f"{stage} mean,std", moved, statistics[2], (mean, 0, mean))
        moved = np.abs(flat).max() - statistics[2:3]
        yield judge(f"{stage} absmax", moved, statistics[2], (top, 0, top))

    def _voxels(self) -> Iterator[Verdict]:
        given = self._has("lidar.voxel_feats", "lidar.voxel_coords")
        if not given or not self.pack.has(f"{self.model}/lidar.vox_sums"):
            return
        features = self.outputs["lidar.voxel_feats"].astype(np.float64)
        cells = self.outputs["lidar.voxel_coords"][:, -3:].astype(np.int64)
        recorded = self._recorded("lidar.vox_sums")
        width = features.shape[1]
        sums = np.concatenate([features.sum(0), (features**2).sum(0)])
        exact = np.concatenate([[len(features)], cells.sum(0)])
        known = np.concatenate([recorded[:1], recorded[1 + 2 * width :]])
        yield judge("lidar.voxel count,coord sums", exact - known, known.max(), (0, 0, 0))
        known = recorded[1 : 1 + 2 * width]
        relative = (sums - known) / np.maximum(np.abs(known), 1.0)
        yield judge("lidar.voxel feature sums (rel)", relative, 1.0, (1e-5, 0, 1e-5))
        first = self._recorded("lidar.vox_head_coords")[:, -3:].astype(np.int64)
        row = {tuple(cell): i for i, cell in enumerate(cells.tolist())}
        found = np.array([row.get(tuple(cell), -1) for cell in first.tolist()])
        known = self._recorded("lidar.vox_head_feats")[found >= 0]
        error = features[found[found >= 0]] - known
        missing = int((found < 0).sum())
        tolerance = self._recorded("lidar.vox_head_feats", "tol")
        scale = _largest(known)
        note = f"{missing} not found"
        yield judge(
            "lidar.voxel first rows", error, scale, tolerance, note=note, failed=missing > 0
        )

    def _levels(self) -> Iterator[Verdict]:
        if not self._has("lidar.levels"):
            return
        known = self._recorded("lidar.levels")
        error = (self.outputs["lidar.levels"] - known) / np.maximum(np.abs(known), 1.0)
        yield judge("lidar.levels count", error[:, 0], 1.0, (0, 0, 0))
        yield judge("lidar.levels sums (rel)", error[:, 1:], 1.0, (1e-4, 0, 1e-4))

    def query_rows(self) -> np.ndarray | None:
        """Row of each recorded query among this model's, -1 where it has none; None if unknown."""
        if not self._has("head.top_class", "head.top_index"):
            return None
        pairs = zip(
            self.outputs["head.top_class"].ravel().tolist(),
            self.outputs["head.top_index"].ravel().tolist(),
            strict=True,
        )
        row = {pair: i for i, pair in enumerate(pairs)}
        recorded = zip(
            self._recorded("head.top_class").ravel().tolist(),
            self._recorded("head.top_index").ravel().tolist(),
            strict=True,
        )
        return np.array([row.get(pair, -1) for pair in recorded])

    def _queries(self) -> Iterator[Verdict]:
        rows = self.query_rows()
        if rows is not None:
            missing = int((rows < 0).sum())
            limit = 0 if self.strict else _MISSING_QUERIES
            order = "same" if np.array_equal(rows, np.arange(len(rows))) else "differs"
            note = f"{missing} queries missing, order {order}"
            yield judge("head.top_index", [missing], len(rows), (limit, 0, limit), note=note)
        for name in _QUERY_STAGES:
            stage = f"head.{name}"
            if not self._has(stage) or not self.pack.has(f"{self.model}/{stage}"):
                continue
            known = self._recorded(stage)
            values = _fit(self.outputs[stage], known.shape)
            if values is None:
                yield _wrong_shape(stage, known.shape, self.outputs[stage].shape)
                continue
            values, known = self._paired(values, known, rows, axis=1)
            error = values.astype(np.float64) - known
            scale = _largest(known)
            if name != "query_score":
                yield self._judge(stage, error, scale)
                continue
            # A local maximum that ties with its neighbour shows as 0 on one side only.
            flipped = (error != 0) & ((known == 0) | (values == 0))
            share = 0.0 if self.strict else 0.02
            yield judge(
                f"{stage} flips", [flipped.sum() / max(flipped.size, 1)], 1.0, (share, 0, share)
            )
            note = f"{int(flipped.sum())} local maxima flipped"
            yield self._judge(stage, np.where(flipped, 0.0, error), scale, note)

    @staticmethod
    def _paired(
        values: np.ndarray, known: np.ndarray, rows: np.ndarray | None, axis: int
    ) -> tuple[np.ndarray, np.ndarray]:
        if rows is None:
            return values, known
        return (
            np.take(values, rows[rows >= 0], axis=axis),
            np.compress(rows >= 0, known, axis=axis),
        )

    def _boxes(self) -> Iterator[Verdict]:
        """Boxes paired one to one by label, place and score."""
        parts = ("pred.boxes", "pred.scores", "pred.labels")
        if not self._has(*parts):
            return
        boxes, scores, labels = (self.outputs[part] for part in parts)
        known, known_scores, known_labels = (self._recorded(part) for part in parts)
        distance = np.abs(known[:, None, :3] - boxes[None, :, :3]).max(2)
        distance = distance + 10 * np.abs(known_scores[:, None] - scores[None])
        distance = distance + 1e3 * (known_labels[:, None] != labels[None])
        pairs, free = [], np.ones(len(boxes), bool)
        for row in np.argsort(distance.min(1)) if len(boxes) else []:
            column = int(np.where(free, distance[row], np.inf).argmin())
            if free[column] and distance[row, column] < 1:
                free[column] = False
                pairs.append((int(row), column))
        i, j = np.array(pairs, int).reshape(-1, 2).T
        missing = max(len(known), len(boxes)) - len(pairs)
        error = boxes[j].astype(np.float64) - known[i]
        error[:, 6] = (error[:, 6] + np.pi) % (2 * np.pi) - np.pi
        verdict = self._judge(parts[0], error, _largest(known), f"{missing} unmatched")
        yield replace(verdict, ok=verdict.ok and missing <= _MISSING_QUERIES)
        error = scores[j].astype(np.float64) - known_scores[i]
        yield self._judge(parts[1], error, float(known_scores.max(initial=0.0)))

    def _training(self) -> Iterator[Verdict]:
        rows = self.query_rows()
        if self._has("train.gt_inds"):
            yield self._assignment(rows)
        for stage in _ROW_STAGES:
            if self._has(stage):
                known = self._recorded(stage)
                values = self.outputs[stage].reshape(known.shape)
                values, known = self._paired(values, known, rows, axis=0)
                error = values.astype(np.float64) - known
                yield self._judge(stage, error, _largest(known))
        if self._has("train.heatmap_peaks"):
            got = {tuple(peak) for peak in self.outputs["train.heatmap_peaks"].tolist()}
            peaks = {tuple(peak) for peak in self._recorded("train.heatmap_peaks").tolist()}
            yield judge("train.heatmap_peaks", [len(got ^ peaks)], len(peaks), (0, 0, 0))
        if self._has("assign/gt_inds"):
            error = self.outputs["assign/gt_inds"] - self.pack.array("assign/gt_inds")
            yield judge("assign/gt_inds", error, 1.0, (0, 0, 0))
        for stage in ("assign/iou", "assign/cost"):
            if self._has(stage):
                known = self.pack.array(stage)
                error = self.outputs[stage].astype(np.float64) - known
                yield judge(stage, error, _largest(known), _ASSIGN_TOLERANCE)

    def _assignment(self, rows: np.ndarray | None) -> Verdict:
        """A matching is judged by its total cost: there may be several cheapest ones."""
        stage = "train.gt_inds"
        cost, known = self._recorded("train.cost"), self._recorded(stage).ravel()
        got = self.outputs[stage].ravel()
        if rows is not None:
            got = np.where(rows >= 0, got[rows], 0)
        boxes = got[got > 0]
        if len(np.unique(boxes)) != len(boxes) or len(boxes) != (known > 0).sum():
            note = "not a one-to-one matching of the recorded boxes"
            return judge(f"{stage} total cost", [np.inf], 1.0, (1e-3, 0, 1e-3), note=note)
        totals = [
            float(cost[q, inds[q] - 1].astype(np.float64).sum())
            for inds in (known, got)
            for q in [np.flatnonzero(inds > 0)]
        ]
        note = f"{int((got != known).sum())} of {len(known)} entries differ"
        error = totals[1] - totals[0]
        return judge(f"{stage} total cost", [error], abs(totals[0]), (1e-3, 0, 1e-3), note=note)

    def _gradients(self) -> Iterator[Verdict]:
        if not self._has("train.grad_names", "train.grad_norms"):
            return
        names = self.pack.array(f"{self.model}/train.grad_names")
        tolerance = self.pack.array(f"{self.model}/train.grad_rtol")
        known = self._recorded("train.grad_norms")
        # Under fused geometry any gradient may sway as the one that swayed most in the recording.
        widest = np.full_like(tolerance, tolerance.max(initial=0.0))
        for suffix, allowed in (("", tolerance), ("_fused", widest)):
            keys = (f"train.grad_names{suffix}", f"train.grad_norms{suffix}")
            if not self._has(*keys):
                continue
            got = dict(zip(*(self.outputs[key].tolist() for key in keys), strict=True))
            values = np.array([got.get(name, np.inf) for name in names.tolist()])
            relative = np.abs(values - known) / np.maximum(known, 1e-12)
            share = relative / allowed
            worst = int(share.argmax())
            note = f"worst {names[worst]}: rel {relative[worst]:.2g}, allowed {allowed[worst]:.2g}"
            yield judge(f"{keys[1]} (error/rtol)", share, 1.0, (1, 0, 1), note=note)
