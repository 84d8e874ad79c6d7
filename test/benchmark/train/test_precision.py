"""Differences between precisions: the statistics, and one small comparison."""

import json
from pathlib import Path

import pytest

from anybev.benchmark.train import precision
from anybev.testing.tiny_config import CONFIG_FILE, tiny_options


def test_interval_is_students() -> None:
    # t(0.975, 2) = 4.3027, from a table.
    found = precision.interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2
    assert found["high"] - 2 == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert found["low"] + found["high"] == pytest.approx(4)
    assert (found["std"], found["n"]) == (1, 3)


@pytest.mark.parametrize(
    ("differences", "message"),
    [([1.0], "at least 2 seeds, got 1"), ([1.0, float("nan")], "differences must be finite")],
)
def test_too_few_or_bad_differences_are_refused(differences: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        precision.interval(differences)


def test_pairs_of_a_seed_are_compared() -> None:
    runs = [
        {"precision": p, "seed": s, "NDS": nds, "mAP": 0.1 * s, "loss": 2.0}
        for p, s, nds in (("bf16", 1, 0.5), ("fp32", 0, 0.2), ("fp32", 1, 0.4), ("bf16", 0, 0.3))
    ]
    rows = precision.compare(runs, "bf16")
    assert [row["measure"] for row in rows] == ["NDS", "mAP", "loss"]
    assert rows[0]["mean"] == pytest.approx(0.1)
    assert rows[1]["mean"] == 0
    line = "| NDS | bf16 - fp32 | +0.1000 | +0.1000 .. +0.1000 | 2 |"
    assert line in precision.table(rows)


def test_one_seed_is_too_few(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        precision.parse(["c.py", "--work-dir", "w", "--out", "o", "--seeds", "3", "3"])
    assert "--seeds must be at least 2 different ones, got [3, 3]" in capsys.readouterr().err


@pytest.mark.slow
def test_three_seeds_in_two_precisions(synthetic_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "precision.jsonl"
    options = tiny_options(synthetic_root, train_cfg__max_epochs="1", train_cfg__val_interval="1")
    options = [option for option in options if not option.startswith("randomness.seed")]
    folders = ["--work-dir", str(tmp_path / "runs"), "--out", str(out)]
    precision.main([str(CONFIG_FILE), *folders, "--cfg-options", *options])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["seed"] for row in rows[:6]] == [0, 0, 1, 1, 2, 2]
    assert rows[0]["loss"] != rows[1]["loss"]
    loss = rows[-1]
    assert (loss["measure"], loss["n"]) == ("loss", 3)
    assert abs(loss["mean"]) < 0.05 * rows[0]["loss"]
