"""Detections to a file and back."""

import numpy as np
import pytest
import torch

from anybev.datasets.predictions import load_predictions, save_predictions
from anybev.datasets.sample import Detections


def detections(count: int, columns: int = 9) -> Detections:
    generator = torch.Generator().manual_seed(count)
    return Detections(
        torch.randn(count, columns, generator=generator),
        torch.rand(count, generator=generator),
        torch.randint(0, 10, (count,), generator=generator),
    )


@pytest.mark.parametrize("columns", [7, 9])
def test_what_was_saved_comes_back(tmp_path, columns):
    found = {"a": detections(3, columns), "empty": detections(0, 9), "b": detections(1, columns)}
    save_predictions(tmp_path / "p.npz", found)
    loaded = load_predictions(tmp_path / "p.npz")
    assert list(loaded) == list(found)
    for token, frame in found.items():
        boxes, scores, labels = loaded[token]
        assert len(boxes) == len(frame.boxes_lidar)
        if len(boxes):
            np.testing.assert_array_equal(boxes, frame.boxes_lidar.numpy())
        np.testing.assert_array_equal(scores, frame.scores.numpy())
        np.testing.assert_array_equal(labels, frame.labels.numpy())


@pytest.mark.parametrize("found", [{}, {"a": detections(0)}])
def test_nothing_found_is_a_file_too(tmp_path, found):
    save_predictions(tmp_path / "p.npz", found)
    assert {
        token: len(frame[0]) for token, frame in load_predictions(tmp_path / "p.npz").items()
    } == (dict.fromkeys(found, 0))


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "p.npz"
    with pytest.raises(FileNotFoundError, match=r"p\.npz"):
        load_predictions(path)
    save_predictions(path, {"a": detections(3)})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"p\.npz must be a whole \.npz file"):
        load_predictions(path)
    path.write_text("text")
    with pytest.raises(ValueError, match=r"p\.npz must be a whole \.npz file"):
        load_predictions(path)


@pytest.mark.parametrize(
    "change",
    [
        {"counts": np.array([4])},
        {"counts": np.array([-3])},
        {"boxes_lidar": np.zeros((3, 4))},
        {"labels": np.zeros(3)},
        {"tokens": np.array(["a", "b"])},
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, change):
    arrays = {
        "tokens": np.array(["a"]),
        "counts": np.array([3]),
        "boxes_lidar": np.zeros((3, 9), np.float32),
        "scores": np.zeros(3, np.float32),
        "labels": np.zeros(3, np.int64),
    }
    np.savez(tmp_path / "p.npz", **(arrays | change))
    with pytest.raises(ValueError, match="must hold arrays that fit together, got tokens"):
        load_predictions(tmp_path / "p.npz")


def test_pickles_are_refused(tmp_path):
    np.savez(tmp_path / "p.npz", tokens=np.array([{}], object), counts=np.array([0]))
    with pytest.raises(ValueError, match="must be a whole"):
        load_predictions(tmp_path / "p.npz")
