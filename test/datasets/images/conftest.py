import numpy as np
import pytest


@pytest.fixture
def picture():
    """(H, W, 3) uint8 of any size: smooth shapes, edges and noise."""

    def draw(height, width, seed=0):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:height, :width]
        waves = 128 + 100 * np.sin(x[..., None] / [7, 11, 17] + y[..., None] / [13, 5, 9])
        image = waves + rng.normal(0, 20, (height, width, 3))
        image[height // 3 : height // 2, width // 4 : width // 2] = [255, 0, 128]
        return np.clip(image, 0, 255).astype(np.uint8)

    return draw
