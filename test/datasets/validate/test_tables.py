"""Each defect of a table is found, by the check that is for it."""

from collections.abc import Callable
from typing import Any

import pytest

Rows = list[dict[str, Any]]
Edit = Callable[[Rows], None]


def _set(index: int, **values: Any) -> Edit:
    return lambda rows: rows[index].update(values)


def _lidar(rows: Rows) -> Rows:
    return [row for row in rows if row["is_key_frame"] and "LIDAR" in row["filename"]]


def _without_camera(rows: Rows) -> None:
    rows.remove(next(r for r in rows if "CAM_BACK/" in r["filename"] and not r["next"]))
    before = next(
        r for r in rows if "CAM_BACK/" in r["filename"] and r["next"] and not _has(rows, r)
    )
    before["next"] = ""


def _has(rows: Rows, row: dict[str, Any]) -> bool:
    return any(r["token"] == row["next"] for r in rows)


def _swap_times(rows: Rows) -> None:
    rows[1]["timestamp"], rows[2]["timestamp"] = rows[2]["timestamp"], rows[1]["timestamp"]


def _double(rows: Rows) -> None:
    rows.append(dict(rows[0]))


def _drop(index: int) -> Edit:
    return lambda rows: rows.pop(index) and None


def _late_camera(rows: Rows) -> None:
    row = next(r for r in rows if "CAM_FRONT/" in r["filename"])
    row["timestamp"] -= 200_000


def _longer(rows: Rows) -> None:
    rows[2]["rotation"] = [2 * value for value in rows[2]["rotation"]]


def _other_time(rows: Rows) -> None:
    first, last = rows[0], rows[-1]
    first["timestamp"] -= 1_000_000
    last["timestamp"] += 1_000_000


@pytest.mark.parametrize(
    ("table", "edit", "expected"),
    [
        ("sample", _double, {"tables.tokens"}),
        ("category", lambda rows: rows[0].pop("name"), {"tables.records"}),
        ("ego_pose", _set(3, translation=[1, 2, float("nan")]), {"tables.records"}),
        ("ego_pose", _set(3, translation=[1, 2]), {"tables.records"}),
        ("sample_annotation", _set(0, token=["x"]), {"tables.records", "tables.links"}),
        ("sample_annotation", _set(0, size="large"), {"tables.records"}),
        ("sample_annotation", _set(0, instance_token="gone"), {"tables.references"}),
        ("calibrated_sensor", _set(0, sensor_token="gone"), {"tables.references", "files.points"}),
        ("sample", _set(1, next="gone"), {"tables.links"}),
        ("sample", _set(2, prev=""), {"tables.links"}),
        ("sample_data", _set(5, prev="gone"), {"tables.links"}),
        ("scene", _set(0, nbr_samples=40), {"tables.links"}),
        ("scene", _set(0, last_sample_token="x"), {"tables.links"}),
        ("scene", _set(0, first_sample_token="x"), {"tables.links", "files.points"}),
        ("scene", _set(0, name="my drive"), {"tables.splits"}),
        ("sample_data", _without_camera, {"tables.sensors"}),
        ("sample", _swap_times, {"time.order", "time.files", "time.sweeps", "time.cameras"}),
        ("sample_data", _late_camera, {"time.cameras"}),
        ("sample", _other_time, {"time.files", "time.cameras"}),
        ("calibrated_sensor", _longer, {"calibration.poses"}),
        ("ego_pose", _set(2, rotation=[0, 0, 0, 0]), {"calibration.poses"}),
    ],
)
def test_a_damaged_table_is_found(data, table: str, edit: Edit, expected: set[str]) -> None:
    data.without_infos().edit(table, edit)
    assert set(data.findings()) == expected, data.findings()


def test_a_sound_set_has_no_finding(data) -> None:
    assert data.findings() == {}
    assert data.findings(depth="full") == {}
    assert data.findings(depth="fast") == {}
    assert data.without_infos().findings() == {}


def test_a_missing_table_is_found(data) -> None:
    (data.without_infos().root / "v1.0-trainval" / "ego_pose.json").unlink()
    assert data.findings() == {"tables.files": 1}


def test_a_table_that_is_no_json_is_found(data) -> None:
    (data.without_infos().root / "v1.0-trainval" / "sample.json").write_text("[{")
    assert data.findings() == {"tables.files": 1}


def test_a_ring_of_samples_ends(data) -> None:
    def ring(rows: Rows) -> None:
        rows[0]["prev"], rows[-1]["next"] = rows[-1]["token"], rows[0]["token"]

    data.without_infos().edit("sample", ring)
    assert data.findings()["time.order"] >= 1


def test_scenes_that_are_not_on_disk_are_left_out(data) -> None:
    for folder in ("samples/LIDAR_TOP", "sweeps/LIDAR_TOP"):
        for path in (data.root / folder).iterdir():
            path.unlink()
    assert data.without_infos().findings() == {"files.points": 1}
