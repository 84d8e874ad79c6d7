"""Tables of detection metrics."""

import json

import pytest

from anybev.evaluation.nuscenes import SYNTHETIC_NOTE, NuScenesMetrics
from anybev.reporting.tables import markdown_table, metrics_markdown, metrics_table, text_table

NAN = float("nan")
ERRORS = {"ATE": 0.25, "ASE": 0.125, "AOE": 0.5, "AVE": 1.5, "AAE": 0.0}


@pytest.fixture
def metrics() -> NuScenesMetrics:
    thresholds = {0.5: 0.25, 1.0: 0.5, 2.0: 0.75, 4.0: 1.0}
    return NuScenesMetrics(
        nds=0.61234,
        mean_ap=0.625,
        tp_errors={f"m{name}": value for name, value in ERRORS.items()},
        per_class_ap={"car": 0.625, "traffic_cone": 0.625},
        per_class_ap_by_threshold={"car": thresholds, "traffic_cone": thresholds},
        per_class_tp={
            "car": ERRORS,
            "traffic_cone": {**ERRORS, "AOE": NAN, "AVE": NAN, "AAE": NAN},
        },
        num_objects={"car": 31, "traffic_cone": 9},
        num_frames=40,
        split="val",
        note=SYNTHETIC_NOTE,
    )


def test_text_has_every_number(metrics):
    lines = metrics_table(metrics).splitlines()
    assert lines[0] == "NDS 0.6123   mAP 0.6250"
    assert lines[1].startswith("mATE 0.250 m   mASE 0.125 1-IoU   mAOE 0.500 rad   mAVE 1.500 m/s")
    assert lines[3].split()[:5] == ["class", "objects", "AP", "@0.5", "m"]
    car = next(line for line in lines if line.startswith("car"))
    assert car.split()[1:7] == ["31", "0.625", "0.250", "0.500", "0.750", "1.000"]
    assert car.split()[7:] == ["0.250", "0.125", "0.500", "1.500", "0.000"]
    cone = next(line for line in lines if line.startswith("traffic_cone"))
    assert cone.split()[-3:] == ["-", "-", "-"]
    mean = next(line for line in lines if line.startswith("mean"))
    assert mean.split()[1:4] == ["40", "0.625", "0.250"]
    assert lines[-1] == f"(40 frames of val; {SYNTHETIC_NOTE})"


def test_a_summary_read_back_gives_the_same_table(metrics):
    again = json.loads(json.dumps(metrics.to_dict()))
    assert metrics_table(again) == metrics_table(metrics)


def test_markdown_has_the_same_cells(metrics):
    text = metrics_markdown(metrics)
    assert "| NDS | mAP | mATE (m) |" in text
    assert "| car | 31 | 0.625 | 0.250 |" in text
    assert text.endswith(f"40 frames of val; {SYNTHETIC_NOTE}.")


def test_columns_are_aligned():
    table = text_table(["name", "n"], [["a", "1"], ["longer", "100"]])
    assert table.splitlines() == ["name      n", "-----------", "a         1", "longer  100"]


def test_markdown_rule_aligns_numbers_right():
    assert markdown_table(["a", "b"], [["x", "1"]]).splitlines()[1] == "| :--- | ---: |"
