"""Tables to info files to detections to the judge: the frames of every step agree."""

from dataclasses import replace

import pytest

from anybev.datasets.infos import load_infos
from anybev.datasets.nuscenes_infos import CATEGORIES, create_nuscenes_infos
from anybev.testing.nuscenes_tables import perfect_detections, write_nuscenes_tables


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    root = tmp_path_factory.mktemp("converted")
    infos = write_nuscenes_tables(root, seed=5)
    (root / "samples" / "LIDAR_TOP").mkdir(parents=True)
    for info in infos:
        (root / "samples" / "LIDAR_TOP" / info["lidar_points"]["lidar_path"]).touch()
    create_nuscenes_infos(root, root, with_gt_database=False)
    return root, load_infos(root / "nuscenes_infos_val.pkl")["data_list"]


def test_annotations_through_the_converter_score_one(score, converted):
    root, infos = converted
    metrics = score(perfect_detections(infos), infos=infos, data_root=root, classes=CATEGORIES)
    assert metrics.nds == pytest.approx(1.0, abs=1e-5)
    assert metrics.mean_ap == pytest.approx(1.0)


def test_another_order_of_classes_is_another_score(score, converted):
    root, infos = converted
    found = {
        token: replace(frame, labels=(frame.labels + 1) % len(CATEGORIES))
        for token, frame in perfect_detections(infos).items()
    }
    # A few objects of the class that takes over stand within 4 m.
    assert score(found, infos=infos, data_root=root, classes=CATEGORIES).mean_ap < 0.1
