"""Stored measurements: every operator has some, and ours is as fast as the documents say."""

import json
from pathlib import Path
from typing import Any

import pytest

import anybev
from anybev.benchmark.ops import bench_lift_splat
from anybev.benchmark.ops.harness import OURS
from anybev.device import ops

RESULTS = Path(anybev.__file__).resolve().parents[2] / "benchmark" / "results"
OPERATORS = sorted(
    path.stem for path in Path(ops.__file__).parent.glob("*.py") if not path.stem.startswith("_")
)


def stored(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RESULTS / name).read_text().splitlines()]


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_has_a_stored_measurement(operator: str) -> None:
    rows = [row for row in stored("ops.jsonl") if row["operator"] == operator]
    assert {row["side"] for row in rows} > {OURS}, "and another side to compare with"
    assert all(row["median_ms"] > 0 and row["commit"] and row["device"] for row in rows)


def test_a_ratio_is_that_of_the_stored_times() -> None:
    keys = ("operator", "case", "direction", "threads", "dtype")
    for name in ("ops.jsonl", "image_path.jsonl"):
        rows = stored(name)
        times = {(*(row[key] for key in keys), row["side"]): row["median_ms"] for row in rows}
        for row in rows:
            for side, ratio in row["ratios"].items():
                other = times[(*(row[key] for key in keys), side)]
                assert ratio == pytest.approx(other / row["median_ms"]), (row["case"], side)


def test_lift_splat_is_far_ahead_of_the_materialised_volume() -> None:
    rows = [row for row in stored("ops.jsonl") if row["operator"] == bench_lift_splat.NAME]
    ratios = [row["ratios"].get(bench_lift_splat.PEER, 0) for row in rows]
    assert max(ratios, default=0) >= 50


@pytest.mark.parametrize(("step", "ratio"), [("resize+crop", 4), ("whole", 1.8)])
def test_pictures_are_loaded_faster_than_by_pillow(step: str, ratio: float) -> None:
    rows = [row for row in stored("image_path.jsonl") if row["direction"] == step and row["ratios"]]
    assert {row["case"] for row in rows} == {"test", "train"}
    for row in rows:
        ((peer, found),) = row["ratios"].items()
        assert peer.startswith("Pillow ")
        assert found >= ratio, row["case"]
