import numpy as np
import pytest

from anybev.datasets.sample import Sample
from anybev.datasets.transforms import (
    Compose,
    ObjectNameFilter,
    ObjectRangeFilter,
    PointsRangeFilter,
)

RANGE = (-10, -20, -5, 10, 20, 3)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _boxes(*rows):
    boxes = np.zeros((len(rows), 9), np.float32)
    boxes[:, [0, 1, 2, 6]] = rows
    count = np.arange(len(rows))
    return Sample("t", 0, boxes_lidar=boxes, labels=count.copy(), num_lidar_pts=count.copy())


def test_points_on_the_limit_are_outside(rng):
    edge = np.float32(10)
    inside = np.nextafter(edge, np.float32(0))
    points = np.array(
        [[edge, 0, 0], [inside, 0, 0], [0, -20, 0], [0, 0, 3], [0, 0, -5], [0, 0, 2.9]], np.float32
    )
    sample = Sample("t", 0, np.pad(points, ((0, 0), (0, 2))))
    kept = PointsRangeFilter(RANGE)(sample, rng).points_lidar_m
    np.testing.assert_array_equal(kept[:, :3], points[[1, 5]])


def test_all_points_out_of_range_is_an_error(rng):
    sample = Sample("t", 0, np.full((4, 5), 99, np.float32))
    with pytest.raises(ValueError, match=r"at least one point must lie inside .* got none of 4"):
        PointsRangeFilter(RANGE)(sample, rng)


def test_boxes_are_kept_by_their_centre_seen_from_above(rng):
    sample = _boxes((9.9, 0, 50, 0), (10, 0, 0, 0), (0, -20, 0, 0), (0, 19.9, -50, 7.0))
    kept = ObjectRangeFilter(RANGE)(sample, rng)
    np.testing.assert_array_equal(kept.labels, [0, 3])
    np.testing.assert_array_equal(kept.num_lidar_pts, [0, 3])
    np.testing.assert_allclose(kept.boxes_lidar[:, 6], [0, 7.0 - 2 * np.pi], rtol=1e-6)


def test_other_classes_go(rng):
    sample = _boxes(*[(0, 0, 0, 0)] * 4)
    sample.labels = np.array([-1, 0, 2, 1])
    assert ObjectNameFilter(["car", "bus"])(sample, rng).labels.tolist() == [0, 1]


def test_filters_take_samples_without_boxes(rng):
    chain = Compose([ObjectRangeFilter(RANGE), ObjectNameFilter(["car"])])
    assert chain(Sample("t", 0), rng).boxes_lidar.shape == (0, 9)


def test_a_chain_stops_where_a_transform_asks_for_another_frame(rng):
    def refuse(sample, rng):
        return None

    def fail(sample, rng):
        raise AssertionError("must not be reached")

    assert Compose([refuse, fail])(Sample("t", 0), rng) is None


@pytest.mark.parametrize("limits", [(0, 0, 0, 1, 1), (0, 0, 0, 1, 1, -1)])
@pytest.mark.parametrize("kind", [PointsRangeFilter, ObjectRangeFilter])
def test_ranges_are_six_ordered_numbers(kind, limits):
    with pytest.raises(ValueError, match=rf"{kind.__name__}: point_cloud_range must be \(x, y, z"):
        kind(limits)
